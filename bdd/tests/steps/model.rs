//! Models, whole and broken.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cucumber::{given, then, when};
use rbee_operations::{HiveTarget, ModelImport, Operation};
use serde_json::Value;
use test_cluster::{SmallDisk, demo_model, write_broken_model, write_truncated_model};
use worker_contract::HiveAlias;

use super::files::all_files;
use super::{Rbee, Step};

#[when(regex = r#"^I try to import (.+) as "([^"]+)"$"#)]
async fn try_import(world: &mut Rbee, what: String, alias: String) -> Step {
    let path = file_that_is(world, &what)?;
    let import = ModelImport {
        hive_id: HiveAlias::localhost(),
        path: path.to_string_lossy().into_owned(),
        alias: Some(alias.parse()?),
        link: false,
        projector: None,
    };
    world.run_job(&Operation::ModelImport(import)).await
}

#[given(regex = r#"^the models "([^"]+)" and "([^"]+)", of which only one fits$"#)]
async fn two_models(world: &mut Rbee, first: String, second: String) -> Step {
    import_two(world, HiveAlias::localhost(), &first, &second).await
}

#[given(regex = r#"^the models "([^"]+)" and "([^"]+)" on this machine and on "([^"]+)"$"#)]
async fn two_models_on_both(
    world: &mut Rbee,
    first: String,
    second: String,
    machine: String,
) -> Step {
    import_two(world, HiveAlias::localhost(), &first, &second).await?;
    import_two(world, machine.parse()?, &first, &second).await
}

/// Two files, so that their workers share no weights: the second has some bytes more, which nothing reads.
async fn import_two(world: &Rbee, hive_id: HiveAlias, first: &str, second: &str) -> Step {
    let demo = demo_model()?;
    let other = world.cluster()?.home().path().join("other.gguf");
    fs::copy(&demo, &other)?;
    fs::File::options().append(true).open(&other)?.write_all(&[0; 4096])?;
    for (path, alias) in [(demo, first), (other, second)] {
        let import = ModelImport {
            hive_id: hive_id.clone(),
            path: path.to_string_lossy().into_owned(),
            alias: Some(alias.parse()?),
            link: false,
            projector: None,
        };
        world.api()?.run_job(&Operation::ModelImport(import)).await?.result::<Value>()?;
    }
    Ok(())
}

#[given("the model's file was replaced by a broken one")]
fn replace_model(world: &mut Rbee) -> Step {
    let models = world.cluster()?.home().path().join("models");
    let mut found = all_files(&models)?;
    found.retain(|file| file.extension().is_some_and(|kind| kind == "gguf"));
    let [file] = found.as_slice() else { return Err(anyhow::anyhow!("files: {found:?}").into()) };
    write_broken_model(file)?;
    Ok(())
}

#[given(regex = r"^the disk for models has room for (\d+) megabytes$")]
fn small_disk(world: &mut Rbee, megabytes: u32) -> Step {
    let models = world.cluster()?.home().path().join("models");
    world.disk = Some(SmallDisk::mount(&models, megabytes)?);
    Ok(())
}

#[then(regex = r#"^the hive lists no model "([^"]+)"$"#)]
async fn lacks_model(world: &mut Rbee, alias: String) -> Step {
    let list = Operation::ModelList(HiveTarget { hive_id: HiveAlias::localhost() });
    let result: Value = world.api()?.run_job(&list).await?.result()?;
    let models = result["models"].as_array().context("the result is no list of models")?;
    ensure!(!models.iter().any(|model| model["alias"] == alias.as_str()), "it does: {result}");
    Ok(())
}

#[then("the disk for models is empty again")]
fn disk_is_empty(world: &mut Rbee) -> Step {
    let left = all_files(&world.cluster()?.home().path().join("models"))?;
    let large = |file: &&PathBuf| fs::metadata(file).is_ok_and(|data| data.len() > 64 * 1024);
    let large: Vec<_> = left.iter().filter(large).collect();
    ensure!(large.is_empty(), "left behind: {large:?}");
    Ok(())
}

fn file_that_is(world: &Rbee, what: &str) -> Result<PathBuf> {
    let home = world.cluster()?.home().path();
    let file = home.join("import.gguf");
    match what {
        "the demo model" => return demo_model(),
        "a broken GGUF" => write_broken_model(&file)?,
        "a truncated GGUF" => write_truncated_model(&file)?,
        "an empty file" => fs::write(&file, [])?,
        "a folder" => fs::create_dir(&file)?,
        "a missing file" => {}
        other => bail!("no file is {other}"),
    }
    Ok(file)
}
