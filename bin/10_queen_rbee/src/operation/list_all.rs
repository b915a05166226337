//! What all hives have: each is asked at the same time, and one that does not answer is named beside it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{HiveTarget, ListAll, Listed, ModelGarbage, Operation};
use serde_json::{Map, Value, json};
use worker_contract::{HiveAlias, WorkerState};

use super::attached::add_servers;
use super::notes::ambiguous;
use super::{Operations, outcome};
use crate::hive_client::NEVER_REPORTED;
use crate::registry::{Liveness, WorkerReport};

/// How long a hive may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a hive says, or why it says nothing.
type Answer = (HiveAlias, Result<Value, JobError>);

impl Operations {
    pub(super) async fn list_all(
        &self,
        list: ListAll,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        self.registry.warmed_up(false).await;
        let hives = self.known_hives().into_iter();
        let asking = hives.map(|(hive, is_gone)| self.hear(hive, is_gone, list.of, job));
        let answers = job.cancelled().run_until_cancelled(join_all(asking)).await;
        let answers = answers.ok_or_else(JobError::cancelled)?;
        let (attached, empty) = match list.of {
            Listed::Workers => (self.attached(None), self.servers.without_models()),
            Listed::Models | Listed::Downloads => (Vec::new(), Vec::new()),
        };
        if attached.is_empty() && empty.is_empty() {
            ensure_one_is_heard(&answers)?;
        }
        let heard = answers.iter().filter(|(_, said)| said.is_ok()).map(|(hive, _)| hive.clone());
        let heard: Vec<HiveAlias> = heard.collect();
        let mut data = together(list.of, answers);
        self.tell_who_is_ready(&mut data);
        if list.of == Listed::Workers {
            for note in self.left_out_of(&data["workers"], |hive| heard.contains(hive)) {
                job.warn(note);
            }
        }
        if let Some(note) = ambiguous(&data["models"]) {
            job.warn(note);
        }
        if !attached.is_empty() {
            data["attached"] = serde_json::to_value(&attached).unwrap_or_default();
        }
        add_servers(&mut data, &empty);
        let counts = names(list.of).iter().chain(&["attached"]).filter_map(|name| {
            let count = data[name].as_array()?.len();
            Some(format!("{count} {name}"))
        });
        let message = counts.collect::<Vec<_>>().join(", ");
        Ok(outcome(message, &data))
    }

    /// Has a list of workers say of those that they are ready which have told the queen so themselves: their hives see it
    /// a moment later.
    pub(super) fn tell_who_is_ready(&self, data: &mut Value) {
        let Some(list) = data.get_mut("workers").and_then(Value::as_array_mut) else { return };
        if !list.iter().any(is_starting) {
            return;
        }
        let workers = self.registry.workers(Instant::now());
        told_as_ready(list, |id, pid| {
            let is_ready = |WorkerReport { said, .. }: &WorkerReport| {
                said.state == WorkerState::Ready
                    && *id == said.worker_id.as_str()
                    && *pid == said.pid
            };
            workers.iter().any(is_ready)
        });
    }

    /// The hives that there are, this machine's first, and whether they are gone.
    fn known_hives(&self) -> Vec<(HiveAlias, bool)> {
        let reported = self.registry.hives(Instant::now()).into_iter();
        let mut hives: Vec<_> =
            reported.map(|hive| (hive.said.hive_id, hive.liveness == Liveness::Gone)).collect();
        let further = self.inventory.names().into_iter().map(|name| (name, true));
        let localhost = HiveAlias::localhost();
        // One beside the queen can be there before its first report.
        let is_beside = self.hives.get(&localhost).is_ok();
        for (name, is_gone) in further.chain(is_beside.then(|| (localhost.clone(), false))) {
            if !hives.iter().any(|(known, _)| *known == name) {
                hives.push((name, is_gone));
            }
        }
        if hives.is_empty() {
            hives.push((localhost, true));
        }
        hives.sort_by(|(a, _), (b, _)| (!a.is_localhost(), a).cmp(&(!b.is_localhost(), b)));
        hives
    }

    async fn hear(&self, hive: HiveAlias, is_gone: bool, of: Listed, job: &JobContext) -> Answer {
        let said = match self.hives.get(&hive) {
            // Whoever is gone would be waited for in vain.
            Ok(_) if is_gone => Err(JobError::new("hive_gone", "it does not report")),
            Ok(_) => self.ask(&hive, of, job).await,
            Err(error) if error.code == NEVER_REPORTED => {
                let next = format!("rbee-keeper hive install {hive}");
                let message = format!("it was added and has not reported yet: {next}");
                Err(JobError { message, ..error })
            }
            Err(error) => Err(error),
        };
        (hive, said)
    }

    async fn ask(&self, hive: &HiveAlias, of: Listed, job: &JobContext) -> Result<Value, JobError> {
        let hive_id = hive.clone();
        let operation = match of {
            Listed::Workers => Operation::WorkerList(HiveTarget { hive_id }),
            Listed::Models => Operation::ModelList(HiveTarget { hive_id }),
            Listed::Downloads => Operation::ModelGarbage(ModelGarbage { hive_id, remove: false }),
        };
        let silent = JobContext::silent(&operation, job.caller(), job.cancelled().child_token());
        let asked = self.hives.get(hive)?.execute(operation, silent);
        let late = |_| {
            let message = format!("it gave no answer in {} s", PATIENCE.as_secs());
            JobError::new("hive_unreachable", message)
        };
        Ok(tokio::time::timeout(PATIENCE, asked).await.map_err(late)??.data)
    }
}

/// Whether a listed worker has a process that loads. Between two of them it has not.
fn is_starting(worker: &Value) -> bool {
    worker["state"] == "starting" && worker["restarts"]["waiting"] != true
}

/// `is_ready` says whether the process of a worker is.
fn told_as_ready(list: &mut [Value], is_ready: impl Fn(&Value, &Value) -> bool) {
    for worker in list.iter_mut().filter(|worker| is_starting(worker)) {
        if is_ready(&worker["worker_id"], &worker["pid"])
            && let Value::Object(fields) = worker
        {
            fields.insert("state".to_owned(), "ready".into());
            fields.remove("progress");
        }
    }
}

/// Where nobody is heard, that is no empty list.
fn ensure_one_is_heard(answers: &[Answer]) -> Result<(), JobError> {
    match answers {
        [(hive, Err(error))] if hive.is_localhost() => Err(error.clone()),
        [(hive, Err(error)), rest @ ..] if rest.iter().all(|(_, said)| said.is_err()) => {
            let message = format!("no hive answers; {hive}: {}", error.message);
            Err(JobError { message, ..error.clone() })
        }
        _ => Ok(()),
    }
}

/// The lists in what a hive says.
fn names(of: Listed) -> &'static [&'static str] {
    match of {
        Listed::Workers => &["workers"],
        Listed::Models => &["models"],
        Listed::Downloads => &["garbage", "downloads"],
    }
}

/// The lists of all hives as one of each kind, each thing with its hive's name in the queen's words.
fn together(of: Listed, answers: Vec<Answer>) -> Value {
    let mut lists: Map<String, Value> =
        names(of).iter().map(|name| ((*name).to_owned(), json!([]))).collect();
    let mut unheard = Vec::new();
    for (hive, said) in answers {
        let mut said = match said {
            Ok(said) => said,
            Err(error) => {
                unheard.push(json!({ "hive_id": hive, "reason": error.message }));
                continue;
            }
        };
        for name in names(of) {
            let items = said.get_mut(*name).map(Value::take);
            let (Some(Value::Array(mut items)), Some(Value::Array(list))) =
                (items, lists.get_mut(*name))
            else {
                continue;
            };
            for item in &mut items {
                if let Value::Object(fields) = item {
                    fields.insert("hive_id".to_owned(), hive.as_str().into());
                }
            }
            list.append(&mut items);
        }
    }
    lists.insert("unheard".to_owned(), unheard.into());
    Value::Object(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_whose_process_has_said_that_it_is_ready_does_not_start_any_more() {
        let starting = |id: &str, pid: u32| json!({ "worker_id": id, "pid": pid, "state": "starting", "progress": 0.0 });
        let mut waiting = starting("w-3", 3);
        waiting["restarts"] = json!({ "waiting": true });
        let failed = json!({ "worker_id": "w-4", "pid": 4, "state": "failed" });
        let mut list = [starting("w-1", 1), starting("w-2", 9), waiting, failed];
        let before = list.clone();
        told_as_ready(&mut list, |id, pid| *id == format!("w-{pid}"));
        assert_eq!(list[0], json!({ "worker_id": "w-1", "pid": 1, "state": "ready" }));
        assert_eq!(list[1..], before[1..], "another process, none, and one that has failed");
    }

    #[test]
    fn what_hives_have_is_one_list_and_each_thing_says_whose_it_is() {
        let hive = |name: &str| name.parse::<HiveAlias>().unwrap();
        let answers = vec![
            (hive("localhost"), Ok(json!({ "models": [{ "alias": "a" }, { "alias": "b" }] }))),
            (hive("away"), Err(JobError::new("hive_gone", "it does not report"))),
            (hive("nas"), Ok(json!({ "models": [{ "alias": "a", "hive_id": "own-name" }] }))),
            (hive("strange"), Ok(json!({ "other": 7 }))),
        ];
        assert_eq!(
            together(Listed::Models, answers),
            json!({
                "models": [
                    { "alias": "a", "hive_id": "localhost" },
                    { "alias": "b", "hive_id": "localhost" },
                    { "alias": "a", "hive_id": "nas" },
                ],
                "unheard": [{ "hive_id": "away", "reason": "it does not report" }],
            })
        );
        let away = || (hive("away"), Err(JobError::new("hive_gone", "it does not report")));
        let refused = ensure_one_is_heard(&[away(), away()]).unwrap_err();
        assert_eq!(refused.message, "no hive answers; away: it does not report");
        ensure_one_is_heard(&[away(), (hive("nas"), Ok(Value::Null))]).unwrap();
        ensure_one_is_heard(&[]).unwrap();
        let nothing = json!({ "garbage": [], "downloads": [], "unheard": [] });
        assert_eq!(together(Listed::Downloads, Vec::new()), nothing);
    }
}
