//! Which hive a command is about where nobody said so: the queen knows who has what.

use rbee_operations::{ModelTarget, WorkerTarget};
use worker_contract::{HiveAlias, ModelAlias, Sha256Digest};

use super::read;
use crate::cli::{ModelArg, WorkerArg};
use crate::failure::Failure;
use crate::queen_client::Queen;
use crate::session::Session;
use crate::view::{Hive, Status, Worker};

/// A hive that has a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) hive: HiveAlias,
    pub(super) sha256: Sha256Digest,
    /// Whether it does not report.
    is_gone: bool,
}

/// The worker, on the hive that has it where nobody said which. Where none has it, this machine's hive
/// says so.
pub(super) async fn worker(session: &Session, worker: WorkerArg) -> Result<WorkerTarget, Failure> {
    let WorkerArg { worker_id, hive } = worker;
    if let Some(hive_id) = hive {
        return Ok(WorkerTarget { hive_id, worker_id });
    }
    let status = status(&session.queen().await?).await?;
    let id = worker_id.as_str();
    let is_of_server = |known: &&Worker| known.worker_id == id && known.server.is_some();
    if let Some(attached) = status.workers.iter().find(is_of_server) {
        // The queen answers for the models of attached servers.
        let hive_id = attached.hive_id.parse();
        let hive_id = hive_id.map_err(|error| Failure::Protocol(format!("{error}")))?;
        return Ok(WorkerTarget { hive_id, worker_id });
    }
    let has_it = |hive: &&Hive| hive.workers.iter().any(|worker| worker.worker_id == worker_id);
    let hive_id = match status.hives.iter().find(has_it) {
        Some(hive) => alias(hive)?,
        None => HiveAlias::localhost(),
    };
    Ok(WorkerTarget { hive_id, worker_id })
}

/// The model, on the only hive that has it where nobody said which.
pub(super) async fn model(session: &Session, model: ModelArg) -> Result<ModelTarget, Failure> {
    let ModelArg { model, hive } = model;
    if let Some(hive_id) = hive {
        return Ok(ModelTarget { hive_id, model });
    }
    let status = status(&session.queen().await?).await?;
    Ok(ModelTarget { hive_id: the_only(&status, &model)?, model })
}

/// The hives that have a model, or the one that somebody named; this machine's first.
pub(super) async fn owners(
    session: &Session,
    model: &ModelArg,
) -> Result<Vec<ModelTarget>, Failure> {
    let target = |hive_id| ModelTarget { hive_id, model: model.model.clone() };
    if let Some(hive) = &model.hive {
        return Ok(vec![target(hive.clone())]);
    }
    let status = status(&session.queen().await?).await?;
    for away in owners_in(&status, &model.model)?.iter().filter(|owner| owner.is_gone) {
        session.output.note(&format!("hive {} is left out: it does not report", away.hive));
    }
    let owners = heard_owners(&status, &model.model)?;
    Ok(owners.into_iter().map(|owner| target(owner.hive)).collect())
}

/// The hive that shows a model: this machine's, if that has it, else the first. What the others have is told.
pub(super) async fn shown(session: &Session, model: ModelArg) -> Result<ModelTarget, Failure> {
    let ModelArg { model, hive } = model;
    if let Some(hive_id) = hive {
        return Ok(ModelTarget { hive_id, model });
    }
    let status = status(&session.queen().await?).await?;
    let owners = heard_owners(&status, &model)?;
    let Some((first, others)) = owners.split_first() else {
        return Ok(ModelTarget { hive_id: HiveAlias::localhost(), model });
    };
    for other in others {
        let (hive, shown) = (&other.hive, &first.hive);
        session.output.note(&if other.sha256 == first.sha256 {
            format!("{hive} has the same file; this is that of {shown}")
        } else {
            format!("{hive} has another file of this name, --hive {hive} shows it; this is that of {shown}")
        });
    }
    Ok(ModelTarget { hive_id: first.hive.clone(), model })
}

/// Where a worker for a model is started: on this machine, unless only another one has the model.
pub(super) async fn of_worker(
    session: &Session,
    queen: &Queen,
    model: &ModelAlias,
) -> Result<HiveAlias, Failure> {
    let owners = owners_in(&status(queen).await?, model)?;
    let heard: Vec<&Owner> = owners.iter().filter(|owner| !owner.is_gone).collect();
    match heard.as_slice() {
        // This machine's hive says which models it has.
        [] => Ok(HiveAlias::localhost()),
        [first, ..] if first.hive.is_localhost() => Ok(HiveAlias::localhost()),
        [only] => {
            session.output.note(&format!("{} has {model}: the worker is started there", only.hive));
            Ok(only.hive.clone())
        }
        several => Err(ambiguous(model, several)),
    }
}

/// The only hive that has a model. One that does not report may have another file of that name: nothing is
/// changed elsewhere because of that.
fn the_only(status: &Status, model: &ModelAlias) -> Result<HiveAlias, Failure> {
    let owners = owners_in(status, model)?;
    let is_here = |hive: &Hive| {
        hive.hive_id == HiveAlias::localhost().as_str() && hive.liveness.as_deref() != Some("gone")
    };
    match owners.as_slice() {
        [only] if !only.is_gone && only.hive.is_localhost() => Ok(only.hive.clone()),
        [only] if !only.is_gone && status.hives.iter().any(is_here) => Ok(only.hive.clone()),
        [only] if !only.is_gone => {
            let hive = &only.hive;
            Err(Failure::usage(format!(
                "{model} is on {hive}, and this machine's hive does not report"
            ))
            .with_hint(format!("if it is that of {hive}: --hive {hive}")))
        }
        [] | [_] => heard_owners(status, model).map(|_| HiveAlias::localhost()),
        several => Err(ambiguous(model, &several.iter().collect::<Vec<_>>())),
    }
}

/// The hives that have a model and report. Empty where this machine's hive is the only one, which says itself
/// what it has not.
fn heard_owners(status: &Status, model: &ModelAlias) -> Result<Vec<Owner>, Failure> {
    let owners = owners_in(status, model)?;
    let heard: Vec<Owner> = owners.iter().filter(|owner| !owner.is_gone).cloned().collect();
    if !heard.is_empty() {
        return Ok(heard);
    }
    if let Some(Owner { hive, .. }) = owners.first() {
        return Err(Failure::local(format!("{model} is on {hive}, which does not report"))
            .with_hint(format!("`rbee-keeper hive status {hive}` tells what is known of it")));
    }
    let reported = status.hives.iter().filter(|hive| !hive.has_never_reported());
    let hives: Vec<&str> = reported.map(|hive| hive.hive_id.as_str()).collect();
    if hives.iter().all(|hive| *hive == HiveAlias::localhost().as_str()) {
        return Ok(Vec::new());
    }
    let hives = hives.join(", ");
    Err(Failure::local(format!("no hive has a model {model}; there is {hives}"))
        .with_hint("`rbee-keeper model list` shows what they have"))
}

/// The hives that have a model, this machine's first.
fn owners_in(status: &Status, model: &ModelAlias) -> Result<Vec<Owner>, Failure> {
    let mut owners = Vec::new();
    for hive in &status.hives {
        let Some(entry) = hive.catalog.iter().find(|entry| entry.alias == *model) else { continue };
        let is_gone = hive.liveness.as_deref() == Some("gone");
        owners.push(Owner { hive: alias(hive)?, sha256: entry.sha256.clone(), is_gone });
    }
    owners.sort_by_key(|owner| (!owner.hive.is_localhost(), owner.hive.clone()));
    Ok(owners)
}

fn ambiguous(model: &ModelAlias, owners: &[&Owner]) -> Failure {
    let names: Vec<&str> = owners.iter().map(|owner| owner.hive.as_str()).collect();
    let each = names.iter().map(|name| format!("--hive {name}")).collect::<Vec<_>>().join(", or ");
    Failure::usage(format!("{model} is on {}", names.join(" and ")))
        .with_hint(format!("say which: {each}"))
}

async fn status(queen: &Queen) -> Result<Status, Failure> {
    read(&queen.get("/v1/status").await?)
}

fn alias(hive: &Hive) -> Result<HiveAlias, Failure> {
    hive.hive_id.parse().map_err(|error| Failure::Protocol(format!("{error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_model_is_found_on_the_only_hive_that_has_it_and_asked_for_where_several_have_it() {
        let house = house(&[
            ("nas", "alive", &["both", "far", "spare"]),
            ("localhost", "alive", &["both", "near"]),
            ("attic", "gone", &["lost", "spare"]),
        ]);
        let found = |model: &str| the_only(&house, &model.parse().unwrap());
        assert_eq!(found("near").unwrap().as_str(), "localhost");
        assert_eq!(found("far").unwrap().as_str(), "nas");
        let one_is_away = found("spare").unwrap_err();
        assert_eq!(one_is_away.to_string(), "spare is on attic and nas");
        let several = found("both").unwrap_err();
        assert_eq!(
            (several.exit_code(), several.to_string()),
            (2, "both is on localhost and nas".into())
        );
        assert_eq!(several.hint().unwrap(), "say which: --hive localhost, or --hive nas");
        let away = found("lost").unwrap_err();
        assert_eq!(away.to_string(), "lost is on attic, which does not report");
        let none = found("none").unwrap_err();
        assert_eq!(none.to_string(), "no hive has a model none; there is nas, localhost, attic");
    }

    #[test]
    fn a_hive_that_has_never_reported_is_none_that_has_not_the_model() {
        let house = house(&[("localhost", "alive", &["near"]), ("g2", "gone", &[])]);
        assert!(the_only(&house, &"none".parse().unwrap()).unwrap().is_localhost());
    }

    #[test]
    fn a_hive_that_is_alone_says_itself_what_it_has_not() {
        let alone = house(&[("localhost", "alive", &["near"])]);
        assert!(the_only(&alone, &"none".parse().unwrap()).unwrap().is_localhost());
        assert!(the_only(&house(&[]), &"none".parse().unwrap()).unwrap().is_localhost());
    }

    #[test]
    fn nothing_is_changed_elsewhere_because_this_machine_does_not_report() {
        for house in [
            house(&[("nas", "alive", &["far"]), ("localhost", "gone", &[])]),
            house(&[("nas", "alive", &["far"])]),
        ] {
            let refused = the_only(&house, &"far".parse().unwrap()).unwrap_err();
            assert_eq!(refused.exit_code(), 2);
            assert_eq!(refused.hint().unwrap(), "if it is that of nas: --hive nas");
        }
    }

    fn house(hives: &[(&str, &str, &[&str])]) -> Status {
        let entry = |alias: &&str| {
            json!({
                "alias": alias, "sha256": "b".repeat(64), "source": "", "added_at": 0,
                "architecture": "llama", "quantization": "Q4_1", "parameters": 1,
                "context_length": 1, "has_chat_template": true, "size_bytes": 1,
            })
        };
        let hive = |(name, liveness, models): &(&str, &str, &[&str])| {
            let catalog: Vec<_> = models.iter().map(entry).collect();
            json!({ "hive_id": name, "liveness": liveness, "catalog": catalog })
        };
        read(&json!({ "hives": hives.iter().map(hive).collect::<Vec<_>>() })).unwrap()
    }
}
