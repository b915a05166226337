//! Several processes that ask for secrets at once. Each is this test program again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use access_tokens::{TokenStore, local_secret};

const FOLDER: &str = "SECRETS_FOLDER";
const PROCESSES: usize = 8;

#[test]
fn processes_that_start_at_once_share_one_local_secret() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("data/secrets");
    let outputs = run_at_once("print_the_local_secret", &secrets);
    let secret = local_secret(&secrets).unwrap();
    for output in outputs {
        assert!(output.contains(secret.expose()), "{output}");
    }
}

#[test]
fn tokens_that_processes_make_at_once_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("data/secrets");
    run_at_once("make_tokens", &secrets);
    assert_eq!(TokenStore::open(&secrets).list().unwrap().len(), 3 * PROCESSES);
}

#[test]
#[ignore = "run by the tests above, in processes of its own"]
fn print_the_local_secret() {
    println!("{}", local_secret(&folder()).unwrap().expose());
}

#[test]
#[ignore = "run by the tests above, in processes of its own"]
fn make_tokens() {
    let store = TokenStore::open(&folder());
    for n in 0..3 {
        store.create(&format!("{}-{n}", std::process::id())).unwrap();
    }
}

fn folder() -> PathBuf {
    env::var_os(FOLDER).expect("it is started by another test, which sets it").into()
}

fn run_at_once(test: &str, secrets: &std::path::Path) -> Vec<String> {
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| {
            Command::new(env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture", test])
                .env(FOLDER, secrets)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    outputs.map(|output| checked(&output)).collect()
}

fn checked(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
