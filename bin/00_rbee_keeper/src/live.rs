//! A running job's events on stderr: bars in a terminal, lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rbee_operations::{JobEvent, Progress};

use crate::output::Output;
use crate::render::progress::{Tenths, amount, line, pace};
use crate::render::{printable, unit};

/// Shows events as they come.
///
/// The last event of a job that succeeds is its result, which goes to stdout. It looks like any
/// other event with data until the stream ends, so such an event is shown when the next one comes.
pub(crate) struct Live {
    output: Output,
    bar: Option<ProgressBar>,
    tenths: Tenths,
    held: Option<JobEvent>,
}

impl Live {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, bar: None, tenths: Tenths::default(), held: None }
    }

    /// Shows one event.
    pub(crate) fn show(&mut self, event: &JobEvent) {
        if self.output.is_silent() {
            return;
        }
        if let Some(held) = self.held.take() {
            self.print(&held);
        }
        if let Some(progress) = event.progress() {
            self.show_progress(event, &progress);
        } else if matches!(event.event.as_str(), "error" | "cancelled") {
            self.clear();
        } else if event.data.is_some() {
            self.held = Some(event.clone());
        } else {
            self.clear();
            self.print(event);
        }
    }

    /// Removes what is drawn but not part of the text.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn show_progress(&mut self, event: &JobEvent, progress: &Progress) {
        if !self.output.stderr_is_terminal() {
            if self.tenths.admits(&event.message, progress) {
                let message = printable(&event.message);
                let pace = match pace(&event.pace()) {
                    none if none.is_empty() => none,
                    pace => format!(", {pace}"),
                };
                Output::stderr(&format!("{message}: {}{pace}\n", amount(progress)));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        });
        if bar.length() != progress.total {
            bar.set_style(style(progress));
            match progress.total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
        bar.set_message(printable(&event.message));
        bar.set_prefix(match pace(&event.pace()) {
            // Whoever tells no pace leaves it to the bar to reckon.
            none if none.is_empty() => format!("{} left", unit::span(bar.eta())),
            pace => pace,
        });
        bar.set_position(progress.done);
    }

    fn print(&self, event: &JobEvent) {
        let text = line(event, self.output.stderr_color());
        match &self.bar {
            Some(bar) => bar.suspend(|| Output::stderr(&text)),
            None => Output::stderr(&text),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(progress: &Progress) -> ProgressStyle {
    let template = match (progress.total.is_some(), progress.unit.as_str()) {
        (true, "bytes") => "{msg} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {prefix}",
        (true, _) => "{msg} [{wide_bar}] {percent}%",
        (false, "bytes") => "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
        (false, _) => "{msg} {spinner} {pos}",
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
