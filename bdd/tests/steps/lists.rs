//! Lists that the API gives.

use anyhow::{Context, Result};
use cucumber::then;
use serde_json::Value;

use super::{Rbee, Step};

#[then(regex = r#"^the list holds the model "([^"]+)"$"#)]
fn holds_model(world: &mut Rbee, model: String) -> Step {
    let list = world.answer()?.json()?;
    ensure!(list["object"] == "list", "it is no list: {list}");
    let found = find(&items(&list)?, "id", &model)?;
    ensure!(found["object"] == "model", "the entry is {found}");
    Ok(())
}

#[then("the list holds that job")]
fn holds_job(world: &mut Rbee) -> Step {
    let list = world.answer()?.json()?;
    let found = find(&items(&list)?, "job_id", world.job()?.as_str())?;
    ensure!(found["state"] == "succeeded", "the entry is {found}");
    Ok(())
}

#[then(regex = r#"^the build (has|lacks) the feature "([^"]+)"$"#)]
fn build_feature(world: &mut Rbee, has: String, feature: String) -> Step {
    let info = world.answer()?.json()?;
    let features = info["features"].as_array().context("the build lists no features")?;
    let found = features.iter().any(|named| *named == feature.as_str());
    ensure!(found == (has == "has"), "the build is {info}");
    ensure!(info["version"].is_string(), "the build has no version: {info}");
    Ok(())
}

/// The items of a list: the answer itself, or its one array.
pub(super) fn items(list: &Value) -> Result<Value> {
    let own = list.is_array().then_some(list);
    let inner = || list.as_object()?.values().find(|value| value.is_array());
    own.or_else(inner).cloned().with_context(|| format!("no list in {list}"))
}

fn find(items: &Value, key: &str, wanted: &str) -> Result<Value> {
    let mut all = items.as_array().into_iter().flatten();
    let found = all.find(|item| item[key] == wanted).cloned();
    found.with_context(|| format!("{wanted} is not among {items}"))
}
