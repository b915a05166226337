//! A log that is followed: its lines on stdout.

use rbee_operations::JobEvent;

use crate::failure::Failure;
use crate::job_run::Listener;
use crate::output::Output;
use crate::render::{json, printable};

/// The lines of a log on stdout, as they come. With `--json` they are the items of one array.
pub(super) struct LogLines {
    output: Output,
    written: usize,
}

impl LogLines {
    pub(super) fn new(output: Output) -> Self {
        Self { output, written: 0 }
    }

    /// Ends what was begun.
    pub(super) async fn close(&self) -> Result<(), Failure> {
        match (self.output.is_json(), self.written) {
            (false, _) => Ok(()),
            (true, 0) => self.output.text("[]\n").await,
            (true, _) => self.output.text("\n]\n").await,
        }
    }
}

impl Listener for LogLines {
    async fn event(&mut self, event: &JobEvent) -> Result<(), Failure> {
        if event.event != "log" {
            return Ok(());
        }
        let mut text = String::new();
        for line in event.message.split('\n') {
            if self.output.is_json() {
                text.push_str(if self.written == 0 { "[\n" } else { ",\n" });
                text.push_str(&json::line(line));
            } else {
                text.push_str(line);
                text.push('\n');
            }
            self.written += 1;
        }
        let shown = if self.output.stdout_is_terminal() { printable(&text) } else { text };
        self.output.text(shown).await
    }
}
