//! What the tests share: a home, commands in it, and a queen that answers from a script.

mod queen;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

pub(crate) use queen::TestQueen;

/// The longest that a command may take.
const DEADLINE: Duration = Duration::from_secs(50);

/// A temporary `RBEE_HOME` whose queen would listen where nothing can.
pub(crate) struct Home(TempDir);

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        // Nothing listens on port 1, and only the superuser could.
        home.configure("[queen]\nbind = \"127.0.0.1:1\"\n");
        // Found before any real one, so that no test starts a daemon.
        let queen = home.path().join("queen-rbee");
        std::fs::write(&queen, "#!/bin/sh\necho the queen has a cold >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&queen, Permissions::from_mode(0o755)).unwrap();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.path().join("config.toml"), text).unwrap();
    }

    /// A command of the keeper in this home and in no other surroundings.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-keeper"));
        command
            .args(words(line))
            .env_clear()
            .env("RBEE_HOME", self.path())
            .env("RBEE_BIN_DIR", self.path())
            .env("PATH", "/nowhere")
            .current_dir(self.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, line: &str) -> Ended {
        finish(self.command(line)).await
    }
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error object on stderr, which has nothing else.
    pub(crate) fn error(&self) -> Value {
        let body: Value = serde_json::from_str(&self.stderr)
            .unwrap_or_else(|error| panic!("stderr is not one JSON object, {error}: {self:?}"));
        body["error"].clone()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// Runs a command to its end.
pub(crate) async fn finish(mut command: Command) -> Ended {
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .unwrap_or_else(|_| panic!("the command does not end: {command:?}"))
        .unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The words of a line; single quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
