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
use test_cluster::{SmallDisk, skip};
use testbed::Testbed;

/// Each cluster is several processes, and a worker computes: more would only wait for each other.
const AT_ONCE: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        // A test runner asks what it could run one by one; the features run together.
        return ExitCode::SUCCESS;
    }
    // What a scenario's tag asks for, and why this machine does not have it.
    let lacks: Vec<(&str, String)> =
        [("root", SmallDisk::unavailable()), ("namespaces", Testbed::unavailable())]
            .into_iter()
            .filter_map(|(tag, reason)| Some((tag, reason?)))
            .collect();

    let result = Rbee::cucumber()
        .max_concurrent_scenarios(AT_ONCE)
        .with_writer(writer::Basic::stdout().repeat_failed().summarized())
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
                let lacking = lacks.iter().find(|(tag, _)| has(tag));
                if let Some((_, reason)) = lacking {
                    skip(&format!("{}, {}", feature.name, scenario.name), reason);
                }
                lacking.is_none()
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
