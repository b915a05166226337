//! Child processes, and waiting for what they do.

use std::env;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The variable by which a test gives a folder to a daemon that it starts.
pub(crate) const FOLDER: &str = "LIFECYCLE_TEST_FOLDER";

/// A child that is killed when the test ends, however it ends.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    /// Runs one of the ignored tests of this program as a process of its own.
    pub(crate) fn start(test: &str, folder: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", test]).env(FOLDER, folder);
        Self::spawn(&mut command)
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::spawn(Command::new("sh").args(["-c", script]))
    }

    fn spawn(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(piped.spawn().unwrap())
    }

    /// Waits until the daemon has written a line that ends with `wanted`.
    pub(crate) fn wait_for(&mut self, wanted: &str) {
        let mut output = BufReader::new(self.0.stdout.as_mut().unwrap());
        let mut line = String::new();
        while !line.trim_end().ends_with(wanted) {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended before {wanted:?}");
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(as_pid(self.0.id()), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).unwrap()
}

/// Waits until `look` finds something.
pub(crate) async fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, looking).await
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
