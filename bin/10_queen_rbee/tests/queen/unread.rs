//! The binary: a queen whose log nobody reads.

use test_cluster::run_unread;
use tokio::process::Command;

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_neither_answers_nor_the_end() {
    let home = tempfile::tempdir().unwrap();
    let config = "[queen]\nbind = \"127.0.0.1:0\"\n\n[hive]\nbind = \"127.0.0.1:0\"\n";
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let mut queen = Command::new(env!("CARGO_BIN_EXE_queen-rbee"));
    queen.env("RBEE_HOME", home.path());
    let file = home.path().join("run/queen-rbee.addr");
    let address = || Some(format!("http://{}", std::fs::read_to_string(&file).ok()?.trim()));
    run_unread(queen, address).await.unwrap();
}
