//! Why a request gets no place at a worker.

use job_server::JobError;
use worker_contract::{HiveAlias, ModelAlias};

use crate::registry::Resting;
use crate::scheduler::RejectReason;

/// When to try again where a server cannot be used, in seconds.
const RETRY_SERVER_S: u64 = 5;

/// Why a request gets no place.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoPlace {
    /// Too many wait already.
    #[error("{}", as_many_wait(.model, *.limit, *.gave_way))]
    QueueFull {
        /// The model.
        model: ModelAlias,
        /// How many may wait.
        limit: usize,
        /// It waited, and another one that comes before it has its place.
        gave_way: bool,
        /// When some of them will have been served, in seconds.
        retry_after_s: u64,
    },
    /// Its time was over before a worker could take it.
    #[error("no worker for {model} could take the request before its deadline{}", last_word(.word.as_deref()))]
    Deadline {
        /// The model.
        model: ModelAlias,
        /// What it waited for at last.
        word: Option<String>,
    },
    /// No worker runs the model, and no catalog has it.
    #[error("the model {model} does not exist")]
    UnknownModel {
        /// The model.
        model: ModelAlias,
    },
    /// The hive that has the model is gone.
    #[error("the hive {hive}, which has the model {model}, does not report")]
    HiveGone {
        /// The hive.
        hive: HiveAlias,
        /// The model.
        model: ModelAlias,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// Nobody has the model, and the queen's own hive, which may have it, could not be started.
    #[error("nobody has the model {model} at present, and {why}")]
    HiveMissing {
        /// The model.
        model: ModelAlias,
        /// That it could not be started, and why.
        why: String,
    },
    /// The workers of the model are ending or unreachable, and no hive can start another one.
    #[error("{}", nobody_left(.model, .server.as_ref()))]
    NoWorkerLeft {
        /// The model.
        model: ModelAlias,
        /// The server of somebody else that has it and cannot be used, and why.
        server: Option<(HiveAlias, String)>,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// The servers that could take it have said that they take nothing before its time is over.
    #[error("{0}")]
    Resting(Resting),
    /// None of the model's workers can do what is asked for.
    #[error("no worker of the model {model} can do what is asked for")]
    Unable {
        /// The model.
        model: ModelAlias,
    },
    /// No worker has a context that is long enough, nor would one that is started.
    #[error(
        "the request needs a context of more than {tokens} tokens, and no worker of {model} has one, nor \
         would one that is started"
    )]
    TooShort {
        /// The model.
        model: ModelAlias,
        /// The longest context that was tried.
        tokens: u32,
    },
    /// Nobody has the file that the answer began with.
    #[error(
        "the answer began with another file of {model} than its hives have now, and no worker runs that one"
    )]
    OtherFile {
        /// The model.
        model: ModelAlias,
    },
    /// No device of a hive that has the model can take a worker.
    #[error(
        "no device of the hives that have the model {model} can take a worker of it at present"
    )]
    NowhereToStart {
        /// The model.
        model: ModelAlias,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// The operator's rules let no worker take it.
    #[error("the rules of this queen let no worker take a request for {model} at present")]
    Rules {
        /// The model.
        model: ModelAlias,
    },
    /// A worker could not be started.
    #[error("no worker could be started for {model}: {source}")]
    SpawnFailed {
        /// The model.
        model: ModelAlias,
        /// What the hive said.
        source: JobError,
        /// When to try again, in seconds.
        retry_after_s: u64,
    },
    /// The queen is ending.
    #[error("the queen is being stopped")]
    Stopping,
}

fn as_many_wait(model: &ModelAlias, limit: usize, gave_way: bool) -> String {
    if gave_way {
        return format!(
            "as many requests wait for {model} as may wait ({limit}), and this one has given its place to one \
             that comes before it"
        );
    }
    format!("as many requests wait for {model} already as may wait ({limit})")
}

fn nobody_left(model: &ModelAlias, server: Option<&(HiveAlias, String)>) -> String {
    match server {
        Some((server, reason)) => {
            format!("the server {server}, which has the model {model}, cannot be used: {reason}")
        }
        None => format!("the workers of the model {model} are ending or do not answer"),
    }
}

fn last_word(word: Option<&str>) -> String {
    word.map(|word| format!("; the last word on it: {word}")).unwrap_or_default()
}

/// A failure without a worker's log and without a machine's paths.
pub(crate) fn for_clients(whole: &str) -> String {
    let first = whole.lines().next().unwrap_or_default();
    let first = first.trim_end_matches("; its last log lines:");
    let is_path = |word: &str| word.trim_start_matches(['(', '"', '\'', '`']).starts_with('/');
    let words = first.split(' ').map(|word| if is_path(word) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

impl NoPlace {
    /// Whether no worker is left that could take the request, though the model is known.
    #[must_use]
    pub fn is_nobody_left(&self) -> bool {
        matches!(
            self,
            Self::NoWorkerLeft { .. }
                | Self::NowhereToStart { .. }
                | Self::OtherFile { .. }
                | Self::Unable { .. }
        )
    }

    /// Its name in metrics and in the log of decisions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::QueueFull { .. } => "queue_full",
            Self::Deadline { .. } => "deadline",
            Self::UnknownModel { .. } => "unknown_model",
            Self::HiveGone { .. } | Self::HiveMissing { .. } => "hive_gone",
            Self::NoWorkerLeft { .. } | Self::NowhereToStart { .. } | Self::OtherFile { .. } => {
                "no_worker"
            }
            Self::Resting(_) => "resting",
            Self::Unable { .. } => "unable",
            Self::TooShort { .. } => "too_short",
            Self::Rules { .. } => "rules",
            Self::SpawnFailed { .. } => "spawn_failed",
            Self::Stopping => "stopping",
        }
    }

    /// What was waited for at last, in vain.
    #[must_use]
    pub fn last_word(&self) -> Option<&str> {
        match self {
            Self::Deadline { word, .. } => word.as_deref(),
            _ => None,
        }
    }

    /// The same without a worker's log and without a machine's paths: those are for who operates it.
    #[must_use]
    pub fn for_clients(&self) -> String {
        for_clients(&self.to_string())
    }

    /// The same with the server that is why nobody is left, where it is one.
    pub(super) fn with_server(self, server: impl FnOnce() -> Option<(HiveAlias, String)>) -> Self {
        match self {
            Self::NoWorkerLeft { model, server: None, retry_after_s } => {
                let server = server();
                // Looks at it are seconds apart.
                let retry_after_s = if server.is_some() { RETRY_SERVER_S } else { retry_after_s };
                Self::NoWorkerLeft { model, server, retry_after_s }
            }
            other => other,
        }
    }

    /// What a refusal of the scheduler means, after the last start of a worker failed with `source`.
    pub(super) fn refused(
        model: &ModelAlias,
        reason: RejectReason,
        retry_after_s: Option<u64>,
        source: Option<&JobError>,
    ) -> Self {
        let model = model.clone();
        let retry_after_s = retry_after_s.unwrap_or(1);
        match (reason, source) {
            (RejectReason::Rules, _) => Self::Rules { model },
            (RejectReason::TooShort { tokens }, _) => Self::TooShort { model, tokens },
            (_, Some(source)) => Self::SpawnFailed { model, source: source.clone(), retry_after_s },
            (RejectReason::UnknownModel, None) => Self::UnknownModel { model },
            (RejectReason::Unable, None) => Self::Unable { model },
            (RejectReason::HiveGone { hive }, None) => {
                Self::HiveGone { hive, model, retry_after_s }
            }
            // One that rests no longer is not told any more.
            (RejectReason::NoWorkerLeft | RejectReason::Resting { .. }, None) => {
                Self::NoWorkerLeft { model, server: None, retry_after_s }
            }
            (RejectReason::NowhereToStart, None) => Self::NowhereToStart { model, retry_after_s },
            (RejectReason::OtherFile, None) => Self::OtherFile { model },
        }
    }
}
