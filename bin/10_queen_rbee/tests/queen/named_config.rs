//! The binary: a queen whose configuration somebody named.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

#[tokio::test]
async fn a_queen_does_not_start_without_the_configuration_that_she_was_given() {
    let home = tempfile::tempdir().unwrap();
    let mut queen = Command::new(env!("CARGO_BIN_EXE_queen-rbee"));
    queen.env("RBEE_HOME", home.path()).args(["--bind", "127.0.0.1:0", "--config", "/nope.toml"]);
    let ended = timeout(Duration::from_secs(60), queen.kill_on_drop(true).output()).await;
    let ended = ended.expect("she runs").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("cannot read /nope.toml, named by --config: No such file"), "{said}");
}
