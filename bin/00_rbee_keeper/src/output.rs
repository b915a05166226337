//! Where text goes: results to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use crate::cli::GlobalArgs;
use crate::failure::Failure;
use crate::render::{self, Style};

/// What the two streams are, and what was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    stdout: Style,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
    stderr_color: bool,
}

impl Output {
    /// Looks at the process's streams and at `NO_COLOR`.
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        let stderr_is_terminal = io::stderr().is_terminal();
        let may_color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        // Without a terminal there is no width, and a terminal that tells none says 0.
        let width = comfy_table::Table::new().width().filter(|&width| width > 0);
        Self {
            json: global.json,
            quiet: global.quiet,
            stdout: Style { color: may_color && stdout_is_terminal, width },
            stdout_is_terminal,
            stderr_is_terminal,
            stderr_color: may_color && stderr_is_terminal,
        }
    }

    /// Whether stdout is to be one JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether notes and progress are left out. With `--json` stderr has nothing but an error, or what is
    /// missing in the document.
    pub(crate) fn is_silent(&self) -> bool {
        self.quiet || self.json
    }

    /// How tables are shown on stdout.
    pub(crate) fn style(&self) -> Style {
        self.stdout
    }

    pub(crate) fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    pub(crate) fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    pub(crate) fn stderr_color(&self) -> bool {
        self.stderr_color
    }

    /// Whether a question can be asked and answered.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && self.stderr_is_terminal && io::stdin().is_terminal()
    }

    /// Writes to stdout and flushes it.
    ///
    /// The write is on a thread of its own: a reader that has stopped reading, such as a pager,
    /// must not keep Ctrl-C from working.
    pub(crate) async fn text(&self, text: impl Into<String>) -> Result<(), Failure> {
        let text = text.into();
        let write = move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes())?;
            stdout.flush()
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(written) => written.map_err(Failure::output),
            Err(_) => Err(Failure::OutputClosed),
        }
    }

    /// The one document of `--json`.
    pub(crate) async fn document<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        self.text(render::json::document(value)).await
    }

    /// The value as a document with `--json`, else the text that `render` makes.
    pub(crate) async fn result(
        &self,
        value: &Value,
        render: impl FnOnce(Style) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        if self.json {
            return self.document(value).await;
        }
        self.text(render(self.stdout)?).await
    }

    /// Tells something that is not a result.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_silent() {
            Self::stderr(&format!("{}\n", render::printable(text)));
        }
    }

    /// Tells that a list has not all that it should have. With `--json`, too, as a line of JSON: the list's
    /// own shape has no place for it.
    pub(crate) fn incomplete(&self, what: &str) {
        match (self.json, self.quiet) {
            (_, true) => {}
            (true, false) => Self::stderr(&render::json::warning(what)),
            (false, false) => self.note(what),
        }
    }

    /// Tells something that should be looked at.
    pub(crate) fn warn(&self, text: &str) {
        if !self.is_silent() {
            Self::stderr(&render::error::warning(text, self.stderr_color));
        }
    }

    /// Writes to stderr. There is nowhere to tell a failure to.
    pub(crate) fn stderr(text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Tells how a command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        match failure {
            Failure::OutputClosed => {}
            _ if self.json => Self::stderr(&render::json::error(&failure.detail())),
            Failure::Interrupted { .. } => self.note("interrupted"),
            _ => {
                let hint = failure.hint();
                Self::stderr(&render::error::text(failure, hint.as_deref(), self.stderr_color));
            }
        }
    }
}
