//! Commands against a queen whose jobs follow a script: what goes to which stream, and how it ends.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Ended, Home, TestQueen, finish};
use daemon_lifecycle::RunFiles;
use rbee_operations::JobState;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_text_alone_is_on_stdout() {
    let (home, queen) = (Home::new(), TestQueen::start());
    for line in ["infer --model smollm2-135m 'Hello'", "infer --prompt 'Hello'", "infer Hello -q"] {
        let ended = run(&home, &queen, line).await.expect(0);
        assert_eq!(ended.stdout, "Hello – said the bee.\n\n", "{line}");
        let wants_stats = !line.ends_with("-q");
        assert_eq!(ended.stderr.contains("68.2 tokens/s"), wants_stats, "{line}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_can_come_from_stdin() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let mut command = home.command("infer -q -");
    command.env("RBEE_QUEEN_URL", &queen.url).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all("two\nlines".as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "two\nlines – said the bee.\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_json_is_one_object() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let ended = run(&home, &queen, "infer --json Hello").await.expect(0);
    let answer = ended.json();
    assert_eq!(answer["text"], "Hello – said the bee.\n\n");
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 42);
    assert_eq!(answer["timings"]["ttft_ms"], 35.4);
    assert_eq!(ended.stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_a_server_answers_by_its_name_there() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let ended = run(&home, &queen, "infer --model org/Model-8B Hello --json").await.expect(0);
    assert_eq!(ended.json()["model"], "org-Model-8B");
    let ended = run(&home, &queen, "infer --model org/none Hello").await.expect(1);
    assert!(ended.stderr.contains("there is no model \"org/none\""), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_named_by_where_it_comes_from_is_downloaded_once_and_used() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let downloads = || {
        let jobs = queen.jobs.list();
        jobs.iter().filter(|job| job.operation == "model_download").count()
    };
    let spawned = || queen.jobs.list()[0].detail["WorkerSpawn"]["model"].clone();
    let ended = run(&home, &queen, "infer --model hf:o/r:Q8_0 Hello --json").await.expect(0);
    assert_eq!(ended.json()["model"], "fetched");
    assert_eq!(downloads(), 1);
    let ended = run(&home, &queen, "worker spawn --model hf:o/r:Q8_0").await.expect(0);
    assert!(ended.stderr.contains("Downloading fetched: 100 B of 100 B"), "{ended:?}");
    assert_eq!(spawned(), "fetched");
    assert_eq!(downloads(), 2);
    // What came from there is in a catalog.
    let ended = run(&home, &queen, "infer --model file:/models/m.gguf Hi --json").await.expect(0);
    assert_eq!(ended.json()["model"], "smollm2-135m");
    run(&home, &queen, "worker spawn --model file:/models/m.gguf").await.expect(0);
    assert_eq!(spawned(), "smollm2-135m");
    assert_eq!(downloads(), 2);
    // On that hive there is none.
    run(&home, &queen, "worker spawn --hive gpu-1 --model file:/models/m.gguf").await.expect(0);
    assert_eq!(downloads(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_the_projector_too_wants_consent_to_both() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let (model, projector) = ("c".repeat(64), "e".repeat(64));
    let both =
        format!("model update m --hive gpu-1 --accept {model} --accept-projector {projector}");
    for line in
        ["model update m --hive gpu-1", &format!("model update m --hive gpu-1 --accept {model}")]
    {
        let ended = run(&home, &queen, line).await.expect(1);
        assert!(ended.stderr.contains(&both), "{ended:?}");
    }
    let taken = || queen.jobs.list()[0].detail["ModelUpdate"].clone();
    assert_eq!(taken()["accept"], Value::Null, "it only looked");
    for line in [both.as_str(), "model update m --hive gpu-1 --yes"] {
        run(&home, &queen, line).await.expect(0);
        assert_eq!(
            (&taken()["accept"], &taken()["accept_projector"]),
            (&model.clone().into(), &projector.clone().into())
        );
    }
    let ended = run(&home, &queen, "model mmproj m none --hive gpu-1").await.expect(0);
    assert!(ended.stdout.contains("m sees with none"), "{ended:?}");
    assert_eq!(queen.jobs.list()[0].detail["ModelProjectorSet"]["hive_id"], "gpu-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_arrays_and_things_are_objects() {
    let (home, queen) = (Home::new(), TestQueen::start());
    for (line, length) in [("worker list", 1), ("model list", 0), ("hive list", 1), ("job list", 3)]
    {
        let list = run(&home, &queen, &format!("{line} --json")).await.expect(0).json();
        assert_eq!(list.as_array().map(Vec::len), Some(length), "{line}: {list}");
    }
    for (line, field, value) in [
        ("worker spawn --model smollm2-135m", "state", "ready"),
        ("worker get w-1a2b3c4d", "worker_id", "w-1a2b3c4d"),
        ("model get smollm2-135m", "alias", "smollm2-135m"),
        ("hive status", "hive_id", "localhost"),
        ("hive start", "hive_id", "localhost"),
        ("queen info", "name", "queen-rbee"),
        ("status", "version", "0.1.0"),
    ] {
        let ended = run(&home, &queen, &format!("{line} --json")).await.expect(0);
        assert_eq!(ended.json()[field], value, "{line}");
        assert_eq!(ended.stderr, "", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_queen_in_json_is_what_the_text_tells() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let named = run(&home, &queen, "queen info --json").await.expect(0).json();
    assert_eq!(named["address"], queen.url);
    assert_eq!(named.get("pid"), None, "whether it is of this machine is not known");
    let address = queen.url.strip_prefix("http://").unwrap().parse().unwrap();
    let lock = RunFiles::new(&home.path().join("run"), "queen-rbee").acquire().unwrap();
    lock.publish_addr(address).unwrap();
    let told = home.run("queen info --json").await.expect(0).json();
    let text = home.run("queen info").await.expect(0).stdout;
    for key in ["address", "pid", "log"] {
        let value = told[key].as_str().map_or_else(|| told[key].to_string(), str::to_owned);
        assert!(text.contains(&value), "{key}: {told} {text}");
    }
    assert_eq!(told["pid"], std::process::id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_runs_is_listed_with_its_hive_and_cancelled_there() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let listed = run(&home, &queen, "model list --partial").await.expect(0);
    assert!(listed.stdout.contains("hf:o/r  nas   running  1.0 MB"), "{listed:?}");
    assert!(listed.stderr.contains("hive attic is left out: it does not report"), "{listed:?}");
    let json = run(&home, &queen, "model list --partial --json").await.expect(0);
    assert_eq!(json.json()[0]["hive_id"], "nas", "the list is no other for it");
    let told = r#"{"warning":{"message":"hive attic is left out: it does not report"}}"#;
    assert_eq!(json.stderr, format!("{told}\n"));
    let quiet = run(&home, &queen, "model list --partial --json --quiet").await.expect(0);
    assert_eq!(quiet.stderr, "");
    let cancelled = run(&home, &queen, "model cancel hf:o/r").await.expect(0);
    assert_eq!(cancelled.stdout, "hf:o/r is cancelled on nas\n");
    let here = run(&home, &queen, "model cancel hf:o/r --hive gpu-1").await.expect(0);
    assert_eq!(here.stdout, "hf:o/r is cancelled on gpu-1\n");
    let none = run(&home, &queen, "model cancel hf:o/other").await.expect(1);
    assert!(none.stderr.contains("no hive downloads hf:o/other"), "{none:?}");
    let none = run(&home, &queen, "model cancel hf:o/other --json").await.expect(1);
    assert_eq!(none.error()["message"], "no hive downloads hf:o/other");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_request_went_where_it_did_is_told_in_the_order_of_the_decisions() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let ended = run(&home, &queen, "request why r-1").await.expect(0);
    let kinds: Vec<_> =
        ended.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(kinds, ["spawn", "dispatch"], "{ended:?}");
    assert!(ended.stdout.contains("one is to be started on localhost"), "{ended:?}");
    let json = run(&home, &queen, "request why r-1 --json").await.expect(0).json();
    assert_eq!(json[1]["request_id"], "r-1");
    let unknown = run(&home, &queen, "request why unknown").await.expect(1);
    assert!(unknown.stderr.contains("no decision about request unknown"), "{unknown:?}");

    run(&home, &queen, "infer -q Hello").await.expect(0);
    let jobs = run(&home, &queen, "job list --json").await.expect(0).json();
    let id = jobs[0]["job_id"].as_str().unwrap();
    let shown = run(&home, &queen, &format!("job show {id} --why")).await.expect(0).stdout;
    assert!(shown.contains("succeeded") && shown.contains("the only worker"), "{shown}");
    let json = run(&home, &queen, &format!("job show {id} --why --json")).await.expect(0).json();
    assert_eq!(
        (&json["job"]["job_id"], &json["decisions"][0]["request_id"]),
        (&id.into(), &id.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_request_that_is_no_job_its_decisions_are_shown_and_where_there_are_none_there_is_no_job()
 {
    let (home, queen) = (Home::new(), TestQueen::start());
    // The second is as long as the ids of jobs are, the third is none of theirs.
    for id in ["r-1", "6f1c2a8e-0000-4000-8000-000000000001", "r".repeat(40).as_str()] {
        let why = run(&home, &queen, &format!("request why {id}")).await.expect(0).stdout;
        let shown = run(&home, &queen, &format!("job show {id} --why")).await.expect(0).stdout;
        assert_eq!(shown, why, "{id}");
        let json = format!("job show {id} --why --json");
        let json = run(&home, &queen, &json).await.expect(0).json();
        assert_eq!((&json["job"], &json["decisions"][0]["request_id"]), (&Value::Null, &id.into()));
        let plain = run(&home, &queen, &format!("job show {id}")).await;
        assert_ne!(plain.code, 0, "{plain:?}");
    }
    let unknown = run(&home, &queen, "job show unknown --why").await.expect(1);
    assert!(unknown.stderr.contains("there is no job \"unknown\""), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_rules_is_tried_and_what_it_says_is_shown() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let file = home.path().join("rules.rhai");
    std::fs::write(&file, "fn filter(request, worker) { true }").unwrap();
    let line = format!("policy test {} --model m --priority batch", file.display());
    let shown = run(&home, &queen, &line).await.expect(0).stdout;
    insta::assert_snapshot!(shown, @r"
    m, batch
    WORKER           HIVE   DEVICE  ALLOWED  EXPECTED  SCORE
    (to be started)  gpu-1  GPU-0   yes      0 ms      +250 ms
    with the script:    one is to be started on gpu-1
    without the script: it waits (room)
    ");
    let json = run(&home, &queen, &format!("{line} --json")).await.expect(0).json();
    assert_eq!(json["models"][0]["places"][0]["extra_ms"], 250);
    let missing = run(&home, &queen, "policy test missing.rhai").await.expect(1);
    assert!(missing.stderr.contains("missing.rhai"), "{missing:?}");
    let device = run(&home, &queen, "policy test /dev/zero").await.expect(1);
    assert!(device.stderr.contains("it is no regular file"), "{device:?}");
    std::fs::write(&file, "/".repeat((64 << 10) + 1)).unwrap();
    let long = run(&home, &queen, &line).await.expect(1);
    assert!(long.stderr.contains("has more than 65536 bytes"), "{long:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_rules_that_fails_is_told_by_the_exit_status_and_shown_all_the_same() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let file = home.path().join("rules.rhai");
    std::fs::write(&file, "fn filter(request, worker) { throw 1 }").unwrap();
    let line = format!("policy test {} --model m", file.display());
    let failed = run(&home, &queen, &line).await.expect(1);
    assert!(failed.stdout.contains("without the script: it waits (room)"), "{failed:?}");
    assert!(failed.stderr.contains("the script failed: it threw something"), "{failed:?}");
    let json = run(&home, &queen, &format!("{line} --json")).await.expect(1).json();
    assert_eq!(json["models"][0]["error"], "it threw something (line 1)");
    // One that refuses every place has not failed.
    std::fs::write(&file, "fn filter(request, worker) { false }").unwrap();
    let refuses = run(&home, &queen, &line).await.expect(0).stdout;
    assert!(refuses.contains("no       0 ms"), "{refuses}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_out_of_its_bounds_is_a_mistake_of_the_command() {
    let (home, queen) = (Home::new(), TestQueen::start());
    for (options, told) in [
        ("--min 99", "--min"),
        ("--max 0", "--max"),
        ("--min -1", "--min"),
        ("--min 3 --max 1", "--min 3 is more than --max 1"),
    ] {
        let ended = run(&home, &queen, &format!("model policy m {options}")).await.expect(2);
        assert!(ended.stderr.contains(told), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_on_stderr_and_the_result_on_stdout() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let ended = run(&home, &queen, "worker spawn --model smollm2-135m").await.expect(0);
    assert_eq!(ended.stdout, "Worker w-1a2b3c4d is ready\n");
    insta::assert_snapshot!(ended.stderr, @r"
    Starting worker on CPU-0
    Loading: 0%
    Loading: 10%
    Loading: 20%
    Loading: 30%
    Loading: 40%
    Loading: 50%
    Loading: 60%
    Loading: 70%
    Loading: 80%
    Loading: 90%
    Loading: 100%
    warning: The context is small
    ");
    let quiet = run(&home, &queen, "-q worker spawn --model smollm2-135m").await.expect(0);
    assert_eq!(
        (quiet.stdout.as_str(), quiet.stderr.as_str()),
        ("Worker w-1a2b3c4d is ready\n", "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_is_a_failure_with_its_hint() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let ended = run(&home, &queen, "infer nothing").await.expect(1);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.contains("error: there is no model \"x\"\n"), "{ended:?}");
    assert!(ended.stderr.ends_with("hint: rbee-keeper model list\n"), "{ended:?}");
    let error = run(&home, &queen, "infer nothing --json").await.expect(1).error();
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(error["hint"], "rbee-keeper model list");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_model_file_shows_both_digests_and_fails() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let ended = run(&home, &queen, "model verify smollm2-135m").await.expect(1);
    assert!(ended.stdout.contains(&"b".repeat(64)) && ended.stdout.contains(&"c".repeat(64)));
    assert_eq!(
        run(&home, &queen, "model verify m --json").await.expect(1).json()["matches"],
        false
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_the_job_and_says_130() {
    for signal in ["INT", "TERM"] {
        let (home, queen) = (Home::new(), TestQueen::start());
        let mut command = home.command("infer forever");
        command.env("RBEE_QUEEN_URL", &queen.url).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut written = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut written).await.unwrap();
        assert_eq!(&written, b"It was");
        let pid = child.id().unwrap().to_string();
        Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(
            output.status.code(),
            Some(if signal == "INT" { 130 } else { 143 }),
            "{output:?}"
        );
        assert_eq!(only_job(&queen), JobState::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_when_its_queen_is_back() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let url = queen.url.clone();
    let mut command = home.command("model download hf:o/slow");
    command.env("RBEE_QUEEN_URL", &url);
    let lives = async {
        until("the download", || queen.jobs.running() == 1).await;
        queen.end().await;
        let queen = TestQueen::again(&url).await;
        queen.slow.add_permits(1);
        queen
    };
    let (ended, _queen) = tokio::join!(finish(command), lives);
    let ended = ended.expect(0);
    assert_eq!(ended.stdout, "Model fetched is in the catalog\n");
    assert!(ended.stderr.contains("the download is gone on with when she is back"), "{ended:?}");
    assert!(ended.stderr.contains("Downloading fetched: 100 B of 100 B"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_enough_ends_the_job_without_a_word() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let mut command = home.command("infer flood");
    command.env("RBEE_QUEEN_URL", &queen.url).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = [0; 12];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut line).await.unwrap();
    drop(stdout);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("error"), "{stderr}");
    until("the job to be cancelled", || only_job(&queen) == JobState::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_found_by_the_beginning_of_its_id() {
    let (home, queen) = (Home::new(), TestQueen::start());
    run(&home, &queen, "infer Hello -q").await.expect(0);
    let id = queen.jobs.list()[0].job_id.to_string();
    let shown = run(&home, &queen, &format!("job show {} --json", &id[..8])).await.expect(0).json();
    assert_eq!(shown["job_id"], *id);
    assert_eq!(shown["state"], "succeeded");
    assert!(!shown.to_string().contains("Hello"), "a prompt is not kept: {shown}");
    let followed = run(&home, &queen, &format!("job follow {id} --json")).await.expect(0).json();
    let names: Vec<&Value> = followed.as_array().unwrap().iter().map(|e| &e["event"]).collect();
    assert_eq!(names, ["infer", "token", "token", "token", "infer"]);
    let followed = run(&home, &queen, &format!("job follow {id}")).await.expect(0).stdout;
    assert!(followed.contains("Hello – said the bee.\n"), "{followed}");
    let cancelled = run(&home, &queen, &format!("job cancel {id}")).await.expect(0).stdout;
    assert!(cancelled.contains("has ended: succeeded"), "{cancelled}");
    let missing = run(&home, &queen, "job show 00000000").await.expect(1);
    assert!(missing.stderr.contains("00000000"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hive_inside_the_queen_is_recommended_and_no_script_is_stopped_by_it() {
    let (home, queen) = (Home::new(), TestQueen::start());
    for line in ["hive start localhost --yes", "hive start localhost"] {
        let ended = run(&home, &queen, line).await.expect(0);
        assert!(ended.stderr.contains("queen rebuild --with-local-hive"), "{ended:?}");
        assert_eq!(ended.stdout, "Hive localhost is ready\n");
    }
    let other = run(&home, &queen, "hive start gpu-1").await.expect(0);
    assert!(!other.stderr.contains("rebuild"), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_on_one_screen() {
    let (home, queen) = (Home::new(), TestQueen::start());
    let screen = run(&home, &queen, "status").await.expect(0).stdout;
    for part in
        ["up 2h11m", "local-hive", "1 job running", "CPU-0", "smollm2-135m", "w-1a2b3c4d", "1/4"]
    {
        assert!(screen.contains(part), "{part} is missing:\n{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_a_queen_that_demands_one() {
    let (home, queen) = (Home::new(), TestQueen::with_token("rbee_secret"));
    let refused = run(&home, &queen, "worker list").await.expect(1);
    assert!(refused.stderr.contains("demands a token"), "{refused:?}");
    assert!(refused.stderr.contains("RBEE_API_KEY"), "{refused:?}");

    let mut command = home.command("worker list --json");
    command.env("RBEE_QUEEN_URL", &queen.url).env("RBEE_API_KEY", "rbee_wrong");
    let refused = finish(command).await.expect(1);
    assert!(!refused.stderr.contains("rbee_wrong"), "{refused:?}");
    assert_eq!(refused.error()["type"], "authentication_error");

    let mut command = home.command("worker list");
    command.env("RBEE_QUEEN_URL", &queen.url).env("RBEE_API_KEY", "rbee_secret");
    finish(command).await.expect(0);
    std::fs::write(home.path().join("token"), "rbee_secret\n").unwrap();
    run(&home, &queen, "worker list --token-file token").await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queen_of_another_version_is_told_of_and_used() {
    let (home, queen) = (Home::new(), TestQueen::of_version("9.9.9"));
    let ended = run(&home, &queen, "worker list").await.expect(0);
    assert!(ended.stderr.starts_with("warning: queen-rbee"), "{ended:?}");
    assert!(ended.stderr.contains("9.9.9"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_queen_is_called_what_it_is() {
    let home = Home::new();
    let hive = TestQueen::named("rbee-hive");
    let ended = run(&home, &hive, "worker list").await.expect(1);
    assert!(ended.stderr.contains("rbee-hive"), "{ended:?}");
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let url = stranger(answer).await;
        let ended = home.run(&format!("--queen {url} worker list")).await.expect(1);
        assert!(ended.stderr.contains("not a queen"), "{answer}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_for_terminals() {
    let (home, queen) = (Home::new(), TestQueen::start());
    for line in ["status", "worker list", "infer nothing"] {
        let ended = run(&home, &queen, line).await;
        assert!(!ended.stdout.contains('\x1b') && !ended.stderr.contains('\x1b'), "{ended:?}");
    }
}

/// Runs a command against the queen.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_attached_with_the_token_of_a_file() {
    let (home, queen) = (Home::new(), TestQueen::start());
    std::fs::write(home.path().join("token"), "hush\n").unwrap();
    let line = "worker attach --url http://nas:11434 --name nas --secret-file token --slots 8 \
                --model a --model org/b --json";
    let ended = run(&home, &queen, line).await.expect(0);
    let attached = ended.json();
    assert_eq!((&attached["knows_token"], &attached["slots"]), (&true.into(), &8.into()));
    assert_eq!(attached["models"], serde_json::json!(["a", "org/b"]));
    let job = run(&home, &queen, "job list --json").await.expect(0);
    assert!(!job.stdout.contains("hush") && !ended.stderr.contains("hush"), "{job:?}");
    for (line, mentions) in [
        ("worker attach", "--url"),
        ("worker attach --url http://nas --api soap", "openai"),
        ("worker attach --url http://nas --slots 0", "1..=1024"),
        ("worker detach", "NAME"),
    ] {
        let ended = run(&home, &queen, line).await.expect(2);
        assert!(ended.stderr.contains(mentions), "{line}: {ended:?}");
    }
}

async fn run(home: &Home, queen: &TestQueen, line: &str) -> Ended {
    let mut command = home.command(line);
    command.env("RBEE_QUEEN_URL", &queen.url);
    finish(command).await
}

/// A server that gives every client the same bytes, for as long as the test runs.
async fn stranger(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let listener = listener.into_std().unwrap();
        listener.set_nonblocking(false).unwrap();
        for client in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let mut client = client;
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(answer.as_bytes());
        }
    });
    url
}

fn only_job(queen: &TestQueen) -> JobState {
    let jobs = queen.jobs.list();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    jobs[0].state
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
