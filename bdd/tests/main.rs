//! Runs the features of `features/` against the real binaries; see `bdd/README.md`.

#![expect(clippy::needless_pass_by_value, reason = "a step owns the words of its sentence")]

mod steps;

use std::path::Path;
use std::process::ExitCode;

use cucumber::event::ScenarioFinished;
use cucumber::writer::Stats;
use cucumber::{World, WriterExt, writer};
use futures::FutureExt;
use steps::Rbee;
use test_cluster::SmallDisk;
use testbed::Testbed;

/// Each cluster is several processes, and a worker computes: more would only wait for each other.
const AT_ONCE: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        // A test runner asks what it could run one by one; the features run together.
        return ExitCode::SUCCESS;
    }
    let no_small_disk = SmallDisk::unavailable();
    let skip_root = no_small_disk.is_some();
    let no_machines = Testbed::unavailable();
    let skip_machines = no_machines.is_some();

    let result = Rbee::cucumber()
        .max_concurrent_scenarios(AT_ONCE)
        .with_writer(writer::Basic::stdout().summarized())
        .fail_on_skipped()
        .after(|_, _, scenario, end, world| {
            let failed = !matches!(end, ScenarioFinished::StepPassed);
            if let (true, Some(world)) = (failed, world) {
                show_logs(&scenario.name, world);
            }
            async {}.boxed_local()
        })
        .filter_run(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("features"),
            move |feature, _, scenario| {
                let has =
                    |name: &str| scenario.tags.iter().chain(&feature.tags).any(|tag| tag == name);
                !(skip_root && has("root") || skip_machines && has("namespaces"))
            },
        )
        .await;

    let scenarios = result.scenarios_stats();
    report(&format!(
        "bdd: {} scenarios passed, {} failed; {} steps passed",
        scenarios.passed,
        scenarios.failed,
        result.passed_steps(),
    ));
    if let Some(reason) = no_small_disk {
        report(&format!("bdd: left out the scenarios tagged @root: {reason}"));
    }
    if let Some(reason) = no_machines {
        report(&format!("bdd: left out the scenarios tagged @namespaces: {reason}"));
    }
    if scenarios.total() == 0 {
        report("bdd: no scenario ran");
        return ExitCode::FAILURE;
    }
    if result.execution_has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn show_logs(scenario: &str, world: &Rbee) {
    if let Some(cluster) = &world.cluster {
        report(&format!(
            "logs of the failed scenario {scenario:?}\n{}",
            cluster.home().log_tails()
        ));
    }
}

#[expect(clippy::print_stdout, reason = "the runner's report is its output")]
fn report(line: &str) {
    println!("{line}");
}
