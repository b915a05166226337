//! The operations.

use serde::{Deserialize, Serialize};
use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sampling, WorkerId};

use crate::model::{
    FileOffer, ModelCopy, ModelDownload, ModelDownloadCancel, ModelFetch, ModelGarbage,
    ModelImport, ModelImportStore, ModelName, ModelPin, ModelProjectorSet, ModelUpdate,
    ProjectorOffer,
};
use crate::{
    HiveAdd, HiveDiscover, HiveInstall, HiveLogs, HiveUninstall, ModelPolicySet, ModelRef,
    ProjectorChoice, WorkerAttach, WorkerDetach, WorkerFit,
};

/// One thing that a job does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Operation {
    /// Lists the hives that the queen knows.
    HiveList {},
    /// Starts a hive.
    HiveStart(HiveTarget),
    /// Stops a hive and its workers.
    HiveStop(HiveTarget),
    /// Stops a hive and starts it again; its workers end.
    HiveRestart(HiveTarget),
    /// Shows one hive: devices, models, workers.
    HiveStatus(HiveTarget),
    /// Asks a hive for its devices, models and workers at once.
    HiveRefresh(HiveTarget),
    /// Makes a hive of another machine known to the queen.
    HiveAdd(HiveAdd),
    /// Forgets a hive that was added.
    HiveRemove(HiveTarget),
    /// Puts a hive and its worker on another machine over SSH, or brings them up to date.
    HiveInstall(HiveInstall),
    /// Takes a hive off another machine.
    HiveUninstall(HiveUninstall),
    /// Shows the end of a hive's log.
    HiveLogs(HiveLogs),
    /// Looks for hives that announce themselves on the network.
    HiveDiscover(HiveDiscover),
    /// Lists the hosts of the queen's `~/.ssh/config`, which could be added.
    HiveSshHosts {},
    /// Lists what all hives have.
    ListAll(ListAll),
    /// Starts a worker for a model.
    WorkerSpawn(WorkerSpawn),
    /// Says whether a worker for a model would fit, and what it would take.
    WorkerFit(WorkerFit),
    /// Lists the workers of a hive.
    WorkerList(HiveTarget),
    /// Shows one worker.
    WorkerGet(WorkerTarget),
    /// Stops a worker and forgets it.
    WorkerDelete(WorkerTarget),
    /// Fetches a model into a hive's catalog.
    ModelDownload(ModelDownload),
    /// Ends a download, whoever began it; what arrived is kept.
    ModelDownloadCancel(ModelDownloadCancel),
    /// Starts a worker again, under its id, be it running or given up.
    WorkerRestart(WorkerTarget),
    /// Tells a hive which ends of a worker's processes are not the worker's fault.
    WorkerExcuse(WorkerExcuse),
    /// Shows what a worker's engine has written, as the job's events.
    WorkerLogs(WorkerLogs),
    /// Makes the models of somebody else's server workers of the pool.
    WorkerAttach(WorkerAttach),
    /// Forgets a server that was attached.
    WorkerDetach(WorkerDetach),
    /// Copies a model from one hive to another, straight between the two.
    ModelCopy(ModelCopy),
    /// Fetches a model from another hive: what a queen makes of a copy.
    ModelFetch(ModelFetch),
    /// Adds a GGUF file, or a folder of them, to a hive's catalog.
    ModelImport(ModelImport),
    /// Adds the models of another program to a hive's catalog.
    ModelImportStore(ModelImportStore),
    /// Lists the models of a hive.
    ModelList(HiveTarget),
    /// Shows one model.
    ModelGet(ModelTarget),
    /// Removes a model from a hive's catalog and disk.
    ModelDelete(ModelTarget),
    /// Computes a model's SHA-256 again and compares it with the pinned one.
    ModelVerify(ModelTarget),
    /// Looks whether a model's source has another file, and takes it if the operator agreed.
    ModelUpdate(ModelUpdate),
    /// Pins a model to the file that lies on the disk.
    ModelPin(ModelPin),
    /// Says what a model sees images with.
    ModelProjectorSet(ModelProjectorSet),
    /// Gives a model a further name.
    ModelAlias(ModelName),
    /// Lists or removes what is left of unfinished downloads.
    ModelGarbage(ModelGarbage),
    /// Says how many workers a model has, where, and for how long.
    ModelPolicySet(ModelPolicySet),
    /// Shows the policies of all models that have one.
    ModelPolicyList {},
    /// Runs a prompt and gives the answer as the job's events.
    Infer(Box<Infer>),
}

/// A hive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiveTarget {
    /// Which one; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
}

/// What all hives have of something. One that does not answer is named beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAll {
    /// Of what.
    pub of: Listed,
}

/// What hives have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listed {
    /// Their workers, and those of attached servers.
    Workers,
    /// The models of their catalogs.
    Models,
    /// Downloads that run, and what unfinished ones have left.
    Downloads,
}

/// What a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSpawn {
    /// On which hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// Which model of that hive's catalog.
    pub model: ModelAlias,
    /// On which device; by default the hive's first GPU, else `CPU-0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// How many requests run at once; the hive's setting if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// KV cache size in tokens, for all slots together; the hive's setting if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx_size: Option<u32>,
}

/// A worker of a hive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerTarget {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The worker.
    pub worker_id: WorkerId,
}

/// Processes of a worker that requests have ended, as the queen has found: the hive does not count them towards
/// giving the worker up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerExcuse {
    /// The worker's hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The worker.
    pub worker_id: WorkerId,
    /// Their process ids. To name one twice, or one that goes on, does no harm.
    pub processes: Vec<u32>,
}

/// A part of a worker's log. Each event `log` of the job has some of its lines as its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerLogs {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The worker.
    pub worker_id: WorkerId,
    /// How many of the last lines, up to 10,000; 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Whether to go on with those that are written from now on, until the job is cancelled or the
    /// worker is gone.
    #[serde(default)]
    pub follow: bool,
}

/// A model of a hive's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTarget {
    /// Its hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// The model.
    pub model: ModelAlias,
}

/// One prompt, answered as the job's events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infer {
    /// Which model.
    pub model: ModelAlias,
    /// The user's message. A model without a chat template continues it as plain text.
    pub prompt: String,
    /// Instructions that stand above the user's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How tokens are chosen, and when to end.
    #[serde(default)]
    pub sampling: Sampling,
}

impl Operation {
    /// The stable machine name: `worker_spawn`, `infer`, … It is also the `event` of its job's events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::HiveList {} => "hive_list",
            Self::HiveStart(_) => "hive_start",
            Self::HiveStop(_) => "hive_stop",
            Self::HiveRestart(_) => "hive_restart",
            Self::HiveStatus(_) => "hive_status",
            Self::HiveRefresh(_) => "hive_refresh",
            Self::HiveAdd(_) => "hive_add",
            Self::HiveRemove(_) => "hive_remove",
            Self::HiveInstall(_) => "hive_install",
            Self::HiveUninstall(_) => "hive_uninstall",
            Self::HiveLogs(_) => "hive_logs",
            Self::HiveDiscover(_) => "hive_discover",
            Self::HiveSshHosts {} => "hive_ssh_hosts",
            Self::ListAll(_) => "list_all",
            Self::WorkerSpawn(_) => "worker_spawn",
            Self::WorkerFit(_) => "worker_fit",
            Self::WorkerList(_) => "worker_list",
            Self::WorkerGet(_) => "worker_get",
            Self::WorkerDelete(_) => "worker_delete",
            Self::ModelDownload(_) => "model_download",
            Self::ModelDownloadCancel(_) => "model_download_cancel",
            Self::WorkerRestart(_) => "worker_restart",
            Self::WorkerExcuse(_) => "worker_excuse",
            Self::WorkerLogs(_) => "worker_logs",
            Self::WorkerAttach(_) => "worker_attach",
            Self::WorkerDetach(_) => "worker_detach",
            Self::ModelCopy(_) => "model_copy",
            Self::ModelFetch(_) => "model_fetch",
            Self::ModelImport(_) => "model_import",
            Self::ModelImportStore(_) => "model_import_store",
            Self::ModelList(_) => "model_list",
            Self::ModelGet(_) => "model_get",
            Self::ModelDelete(_) => "model_delete",
            Self::ModelVerify(_) => "model_verify",
            Self::ModelUpdate(_) => "model_update",
            Self::ModelPin(_) => "model_pin",
            Self::ModelProjectorSet(_) => "model_projector_set",
            Self::ModelAlias(_) => "model_alias",
            Self::ModelGarbage(_) => "model_garbage",
            Self::ModelPolicySet(_) => "model_policy_set",
            Self::ModelPolicyList {} => "model_policy_list",
            Self::Infer(_) => "infer",
        }
    }

    /// Whether the hive that owns the worker or the model carries the operation out.
    #[must_use]
    pub fn should_forward_to_hive(&self) -> bool {
        match self {
            Self::WorkerSpawn(_)
            | Self::WorkerFit(_)
            | Self::WorkerList(_)
            | Self::WorkerGet(_)
            | Self::WorkerDelete(_)
            | Self::ModelDownload(_)
            | Self::ModelDownloadCancel(_)
            | Self::WorkerRestart(_)
            | Self::WorkerExcuse(_)
            | Self::WorkerLogs(_)
            | Self::ModelFetch(_)
            | Self::ModelImport(_)
            | Self::ModelImportStore(_)
            | Self::ModelList(_)
            | Self::ModelGet(_)
            | Self::ModelDelete(_)
            | Self::ModelVerify(_)
            | Self::ModelUpdate(_)
            | Self::ModelPin(_)
            | Self::ModelProjectorSet(_)
            | Self::ModelAlias(_)
            | Self::ModelGarbage(_) => true,
            Self::HiveList {}
            | Self::HiveStart(_)
            | Self::HiveStop(_)
            | Self::HiveRestart(_)
            | Self::HiveStatus(_)
            | Self::HiveRefresh(_)
            | Self::HiveAdd(_)
            | Self::HiveRemove(_)
            | Self::HiveInstall(_)
            | Self::HiveUninstall(_)
            | Self::HiveLogs(_)
            | Self::HiveDiscover(_)
            | Self::HiveSshHosts {}
            | Self::ListAll(_)
            | Self::WorkerAttach(_)
            | Self::WorkerDetach(_)
            | Self::ModelCopy(_)
            | Self::ModelPolicySet(_)
            | Self::ModelPolicyList {}
            | Self::Infer(_) => false,
        }
    }

    /// Whether it changes nothing: it shows what there is.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::HiveList {}
            | Self::HiveStatus(_)
            | Self::HiveLogs(_)
            | Self::HiveDiscover(_)
            | Self::HiveSshHosts {}
            | Self::ListAll(_)
            | Self::WorkerFit(_)
            | Self::WorkerList(_)
            | Self::WorkerGet(_)
            | Self::WorkerLogs(_)
            | Self::ModelList(_)
            | Self::ModelGet(_)
            | Self::ModelPolicyList {} => true,
            Self::ModelGarbage(garbage) => !garbage.remove,
            Self::HiveStart(_)
            | Self::HiveStop(_)
            | Self::HiveRestart(_)
            | Self::HiveRefresh(_)
            | Self::HiveAdd(_)
            | Self::HiveRemove(_)
            | Self::HiveInstall(_)
            | Self::HiveUninstall(_)
            | Self::WorkerSpawn(_)
            | Self::WorkerDelete(_)
            | Self::ModelDownload(_)
            | Self::ModelDownloadCancel(_)
            | Self::WorkerRestart(_)
            | Self::WorkerExcuse(_)
            | Self::WorkerAttach(_)
            | Self::WorkerDetach(_)
            | Self::ModelCopy(_)
            | Self::ModelFetch(_)
            | Self::ModelImport(_)
            | Self::ModelImportStore(_)
            | Self::ModelDelete(_)
            | Self::ModelVerify(_)
            | Self::ModelUpdate(_)
            | Self::ModelPin(_)
            | Self::ModelProjectorSet(_)
            | Self::ModelAlias(_)
            | Self::ModelPolicySet(_)
            | Self::Infer(_) => false,
        }
    }

    /// The hive that the operation concerns.
    #[must_use]
    pub fn hive_id(&self) -> Option<&HiveAlias> {
        match self {
            Self::HiveStart(t)
            | Self::HiveStop(t)
            | Self::HiveRestart(t)
            | Self::HiveStatus(t)
            | Self::HiveRefresh(t)
            | Self::HiveRemove(t)
            | Self::WorkerList(t)
            | Self::ModelList(t) => Some(&t.hive_id),
            Self::WorkerSpawn(s) => Some(&s.hive_id),
            Self::WorkerFit(f) => Some(&f.start.hive_id),
            Self::ModelDownload(d) => Some(&d.hive_id),
            Self::ModelDownloadCancel(c) => Some(&c.hive_id),
            Self::WorkerGet(t) | Self::WorkerDelete(t) | Self::WorkerRestart(t) => Some(&t.hive_id),
            Self::WorkerExcuse(e) => Some(&e.hive_id),
            Self::WorkerLogs(l) => Some(&l.hive_id),
            Self::ModelCopy(c) => Some(&c.hive_id),
            Self::ModelFetch(f) => Some(&f.hive_id),
            Self::ModelImport(i) => Some(&i.hive_id),
            Self::ModelImportStore(i) => Some(&i.hive_id),
            Self::ModelUpdate(u) => Some(&u.hive_id),
            Self::ModelPin(p) => Some(&p.hive_id),
            Self::ModelProjectorSet(p) => Some(&p.hive_id),
            Self::ModelAlias(a) => Some(&a.hive_id),
            Self::ModelGarbage(g) => Some(&g.hive_id),
            Self::ModelGet(t) | Self::ModelDelete(t) | Self::ModelVerify(t) => Some(&t.hive_id),
            Self::HiveAdd(a) => Some(&a.hive_id),
            Self::HiveInstall(i) => Some(&i.hive_id),
            Self::HiveUninstall(u) => Some(&u.hive_id),
            Self::HiveLogs(l) => Some(&l.hive_id),
            Self::WorkerDetach(d) => Some(&d.name),
            Self::WorkerAttach(a) => a.name.as_ref(),
            Self::HiveList {}
            | Self::HiveDiscover(_)
            | Self::HiveSshHosts {}
            | Self::ListAll(_)
            | Self::ModelPolicySet(_)
            | Self::ModelPolicyList {}
            | Self::Infer(_) => None,
        }
    }

    /// A copy without what is private: a prompt or a secret is not kept in lists, logs or the job store.
    #[must_use]
    pub fn redacted(&self) -> Self {
        match self {
            Self::Infer(infer) => {
                let sampling = Sampling {
                    stop: Vec::new(),
                    dry_sequence_breakers: None,
                    logit_bias: Vec::new(),
                    ..infer.sampling.clone()
                };
                let model = infer.model.clone();
                let prompt = String::new();
                Self::Infer(Box::new(Infer { model, prompt, system: None, sampling }))
            }
            Self::HiveAdd(add) => Self::HiveAdd(HiveAdd { secret: None, ..add.clone() }),
            Self::WorkerAttach(attach) => {
                let url = attach.shown_url();
                Self::WorkerAttach(WorkerAttach { url, token: None, ..attach.clone() })
            }
            Self::ModelFetch(fetch) => {
                let closed = |file: &FileOffer| FileOffer { ticket: None, ..file.clone() };
                let files = fetch.files.iter().map(closed).collect();
                let projector = fetch.projector.as_ref().map(|projector| {
                    let (source, file) = (projector.source.clone(), closed(&projector.file));
                    ProjectorOffer { source, file }
                });
                Self::ModelFetch(ModelFetch { files, projector, ..fetch.clone() })
            }
            Self::ModelDownload(download) => {
                let reference = shown(&download.reference);
                let projector = shown_choice(&download.projector);
                Self::ModelDownload(ModelDownload { reference, projector, ..download.clone() })
            }
            Self::ModelDownloadCancel(cancel) => {
                let reference = shown(&cancel.reference);
                Self::ModelDownloadCancel(ModelDownloadCancel { reference, ..cancel.clone() })
            }
            Self::ModelProjectorSet(set) => {
                let projector = shown_choice(&set.projector);
                Self::ModelProjectorSet(ModelProjectorSet { projector, ..set.clone() })
            }
            other => other.clone(),
        }
    }
}

fn shown(reference: &ModelRef) -> ModelRef {
    reference.without_secrets().parse().unwrap_or_else(|_| reference.clone())
}

fn shown_choice(choice: &ProjectorChoice) -> ProjectorChoice {
    match choice {
        ProjectorChoice::From(reference) => ProjectorChoice::From(shown(reference)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Operation, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn the_operation_of_the_design_is_understood() {
        let op = parse(
            r#"{"WorkerSpawn":{"hive_id":"localhost","model":"smollm2-135m","device":"GPU-0"}}"#,
        )
        .unwrap();
        assert_eq!(op.name(), "worker_spawn");
        assert!(op.should_forward_to_hive());
        assert_eq!(op.hive_id().map(HiveAlias::as_str), Some("localhost"));
    }

    #[test]
    fn a_hive_left_out_is_localhost() {
        let op = parse(r#"{"ModelList":{}}"#).unwrap();
        assert_eq!(op.hive_id(), Some(&HiveAlias::localhost()));
    }

    #[test]
    fn an_unknown_operation_or_field_names_itself() {
        assert!(parse(r#"{"WorkerSpwan":{}}"#).unwrap_err().contains("WorkerSpwan"));
        let error = parse(r#"{"WorkerSpawn":{"model":"m","devcie":"CPU-0"}}"#).unwrap_err();
        assert!(error.contains("devcie"), "{error}");
    }

    #[test]
    fn what_shows_only_looks_and_what_changes_does_not() {
        let check = |json: &str, expected: bool| {
            assert_eq!(parse(json).unwrap().only_looks(), expected, "{json}");
        };
        check(r#"{"ListAll":{"of":"workers"}}"#, true);
        check(r#"{"HiveStatus":{}}"#, true);
        check(r#"{"WorkerLogs":{"worker_id":"w-1","follow":true}}"#, true);
        check(r#"{"ModelGarbage":{}}"#, true);
        check(r#"{"ModelGarbage":{"remove":true}}"#, false);
        check(r#"{"HiveRefresh":{}}"#, false);
        check(r#"{"WorkerExcuse":{"worker_id":"w-1","processes":[7]}}"#, false);
        check(r#"{"ModelVerify":{"model":"m"}}"#, false);
        check(r#"{"WorkerSpawn":{"model":"m"}}"#, false);
        check(r#"{"Infer":{"model":"m","prompt":"p"}}"#, false);
    }

    #[test]
    fn a_redacted_operation_holds_no_secret() {
        let op =
            parse(r#"{"HiveAdd":{"hive_id":"h","url":"http://h:9000","secret":"hush"}}"#).unwrap();
        let kept = serde_json::to_string(&op.redacted()).unwrap();
        assert!(!kept.contains("hush"), "{kept}");
        assert!(!format!("{op:?}").contains("hush"), "{op:?}");
    }

    #[test]
    fn a_redacted_attachment_holds_no_token() {
        for url in ["http://nas:11434", "http://u:hush@nas:11434"] {
            let attach = serde_json::json!({"WorkerAttach": {"url": url, "token": "hush"}});
            let op = parse(&attach.to_string()).unwrap();
            let kept = serde_json::to_string(&op.redacted()).unwrap();
            assert!(kept.contains("http://nas:11434") && !kept.contains("hush"), "{kept}");
        }
        let op = parse(r#"{"WorkerAttach":{"url":"http://nas:11434","token":"hush"}}"#).unwrap();
        assert!(!format!("{op:?}").contains("hush"), "{op:?}");
    }

    #[test]
    fn a_redacted_download_holds_no_signature() {
        let op = parse(r#"{"ModelDownload":{"reference":"https://h/a.gguf?sig=secret","projector":"https://h/p.gguf?sig=secret"}}"#).unwrap();
        let kept = serde_json::to_string(&op.redacted()).unwrap();
        assert!(kept.contains("https://h/a.gguf") && !kept.contains("secret"), "{kept}");
        let cancel = r#"{"ModelDownloadCancel":{"reference":"https://h/a.gguf?sig=secret"}}"#;
        let kept = serde_json::to_string(&parse(cancel).unwrap().redacted()).unwrap();
        assert!(kept.contains("https://h/a.gguf") && !kept.contains("secret"), "{kept}");
        let set =
            r#"{"ModelProjectorSet":{"model":"m","projector":"https://h/p.gguf?sig=secret"}}"#;
        let kept = serde_json::to_string(&parse(set).unwrap().redacted()).unwrap();
        assert!(kept.contains("https://h/p.gguf") && !kept.contains("secret"), "{kept}");
    }

    #[test]
    fn a_redacted_fetch_holds_no_ticket() {
        let file = format!(
            r#"{{"url":"http://h/x","ticket":"hush","sha256":"{}","size_bytes":1}}"#,
            "0".repeat(64)
        );
        let op = parse(&format!(
            r#"{{"ModelFetch":{{"hive_id":"h","from":"g","model":"m","source":"s","files":[{file}]}}}}"#
        ));
        let op = op.unwrap();
        let kept = serde_json::to_string(&op.redacted()).unwrap();
        assert!(kept.contains("http://h/x") && !kept.contains("hush"), "{kept}");
        assert!(!format!("{op:?}").contains("hush"), "{op:?}");
    }

    #[test]
    fn a_redacted_operation_holds_no_prompt() {
        let op = parse(r#"{"Infer":{"model":"m","prompt":"secret","system":"secret","sampling":{"stop":["secret"],"dry_sequence_breakers":["secret"]}}}"#).unwrap();
        let kept = serde_json::to_string(&op.redacted()).unwrap();
        assert!(!kept.contains("secret"), "{kept}");
    }
}
