//! What hives have, of one hive or of all: workers, models, downloads.

use rbee_operations::{
    AttachedServer, AttachedWorker, HiveTarget, ListAll, Listed, ModelGarbage, ModelRef, Operation,
};
use serde::Deserialize;
use serde_json::Value;
use worker_contract::{HiveAlias, ModelEntry, SupervisedWorker};

use super::{data, now, read, run};
use crate::cli::OfHive;
use crate::failure::Failure;
use crate::render::table;
use crate::session::Session;
use crate::view::{Garbage, RunningDownload, Unheard};

/// Something of a hive.
#[derive(Debug, Deserialize)]
struct Owned<T> {
    #[serde(default)]
    hive_id: String,
    #[serde(flatten)]
    what: T,
}

pub(super) async fn workers(session: &Session, of: OfHive) -> Result<(), Failure> {
    let mut found = found(session, of, Listed::Workers).await?;
    let (own, attached) = (taken(&mut found, "workers"), taken(&mut found, "attached"));
    let empty: Vec<AttachedServer> = read(&taken(&mut found, "attached_servers").into())?;
    if session.output.is_json() {
        for server in &empty {
            session.output.incomplete(&table::empty_server(server));
        }
    }
    let is_told = tell_unheard(session, &found)?;
    let all: Value = own.iter().chain(&attached).cloned().collect();
    session
        .output
        .result(&all, |style| {
            let own: Vec<SupervisedWorker> = read(&own.into())?;
            let attached: Vec<AttachedWorker> = read(&attached.into())?;
            let is_one_elsewhere = own.iter().any(|worker| !worker.hive_id.is_localhost());
            let with_hives = is_told || is_one_elsewhere;
            let tables = [
                (!own.is_empty()).then(|| table::workers(&own, with_hives, now(), style)),
                (!attached.is_empty()).then(|| table::attached(&attached, style)),
            ];
            let tables: Vec<String> = tables.into_iter().flatten().collect();
            let mut text = if tables.is_empty() {
                "no workers: start one with `rbee-keeper worker spawn --model MODEL`\n".to_owned()
            } else {
                tables.join("\n")
            };
            text.extend(empty.iter().map(|server| format!("{}\n", table::empty_server(server))));
            Ok(text)
        })
        .await
}

pub(super) async fn models(session: &Session, of: OfHive) -> Result<(), Failure> {
    let mut found = found(session, of, Listed::Models).await?;
    let models = Value::Array(taken(&mut found, "models"));
    let is_told = tell_unheard(session, &found)?;
    session
        .output
        .result(&models, |style| {
            let owned: Vec<Owned<ModelEntry>> = read(&models)?;
            if owned.is_empty() {
                return Ok("no models: add one with `rbee-keeper model download REFERENCE` or \
                           `rbee-keeper model import FILE`\n"
                    .to_owned());
            }
            let (mut hives, mut models) = (Vec::new(), Vec::new());
            for Owned { hive_id, what } in owned {
                hives.push(hive_id);
                models.push(what);
            }
            let with_hives = is_told || hives.iter().any(|hive| !is_here(hive));
            let hives = with_hives.then_some(hives.as_slice());
            Ok(table::models(&models, hives, now(), style))
        })
        .await
}

/// Downloads that run, and what unfinished ones have left.
pub(super) async fn downloads(session: &Session, of: OfHive) -> Result<(), Failure> {
    let mut found = found(session, of, Listed::Downloads).await?;
    let (left, running) = (taken(&mut found, "garbage"), taken(&mut found, "downloads"));
    let is_told = tell_unheard(session, &found)?;
    let all: Value = running.iter().chain(&left).cloned().collect();
    session
        .output
        .result(&all, |style| {
            let running: Vec<RunningDownload> = read(&running.into())?;
            let left: Vec<Garbage> = read(&left.into())?;
            let mut hives = running.iter().map(|running| &running.hive_id);
            let with_hives = is_told
                || hives.any(|hive| !is_here(hive))
                || left.iter().any(|left| !is_here(&left.hive_id));
            Ok(if running.is_empty() && left.is_empty() {
                "no unfinished downloads\n".to_owned()
            } else {
                table::downloads(&running, &left, with_hives, now(), style)
            })
        })
        .await
}

/// The hive that downloads something.
pub(super) async fn who_downloads(
    session: &Session,
    reference: &ModelRef,
) -> Result<HiveAlias, Failure> {
    let mut found = found(session, OfHive { hive: None }, Listed::Downloads).await?;
    let running: Vec<RunningDownload> = read(&taken(&mut found, "downloads").into())?;
    let reference = reference.without_secrets();
    let of_it = running.iter().filter(|running| running.reference == reference);
    let mut hives: Vec<&str> = of_it.map(|running| running.hive_id.as_str()).collect();
    hives.sort_unstable();
    hives.dedup();
    match hives.as_slice() {
        [] => {
            for unheard in unheard(&found)? {
                session.output.note(&left_out(&unheard));
            }
            Err(Failure::local(format!("no hive downloads {reference}"))
                .with_hint("`rbee-keeper model list --partial` shows what is being downloaded"))
        }
        [only] => only.parse().map_err(|error| Failure::Protocol(format!("{error}"))),
        several => Err(Failure::usage(format!("{} download {reference}", several.join(" and ")))
            .with_hint("say which: --hive ALIAS")),
    }
}

/// What a hive has, or what all have.
async fn found(session: &Session, of: OfHive, what: Listed) -> Result<Value, Failure> {
    let operation = match (of.hive, what) {
        (None, of) => Operation::ListAll(ListAll { of }),
        (Some(hive_id), Listed::Workers) => Operation::WorkerList(HiveTarget { hive_id }),
        (Some(hive_id), Listed::Models) => Operation::ModelList(HiveTarget { hive_id }),
        (Some(hive_id), Listed::Downloads) => {
            Operation::ModelGarbage(ModelGarbage { hive_id, remove: false })
        }
    };
    Ok(data(run(session, operation).await?))
}

/// One of the lists that were found; empty where there is none of it.
fn taken(found: &mut Value, field: &str) -> Vec<Value> {
    match found.get_mut(field).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// Tells which hives were not heard; whether there was one.
fn tell_unheard(session: &Session, found: &Value) -> Result<bool, Failure> {
    let unheard = unheard(found)?;
    for hive in &unheard {
        session.output.incomplete(&left_out(hive));
    }
    Ok(!unheard.is_empty())
}

fn left_out(Unheard { hive_id, reason }: &Unheard) -> String {
    format!("hive {hive_id} is left out: {reason}")
}

/// The hives that were not heard.
fn unheard(found: &Value) -> Result<Vec<Unheard>, Failure> {
    found.get("unheard").map_or_else(|| Ok(Vec::new()), read)
}

fn is_here(hive: &str) -> bool {
    hive.is_empty() || hive == HiveAlias::localhost().as_str()
}
