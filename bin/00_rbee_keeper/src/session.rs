//! What one invocation works with: paths, settings, streams, and the way to the queen.

use std::path::PathBuf;

use access_tokens::Secret;
use rbee_config::{Config, Paths};

use crate::cli::GlobalArgs;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::queen_client::{Queen, is_loopback, local_url, parse_url};
use crate::queen_process::{self, Daemon};

/// The variable that holds an API token.
const API_KEY: &str = "RBEE_API_KEY";

/// One invocation.
pub(crate) struct Session {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    pub(crate) output: Output,
    pub(crate) interrupts: Interrupts,
    given_url: Option<String>,
    token_file: Option<PathBuf>,
}

/// Where the queen is, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Somebody said so.
    Given(String),
    /// A queen of this user runs on this machine.
    Running(String),
    /// The configuration says where it would be.
    Configured(String),
}

impl Target {
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Given(url) | Self::Running(url) | Self::Configured(url) => url,
        }
    }
}

impl Session {
    /// Reads environment and configuration.
    pub(crate) fn open(
        global: GlobalArgs,
        output: Output,
        interrupts: Interrupts,
    ) -> Result<Self, Failure> {
        let unreadable = |error| Failure::caused("cannot read the configuration", error);
        let paths = Paths::from_env().map_err(unreadable)?;
        let config = Config::load(&paths).map_err(unreadable)?;
        for ignored in rbee_config::ignored_variables() {
            output.warn(&ignored);
        }
        let given_url = global.queen.as_deref().filter(|url| !url.is_empty());
        let given_url = given_url.map(parse_url).transpose()?;
        Ok(Self { paths, config, output, interrupts, given_url, token_file: global.token_file })
    }

    /// Where the queen is.
    pub(crate) fn target(&self) -> Target {
        if let Some(url) = &self.given_url {
            return Target::Given(url.clone());
        }
        match queen_process::running(self, Daemon::Queen) {
            Some(running) => Target::Running(local_url(running.addr)),
            None => Target::Configured(local_url(self.config.queen.bind)),
        }
    }

    /// Refuses a command that is about this machine's own queen when another one was named.
    pub(crate) fn only_local(&self, command: &str) -> Result<(), Failure> {
        match &self.given_url {
            None => Ok(()),
            Some(url) => Err(Failure::usage(format!(
                "`{command}` is about the queen of this machine, but --queen or RBEE_QUEEN_URL \
                 names {url}"
            ))
            .with_hint("leave out --queen and unset RBEE_QUEEN_URL")),
        }
    }

    /// Whether paths of this machine mean something to the queen.
    pub(crate) fn queen_is_here(&self) -> bool {
        self.given_url.as_deref().is_none_or(is_loopback)
    }

    /// Reaches the queen; starts this machine's own when it does not run.
    pub(crate) async fn queen(&self) -> Result<Queen, Failure> {
        let target = self.target();
        match self.reach(&target).await {
            Err(Failure::Unreachable { .. }) if matches!(target, Target::Configured(_)) => {
                let started = queen_process::start(self, None).await?;
                let url = local_url(started.addr);
                if started.fresh {
                    self.output.note(&format!("queen-rbee was not running; started it at {url}"));
                }
                self.reach(&Target::Running(url)).await
            }
            reached => reached,
        }
    }

    /// Reaches the queen where it runs; `NotRunning` where none does.
    pub(crate) async fn running_queen(&self) -> Result<Queen, Failure> {
        let target = self.target();
        match self.reach(&target).await {
            Err(Failure::Unreachable { .. }) if matches!(target, Target::Configured(_)) => {
                Err(Failure::NotRunning)
            }
            reached => reached,
        }
    }

    /// Reaches the queen at the target.
    pub(crate) async fn reach(&self, target: &Target) -> Result<Queen, Failure> {
        let queen = Queen::connect(target.url(), self.token(target)?).await?;
        let (theirs, ours) = (queen.build.version.as_str(), env!("CARGO_PKG_VERSION"));
        if theirs != ours {
            self.output.warn(&format!(
                "queen-rbee at {} is version {theirs}, this rbee-keeper is {ours}: some commands \
                 may not work",
                queen.url
            ));
        }
        Ok(queen)
    }

    /// The token for the target. This user's own secret is only shown to this user's own queen,
    /// or to a loopback address that somebody named.
    fn token(&self, target: &Target) -> Result<Option<Secret>, Failure> {
        if let Some(file) = &self.token_file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::caused(format!("cannot read the token file {}", file.display()), error)
            })?;
            return secret(&text, &format!("the token file {}", file.display())).map(Some);
        }
        if let Some(text) = std::env::var_os(API_KEY).filter(|text| !text.is_empty()) {
            let text = text.to_string_lossy();
            return secret(&text, API_KEY).map(Some);
        }
        let own = match target {
            Target::Running(_) => true,
            Target::Given(url) => is_loopback(url) && self.paths.secrets.exists(),
            Target::Configured(_) => false,
        };
        if !own {
            return Ok(None);
        }
        access_tokens::local_secret(&self.paths.secrets)
            .map(Some)
            .map_err(|error| Failure::caused("cannot read this user's own secret", error))
    }
}

/// A token as a header can carry it.
fn secret(text: &str, place: &str) -> Result<Secret, Failure> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!("{place} holds no token"))
            .with_hint("`rbee-keeper token create` makes one"));
    }
    Ok(Secret::from(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_printable_word() {
        assert_eq!(secret(" rbee_abc\n", "file").unwrap().expose(), "rbee_abc");
        for bad in ["", " \n", "two words", "naïve", "a\u{0}b"] {
            assert_eq!(secret(bad, "file").unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
