//! A connection to another machine, by the system's `ssh`: its keys, agent, `known_hosts`, aliases and
//! jump hosts are the user's own.
//!
//! What runs over there is one of a few fixed scripts; all that varies is an argument, quoted by
//! `openssh`, or standard input. A host key that is not known is refused, never learned.

mod config_hosts;
mod failure;

use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use openssh::{KnownHosts, Session, SessionBuilder, Stdio};
use rbee_operations::SshTarget;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

pub(crate) use self::config_hosts::config_hosts;
pub(crate) use self::failure::SshError;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(15);
/// How long `ssh` as a whole may take to give up, its jump hosts included.
const GIVE_UP: Duration = Duration::from_secs(45);
/// The interval of questions whether the other side is there; three without an answer end it.
const ALIVE: Duration = Duration::from_secs(5);
/// How long a script may run.
const RUN: Duration = Duration::from_secs(120);
/// How long a connection may take to close.
const CLOSE: Duration = Duration::from_secs(3);
/// The longest output that is read.
const MAX_OUTPUT: u64 = 1 << 20;
/// How much is sent at once.
const PIECE: usize = 64 << 10;

/// A script of the shell `sh`, and its name for errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// A connection. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Ssh {
    session: Session,
    target: SshTarget,
}

impl Ssh {
    /// Connects, and asks nobody anything.
    pub(crate) async fn connect(target: &SshTarget) -> Result<Self, SshError> {
        let mut builder = SessionBuilder::default();
        builder
            .known_hosts_check(KnownHosts::Strict)
            .connect_timeout(CONNECT)
            .server_alive_interval(ALIVE)
            // A socket's path is short.
            .control_directory(std::env::temp_dir());
        if let Some(user) = target.user() {
            builder.user(user.to_owned());
        }
        if let Some(port) = target.port() {
            builder.port(port);
        }
        match timeout(GIVE_UP, builder.connect(target.host())).await {
            Ok(Ok(session)) => Ok(Self { session, target: target.clone() }),
            Ok(Err(error)) => Err(SshError::of_connection(target, &error)),
            Err(_) => Err(SshError::Unreachable {
                target: target.clone(),
                reason: format!("no connection after {} s", GIVE_UP.as_secs()),
            }),
        }
    }

    /// Runs a script with these arguments and this standard input; gives what it printed.
    pub(crate) async fn run(
        &self,
        script: Script,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<String, SshError> {
        let run = self.exchange(script, arguments, input, input.len() as u64, |_| {});
        timeout(RUN, run).await.map_err(|_| SshError::Slow { script: script.name, limit: RUN })?
    }

    /// Runs a script whose standard input is a file. It may take as long as the connection lives.
    pub(crate) async fn send(
        &self,
        script: Script,
        arguments: &[&str],
        file: &Path,
        progress: impl FnMut(u64),
    ) -> Result<String, SshError> {
        let unreadable = |source| SshError::Local { file: file.to_owned(), source };
        let input = File::open(file).await.map_err(unreadable)?;
        let bytes = input.metadata().await.map_err(unreadable)?.len();
        self.exchange(script, arguments, input, bytes, progress).await
    }

    /// Ends the connection and waits for that.
    pub(crate) async fn close(self) {
        let _ = timeout(CLOSE, self.session.close()).await;
    }

    async fn exchange(
        &self,
        script: Script,
        arguments: &[&str],
        input: impl AsyncRead + Unpin,
        bytes: u64,
        progress: impl FnMut(u64),
    ) -> Result<String, SshError> {
        let lost = |error: &dyn std::error::Error| self.lost(script, error);
        let mut child = self
            .session
            .command("sh")
            .args(["-c", script.text, script.name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .await
            .map_err(|error| lost(&error))?;
        let (stdin, stdout, stderr) =
            (child.stdin().take(), child.stdout().take(), child.stderr().take());
        let (fed, said, complained) =
            tokio::join!(feed(input, stdin, bytes, progress), read(stdout), read(stderr));
        let status = child.wait().await.map_err(|error| lost(&error))?;
        let complaint = String::from_utf8_lossy(&complained.map_err(|e| lost(&e))?).into_owned();
        self.judge(script, status, &complaint)?;
        // A script that ended well read all that it wanted.
        fed.map_err(|error| lost(&error))?;
        Ok(String::from_utf8_lossy(&said.map_err(|e| lost(&e))?).into_owned())
    }

    fn judge(&self, script: Script, status: ExitStatus, complaint: &str) -> Result<(), SshError> {
        match status.code() {
            Some(0) => Ok(()),
            // What `ssh` itself ends with.
            Some(255) | None => Err(SshError::Lost {
                target: self.target.clone(),
                script: script.name,
                reason: complaint.trim().to_owned(),
            }),
            Some(status) => Err(SshError::Script {
                script: script.name,
                status,
                message: complaint.trim().to_owned(),
            }),
        }
    }

    fn lost(&self, script: Script, error: &dyn std::error::Error) -> SshError {
        SshError::Lost {
            target: self.target.clone(),
            script: script.name,
            reason: crate::remote_hive::with_causes(error),
        }
    }
}

/// Writes the input; the other side may stop reading, whose reason is then in its exit status.
async fn feed(
    mut input: impl AsyncRead + Unpin,
    output: Option<impl AsyncWrite + Unpin>,
    bytes: u64,
    mut progress: impl FnMut(u64),
) -> io::Result<()> {
    let Some(mut output) = output else { return Ok(()) };
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < bytes {
        let read = input.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        match output.write_all(&piece[..read]).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
        done += read as u64;
        progress(done);
    }
    match output.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Reads to the end; what is beyond the limit is dropped.
async fn read(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let Some(from) = from else { return Ok(text) };
    let mut limited = from.take(MAX_OUTPUT);
    limited.read_to_end(&mut text).await?;
    let mut rest = limited.into_inner();
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(text)
}
