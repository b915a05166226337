//! Another file in the place of a model: nothing is done before somebody has agreed to its digest.

use std::process::Stdio;

use rbee_operations::JobSummary;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::{Ended, Home, TestQueen, finish};

#[tokio::test(flavor = "multi_thread")]
async fn a_script_pins_another_file_only_by_saying_so() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let (pinned, actual) = ("b".repeat(64), "c".repeat(64));
    let unasked = run(&home, &queen, "model pin smollm2-135m").await.expect(1);
    assert!(unasked.stdout.contains(&pinned) && unasked.stdout.contains(&actual), "{unasked:?}");
    let way = format!("model pin smollm2-135m --accept {actual}");
    assert!(unasked.stderr.contains(&way), "{unasked:?}");
    let other = run(&home, &queen, &format!("model pin smollm2-135m --accept {pinned}")).await;
    assert!(other.expect(1).stderr.contains(&actual));
    assert_eq!(accepted(&queen), [""; 0]);

    run(&home, &queen, &format!("model pin smollm2-135m --accept {actual}")).await.expect(0);
    run(&home, &queen, "model pin smollm2-135m --yes").await.expect(0);
    assert_eq!(accepted(&queen), [actual.clone(), actual]);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_shown_both_digests_and_asked() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let (pinned, actual) = ("b".repeat(64), "c".repeat(64));
    for (answer, code, agreed) in [("n", 1, 0), ("", 1, 0), ("y", 0, 1)] {
        let screen = at_a_terminal(&home, &queen, "model pin smollm2-135m", answer).await;
        let screen = screen.expect(code).stdout;
        assert!(screen.contains(&pinned) && screen.contains(&actual), "{screen}");
        assert!(screen.contains("Pin the model to the other file? [y/N]"), "{screen}");
        assert_eq!(screen.contains("nothing was done"), agreed == 0, "{screen}");
        assert_eq!(accepted(&queen).len(), agreed, "{answer:?}");
    }
}

/// The digests that a hive was told to pin, the latest first.
fn accepted(queen: &TestQueen) -> Vec<String> {
    let digest = |job: JobSummary| Some(job.detail["ModelPin"]["accept"].as_str()?.to_owned());
    queen.jobs.list().into_iter().filter_map(digest).collect()
}

async fn run(home: &Home, queen: &TestQueen, line: &str) -> Ended {
    let mut command = home.command(line);
    command.env("RBEE_QUEEN_URL", &queen.url);
    finish(command).await
}

/// Runs a command where it finds a terminal, and types a line. All that is on the screen is its stdout.
#[cfg(target_os = "linux")]
async fn at_a_terminal(home: &Home, queen: &TestQueen, line: &str, typed: &str) -> Ended {
    let keeper = env!("CARGO_BIN_EXE_rbee-keeper");
    let mut child = Command::new("/usr/bin/script")
        .args(["--quiet", "--return", "--command", &format!("'{keeper}' {line}"), "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("RBEE_HOME", home.path())
        .env("RBEE_QUEEN_URL", &queen.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{typed}\n").as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    Ended { code: output.status.code().unwrap_or(-1), stdout, stderr: String::new() }
}
