//! Operations on servers of others.

use std::time::Instant;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{
    AttachedServer, AttachedWorker, HiveTarget, Operation, WorkerAttach, WorkerDetach,
};
use serde_json::{Value, json};
use worker_contract::{HiveAlias, WorkerState};

use super::unlisted::worker_of;
use super::{Operations, outcome};
use crate::attached::{Attached, MAX_MODELS, ServerError};
use crate::registry::WorkerReport;
use crate::remote_hive::with_causes;

/// How many names of models a message tells.
const SHOWN: usize = 10;
/// What is said of a model of a server by whose name a hive has one, too.
const PASSED_OVER: &str = "it gets no requests: a hive has a model of that name; `worker attach --model NAME` \
                           lets it have its share";

impl Operations {
    pub(super) async fn worker_attach(
        &self,
        attach: WorkerAttach,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let hives = self.registry.hives(Instant::now());
        let is_hive = |name: &HiveAlias| {
            self.inventory.names().contains(name) || hives.iter().any(|h| h.said.hive_id == *name)
        };
        if let Some(name) = attach.name.as_ref().filter(|name| is_hive(name)) {
            let message = format!("there is a hive {name} already");
            return Err(JobError::new("name_taken", message).hint("choose another: --name NAME"));
        }
        job.say(format!("Looking at {}", attach.shown_url()));
        let named = attach.models.clone();
        let attached = tokio::select! {
            attached = self.servers.attach(attach) => attached,
            () = job.cancelled().cancelled() => return Err(JobError::cancelled()),
        };
        let by_name = !named.is_empty();
        let Attached { name, models, left_out } = attached?;
        if is_hive(&name) {
            let _ = self.servers.detach(&name).await;
            let message = format!("there is a hive {name} already");
            return Err(JobError::new("name_taken", message).hint("choose another: --name NAME"));
        }
        let called: Vec<&str> = models.iter().map(|model| model.alias.as_str()).collect();
        let message = match called.as_slice() {
            [] => format!("Server {name} is attached; it has no models yet"),
            [only] => format!("Server {name} is attached with one model: {only}"),
            models => {
                let more = if models.len() > SHOWN { ", …" } else { "" };
                let first = models.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
                format!("Server {name} is attached with {} models: {first}{more}", models.len())
            }
        };
        if left_out > 0 {
            job.warn(format!(
                "{left_out} more of its models are left out: {MAX_MODELS} of a server become workers; \
                 --model NAME chooses which"
            ));
        }
        let known = self.registry.models(Instant::now());
        let is_of_hive = |model: &&str| {
            known.iter().any(|(alias, report)| alias.as_str() == *model && !report.hives.is_empty())
        };
        let shared: Vec<&str> = called.iter().copied().filter(is_of_hive).collect();
        let first = shared.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let message = match shared.as_slice() {
            [] => message,
            _ if by_name => format!(
                "{message}; requests for {first} go to it and to the hives that have a model of that \
                 name, whatever their files"
            ),
            _ => format!(
                "{message}; requests for {first} do not go to it, because a hive has a model of that \
                 name: --model NAME lets it have its share, whatever its file"
            ),
        };
        let workers = self.attached(Some(&name));
        let data =
            json!({ "server": name, "workers": workers, "shared": shared, "left_out": left_out });
        Ok(outcome(message, &data))
    }

    /// What is said of an operation on a worker that is a model of an attached server; `None` for all
    /// others.
    pub(super) fn of_attached_worker(
        &self,
        operation: &Operation,
    ) -> Option<Result<Outcome, JobError>> {
        let (hive, id) = worker_of(operation)?;
        if !hive.is_localhost() && !self.servers.has(hive) {
            return None;
        }
        let worker = self.attached(None).into_iter().find(|worker| worker.worker_id == *id)?;
        let server = &worker.server;
        let message = format!("{id} is a model of the attached server {server}");
        if matches!(operation, Operation::WorkerGet(_)) {
            return Some(Ok(outcome(message, &worker)));
        }
        Some(Err(JobError::new("worker_of_server", message).hint(format!(
            "it is started and ended there, where its log is, too; `rbee-keeper worker detach {server}` \
             takes it out of the pool"
        ))))
    }

    pub(super) async fn worker_detach(&self, detach: &WorkerDetach) -> Result<Outcome, JobError> {
        let name = &detach.name;
        self.servers.detach(name).await?;
        let message = format!("Server {name} is detached; it runs on, and nothing is sent to it");
        Ok(outcome(message, &json!({ "server": name })))
    }

    /// The workers of a hive, and those of servers where the hive is the queen's own or a server.
    pub(super) async fn worker_list(
        &self,
        target: HiveTarget,
        job: JobContext,
    ) -> Result<Outcome, JobError> {
        let mut empty = self.servers.without_models();
        if self.servers.has(&target.hive_id) {
            let workers = self.attached(Some(&target.hive_id));
            let mut data = json!({ "workers": [], "attached": workers });
            empty.retain(|server| server.server == target.hive_id);
            add_servers(&mut data, &empty);
            return Ok(outcome(counted(workers.len()), &data));
        }
        let is_own = target.hive_id.is_localhost();
        if !is_own {
            empty.clear();
        }
        let attached = if is_own { self.attached(None) } else { Vec::new() };
        let hive = target.hive_id.clone();
        let listed = self.forward(Operation::WorkerList(target), job.clone()).await;
        match listed {
            Ok(mut listed) => {
                self.tell_who_is_ready(&mut listed.data);
                for note in self.left_out_of(&listed.data["workers"], |its| *its == hive) {
                    job.warn(note);
                }
                if !attached.is_empty() {
                    let own = listed.data["workers"].as_array().map_or(0, Vec::len);
                    listed.message = counted(own + attached.len());
                    listed.data["attached"] = serde_json::to_value(&attached).unwrap_or_default();
                }
                add_servers(&mut listed.data, &empty);
                Ok(listed)
            }
            // A queen without a hive has the workers of servers all the same.
            Err(_) if !attached.is_empty() || !empty.is_empty() => {
                let mut data = json!({ "workers": [], "attached": attached });
                add_servers(&mut data, &empty);
                Ok(outcome(counted(attached.len()), &data))
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses what can be done to the workers of hives only.
    pub(super) fn refuse_server(&self, operation: &Operation) -> Result<(), JobError> {
        let Some(server) = operation.hive_id().filter(|name| self.servers.has(name)) else {
            return Ok(());
        };
        let message = format!("{server} is a server that was attached, not a hive");
        Err(JobError::new("not_a_hive", message).hint(format!(
            "`rbee-keeper worker list --hive {server}` shows its models, `rbee-keeper worker detach {server}` forgets it"
        )))
    }

    /// The workers of one server, or of all.
    pub(super) fn attached(&self, server: Option<&HiveAlias>) -> Vec<AttachedWorker> {
        let reports = self.registry.workers(Instant::now()).into_iter();
        let of_it = reports.filter(|r| server.is_none_or(|name| r.said.hive_id == *name));
        let mut workers: Vec<_> = of_it.filter_map(attached_worker).collect();
        for worker in &mut workers {
            if worker.reason.is_none() && self.registry.is_passed_over(&worker.worker_id) {
                worker.reason = Some(PASSED_OVER.to_owned());
            }
        }
        workers
    }
}

/// Adds the servers without models to a list of workers, where there are any.
pub(super) fn add_servers(data: &mut Value, servers: &[AttachedServer]) {
    if !servers.is_empty() {
        data["attached_servers"] = serde_json::to_value(servers).unwrap_or_default();
    }
}

fn counted(workers: usize) -> String {
    if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") }
}

fn attached_worker(report: WorkerReport) -> Option<AttachedWorker> {
    let (said, server) = (report.said, report.server?);
    let state = said.state.name().to_owned();
    let reason = match said.state {
        WorkerState::Failed { reason } => Some(reason),
        _ => None,
    };
    Some(AttachedWorker {
        worker_id: said.worker_id,
        server: said.hive_id,
        url: server.url,
        engine: server.engine.to_owned(),
        model: said.model.name,
        original: server.model,
        slots: said.slots.total,
        state,
        reason,
    })
}

impl From<ServerError> for JobError {
    fn from(error: ServerError) -> Self {
        let (code, hint) = match &error {
            ServerError::Url(invalid) => ("invalid_value", invalid.hint().to_owned()),
            ServerError::NoName(_) => ("invalid_value", "give one: --name NAME".to_owned()),
            ServerError::Invalid(_) => return Self::new("invalid_value", error.to_string()),
            ServerError::NameTaken { name, .. } => (
                "name_taken",
                format!(
                    "choose another name: --name NAME, or first: rbee-keeper worker detach {name}"
                ),
            ),
            ServerError::UrlTaken { name, .. } => (
                "server_attached",
                format!(
                    "change it by its name: --name {name}, or first: rbee-keeper worker detach {name}"
                ),
            ),
            ServerError::TooMany => ("too_many_servers", "detach some".to_owned()),
            ServerError::Herself { .. } => (
                "server_unusable",
                "give the URL of another server: her own models and workers she has already"
                    .to_owned(),
            ),
            ServerError::Moved { to, .. } => {
                ("server_unusable", format!("attach that: --url {to}"))
            }
            ServerError::Locked { .. } => {
                ("server_unusable", "give its token in a file: --secret-file FILE".to_owned())
            }
            ServerError::Untrusted { .. } => (
                "server_unusable",
                "its certificate must be for the host of the URL, and from an authority of this system or \
                 of the PEM file queen.server_ca_file, which is read at the first connection to such a server, and \
                 then kept until the queen ends; that of an authority (CA:TRUE, as `openssl req -x509` makes it) \
                 cannot be a server's own"
                    .to_owned(),
            ),
            ServerError::NoTrust { hint, .. } => ("server_unusable", (*hint).to_owned()),
            ServerError::Unusable { .. } => (
                "server_unusable",
                "start it, and look whether the queen's machine reaches its GET /v1/models"
                    .to_owned(),
            ),
            ServerError::Wrong { .. } => (
                "server_unusable",
                "look at what its GET /v1/models answers; the base URL is what stands before /v1/models"
                    .to_owned(),
            ),
            ServerError::OwnLimit { .. } => (
                "too_many_connections",
                "raise the queen's limit of open files: ulimit -n, or LimitNOFILE of her unit"
                    .to_owned(),
            ),
            ServerError::NoModel { has, .. } => {
                let has = has.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>();
                ("model_not_found", format!("it has: {}", has.join(", ")))
            }
            ServerError::Unknown(_) => {
                ("server_not_found", "`rbee-keeper worker list` shows which there are".to_owned())
            }
            ServerError::Token(_) | ServerError::Store(_) | ServerError::Interrupted(_) => {
                return Self::new("server_list", with_causes(&error));
            }
        };
        Self::new(code, error.to_string()).hint(hint)
    }
}
