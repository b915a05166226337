//! Everything that can end a command, with its exit code and what to do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use job_client::ClientError;
use rbee_operations::JobEvent;
use worker_contract::{ErrorDetail, ErrorKind};

use crate::queen_client::is_loopback;
use crate::render;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The arguments cannot be meant like this.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    /// There is no queen on this machine, and the command does not start one.
    #[error("queen-rbee is not running")]
    NotRunning,
    /// There should be a queen, and nothing answers.
    #[error("cannot reach the queen at {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// Something answers, but it is no queen, or one that speaks otherwise.
    #[error("what answers at {url} is not a queen: {found}")]
    NotAQueen { url: String, found: String },
    /// The queen did not accept the token, or there was none.
    #[error("the queen at {url} {}", if *.given { "does not accept this token" } else { "demands a token" })]
    Unauthorized { url: String, given: bool },
    /// The queen answered with an error.
    #[error("{}", .0.message)]
    Refused(Box<ErrorDetail>),
    /// The queen's answer was not understood.
    #[error("the queen's answer is not understood: {0}")]
    Protocol(String),
    /// A job ended by an error.
    #[error("{}", .0.message)]
    JobFailed(Box<JobEvent>),
    /// A job was cancelled, and not by this command.
    #[error("the job was cancelled")]
    JobCancelled,
    /// A daemon ended before it was ready.
    #[error("{daemon} did not start: {reason}")]
    DaemonFailed { daemon: &'static str, reason: String, log: PathBuf },
    /// Something on this machine is in the way.
    #[error("{message}")]
    Local {
        message: String,
        hint: Option<String>,
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The person said no.
    #[error("nothing was done")]
    Declined,
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted { exit_code: u8 },
    /// Nobody reads stdout any longer: `… | head -1`.
    #[error("stdout is closed")]
    OutputClosed,
}

impl Failure {
    /// A wrong argument.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Something on this machine is in the way.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::Local { message: message.into(), hint: None, source: None }
    }

    /// The same, and why.
    pub(crate) fn caused(
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Local { message: message.into(), hint: None, source: Some(source.into()) }
    }

    /// The same failure with advice, where it can hold one.
    pub(crate) fn with_hint(mut self, advice: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. } | Self::Local { hint, .. } = &mut self {
            *hint = Some(advice.into());
        }
        self
    }

    /// A failed write to stdout.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::caused("cannot write to stdout", error)
    }

    /// An error of the job client, for the queen at `url`.
    pub(crate) fn client(error: ClientError, url: &str, token_given: bool) -> Self {
        match error {
            ClientError::Unreachable { source, .. } => {
                Self::Unreachable { url: url.to_owned(), reason: innermost(&source) }
            }
            ClientError::Api { status, detail } => {
                Self::refused(status.as_u16(), detail, url, token_given)
            }
            ClientError::Revoked(event) => Self::Refused(Box::new(ErrorDetail {
                message: event.message,
                kind: ErrorKind::AuthenticationError,
                param: None,
                code: event.code,
                hint: event.hint,
            })),
            ClientError::StreamLost { ref job_id, .. } => Self::Local {
                message: format!("lost sight of job {job_id}, which may still run"),
                hint: Some(format!("`rbee-keeper job follow {job_id}` looks at it again")),
                source: Some(Box::new(error)),
            },
            ClientError::InvalidUrl { .. } => Self::usage(render::error::chain(&error)),
            ClientError::Protocol { reason, .. } => Self::Protocol(reason),
        }
    }

    /// An error object that the queen answered with.
    pub(crate) fn refused(status: u16, detail: ErrorDetail, url: &str, token_given: bool) -> Self {
        if status == 401 {
            return Self::Unauthorized { url: url.to_owned(), given: token_given };
        }
        Self::Refused(Box::new(detail))
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::NotRunning => 3,
            Self::Interrupted { exit_code } => *exit_code,
            // What a shell reports for a program that SIGPIPE ended.
            Self::OutputClosed => 141,
            _ => 1,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let start = "start it with `rbee-keeper up`";
        match self {
            Self::Usage { hint, .. } | Self::Local { hint, .. } => hint.clone(),
            Self::NotRunning => Some(start.to_owned()),
            Self::Unreachable { .. } => Some(
                "`rbee-keeper status` says whether one runs on this machine; \
                 --queen URL or RBEE_QUEEN_URL names another"
                    .to_owned(),
            ),
            Self::NotAQueen { url, .. } if !is_loopback(url) => Some(
                "give the queen's own URL by --queen or RBEE_QUEEN_URL; `rbee-keeper queen info` on her \
                 machine shows her port"
                    .to_owned(),
            ),
            Self::NotAQueen { .. } => Some(
                "another program holds this port: stop it, or give the queen another one \
                 (`bind` of [queen] in config.toml, or `rbee-keeper queen start --bind IP:PORT`)"
                    .to_owned(),
            ),
            Self::Unauthorized { .. } => Some(
                "make one on the queen's machine with `rbee-keeper token create`, then set \
                 RBEE_API_KEY or give --token-file FILE"
                    .to_owned(),
            ),
            Self::Refused(detail) => detail.hint.clone(),
            Self::JobFailed(event) => event.hint.clone(),
            Self::Protocol(_) => Some(
                "keeper and queen may be of different versions: `rbee-keeper queen info` and \
                 `rbee-keeper --version` show both"
                    .to_owned(),
            ),
            Self::DaemonFailed { log, .. } => Some(format!("its log is {}", log.display())),
            Self::JobCancelled | Self::Declined | Self::Interrupted { .. } | Self::OutputClosed => {
                None
            }
        }
    }

    /// The failure as the API's error object.
    pub(crate) fn detail(&self) -> ErrorDetail {
        let (kind, code, param) = match self {
            Self::Refused(detail) => (detail.kind, detail.code.clone(), detail.param.clone()),
            Self::JobFailed(event) => (ErrorKind::ApiError, event.code.clone(), None),
            Self::Usage { .. } => (ErrorKind::InvalidRequestError, Some("usage".to_owned()), None),
            Self::Unauthorized { .. } => {
                (ErrorKind::AuthenticationError, Some("unauthorized".to_owned()), None)
            }
            Self::NotRunning => unavailable("queen_not_running"),
            Self::Unreachable { .. } => unavailable("queen_unreachable"),
            Self::NotAQueen { .. } => unavailable("not_a_queen"),
            Self::DaemonFailed { .. } => unavailable("daemon_failed"),
            Self::Protocol(_) => (ErrorKind::ServerError, Some("protocol".to_owned()), None),
            Self::JobCancelled => api_error("job_cancelled"),
            Self::Declined => api_error("declined"),
            Self::Interrupted { .. } => api_error("interrupted"),
            Self::Local { .. } => api_error("local"),
            Self::OutputClosed => api_error("output_closed"),
        };
        ErrorDetail { message: render::error::chain(self), kind, param, code, hint: self.hint() }
    }
}

/// What lies at the bottom of a chain of causes: of a failed request, the operating system's word.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

fn unavailable(code: &str) -> (ErrorKind, Option<String>, Option<String>) {
    (ErrorKind::ServiceUnavailableError, Some(code.to_owned()), None)
}

fn api_error(code: &str) -> (ErrorKind, Option<String>, Option<String>) {
    (ErrorKind::ApiError, Some(code.to_owned()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_queen_is_to_be_stopped_only_where_it_is_on_this_machine() {
        for (url, advice) in [
            ("http://127.0.0.1:8500", "another program holds this port"),
            ("http://10.0.0.9:8500", "give the queen's own URL"),
            ("http://queen.home.arpa", "give the queen's own URL"),
        ] {
            let found = "an answer".to_owned();
            let hint = Failure::NotAQueen { url: url.to_owned(), found }.hint().unwrap();
            assert!(hint.starts_with(advice), "{url}: {hint}");
        }
    }
}
