//! The binary: what a queen says of her configuration when she starts.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
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

#[tokio::test]
async fn a_file_of_authorities_that_cannot_be_read_is_told_before_any_server_needs_it() {
    let home = tempfile::tempdir().unwrap();
    let config = "[queen]\nbind = \"127.0.0.1:0\"\nserver_ca_file = \"/nope.pem\"\n\n[hive]\nbind = \"127.0.0.1:0\"\n";
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let mut queen = Command::new(env!("CARGO_BIN_EXE_queen-rbee"));
    queen.env("RBEE_HOME", home.path()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut queen = queen.spawn().unwrap();
    let mut lines = BufReader::new(queen.stderr.take().unwrap()).lines();
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("/nope.pem") {
                return line;
            }
        }
        panic!("she has ended and said nothing of it")
    };
    let told = timeout(Duration::from_secs(60), told).await.expect("she says nothing of it");
    assert!(told.contains("queen.server_ca_file") && told.contains("WARN"), "{told}");
}
