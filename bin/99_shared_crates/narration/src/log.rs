//! The log of a process, whose reader holds nothing up: lines wait in a bounded queue for the one
//! thread that writes them.
//!
//! A terminal that is paused, or a pipe that nobody reads, keeps that thread alone. Lines that find
//! the queue full are lost; how many is told where they are missing, as soon as lines are read again.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

/// How many lines wait to be written.
pub(crate) const LINES: usize = 8192;

/// For how long a process that ends waits until its last lines are read, at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log as long as it is written. Dropping it writes what still waits, as far as that is read within
/// a second. Where so much waits that the queue is full, it is given up after a tenth of that: nobody
/// reads it then.
#[derive(Debug)]
#[must_use = "without it the last lines of the log are lost"]
pub struct Log(Option<WorkerGuard>);

impl Log {
    /// Ends the log, tells why the daemon has failed, if it has, and gives its exit code.
    pub fn end<E: Display>(self, outcome: Result<(), E>) -> ExitCode {
        drop(self);
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tell(format!("error: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let guard = self.0.take();
        // It waits in place where nobody reads what it has to say.
        patiently("end of log", move || drop(guard));
    }
}

/// A line for whoever started the process: on stderr, past the log. One that nobody reads within two
/// seconds is lost.
pub fn tell(line: impl Into<String>) {
    let line = line.into() + "\n";
    patiently("last words", move || {
        // There is no other place to tell of a failure.
        let _ = io::stderr().write_all(line.as_bytes());
    });
}

/// A writer that never waits, and the end of what writes its lines.
pub(crate) fn unhindered(writer: impl Write + Send + 'static, lines: usize) -> (NonBlocking, Log) {
    let lost = Arc::new(OnceLock::new());
    let writer = Complete { writer, lost: Arc::clone(&lost), told: 0 };
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(lines)
        .lossy(true)
        .thread_name("log")
        .finish(writer);
    // Unset until here: nothing can have been lost before.
    let _ = lost.set(lines.error_counter());
    (lines, Log(Some(guard)))
}

/// Does work that may take for ever, and waits for it as long as a process may take to end.
fn patiently(name: &str, work: impl FnOnce() + Send + 'static) {
    let (sender, is_done) = sync_channel(1);
    let work = move || {
        work();
        // Nobody waits any more where it took too long.
        let _ = sender.send(());
    };
    if thread::Builder::new().name(name.to_owned()).spawn(work).is_ok() {
        // That it ended is all there is to know.
        let _ = is_done.recv_timeout(PATIENCE);
    }
}

/// Tells among the lines how many of them are missing.
struct Complete<W> {
    writer: W,
    lost: Arc<OnceLock<ErrorCounter>>,
    told: usize,
}

impl<W: Write> Write for Complete<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    /// Called whenever no line waits, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        let lost = self.lost.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.told && self.writer.write_all(notice(lost - self.told).as_bytes()).is_ok() {
            self.told = lost;
        }
        self.writer.flush()
    }
}

/// A line as the others are.
fn notice(lost: usize) -> String {
    let mut line = String::new();
    // Both write into a string, which takes all.
    let _ = SystemTime.format_time(&mut Writer::new(&mut line));
    let _ =
        writeln!(line, "  WARN lines of the log are lost: they were not read in time lines={lost}");
    line
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_log_that_is_not_read_holds_nobody_up_and_what_is_missing_is_told() {
        const ALL: usize = 100;
        let (writer, gate, written) = gated();
        let (mut lines, log) = unhindered(writer, 8);
        for line in 0..ALL {
            lines.write_all(format!("line {line}\n").as_bytes()).unwrap();
        }
        drop(gate);
        drop(log);
        let text: String = written.try_iter().collect();
        let (told, kept): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.contains("WARN"));
        let missing: usize = told.iter().map(|line| lost_by(line)).sum();
        assert_eq!(kept.len() + missing, ALL, "{text}");
        assert!(kept[0] == "line 0" && missing > 0, "{text}");
        assert!(told[0].contains("Z  WARN lines of the log are lost"), "{text}");
    }

    #[test]
    fn what_waits_is_written_at_the_end_and_nothing_is_missed() {
        let (writer, gate, written) = gated();
        let (mut lines, log) = unhindered(writer, 8);
        for line in ["a\n", "b\n", "c\n"] {
            lines.write_all(line.as_bytes()).unwrap();
        }
        drop(gate);
        assert_eq!(log.end(Ok::<_, io::Error>(())), ExitCode::SUCCESS);
        assert_eq!(written.try_iter().collect::<String>(), "a\nb\nc\n");
    }

    #[test]
    fn an_end_that_nobody_reads_comes_all_the_same() {
        let (writer, gate, _written) = gated();
        let (mut lines, log) = unhindered(writer, 1);
        for _ in 0..8 {
            lines.write_all(b"line\n").unwrap();
        }
        let begun = Instant::now();
        drop(log);
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(5));
        drop(gate);
    }

    fn lost_by(notice: &str) -> usize {
        notice.rsplit_once("lines=").unwrap().1.parse().unwrap()
    }

    /// What takes nothing until its gate is dropped, then all.
    struct Gated {
        gate: Receiver<()>,
        written: SyncSender<String>,
    }

    fn gated() -> (Gated, SyncSender<()>, Receiver<String>) {
        let (open, gate) = sync_channel(0);
        let (written, read) = sync_channel(1000);
        (Gated { gate, written }, open, read)
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error is what its end looks like.
            let _ = self.gate.recv();
            self.written.try_send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
