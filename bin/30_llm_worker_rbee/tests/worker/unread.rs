//! A worker whose log nobody reads.

use std::net::TcpListener;

use test_cluster::{EndedEarly, run_unread};
use tokio::process::Command;

use crate::support::{block_on, demo_model};

/// On how many ports it is tried.
const PORTS: usize = 5;

#[test]
fn a_log_that_nobody_reads_holds_up_neither_answers_nor_the_end() {
    // It says which port it took only where nobody reads: so it is told a free one, which another test may
    // take before it does.
    let is_taken =
        |ended: &anyhow::Result<()>| matches!(ended, Err(error) if error.is::<EndedEarly>());
    let mut tries = (0..PORTS).map(|_| run_on_a_free_port());
    tries.find(|ended| !is_taken(ended)).expect("one of the ports stays free").unwrap();
}

fn run_on_a_free_port() -> anyhow::Result<()> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"));
    worker.arg("--model").arg(demo_model()).args(["--threads", "1", "--port", &port.to_string()]);
    let address = || Some(format!("http://127.0.0.1:{port}"));
    block_on(run_unread(worker, address))
}
