//! Operations as jobs.

use job_client::{JobClient, JobEnd};
use rbee_operations::{HiveTarget, Infer, JobEvent, Operation};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker_contract::{HiveAlias, Prompt, Sampling, Task};

use crate::support::{HiveDouble, Queen, Script, WorkerDouble, until};

#[tokio::test]
async fn an_answer_comes_as_token_events_and_its_figures_as_the_result() {
    let (queen, worker) = queen_with_worker([]).await;
    let (events, end) = run(&queen, &infer(None)).await;
    let tokens: Vec<_> = events.iter().filter(|event| event.event == "token").collect();
    let texts: Vec<_> = tokens.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(texts, ["Hello", " world"]);
    assert_eq!(tokens[0].data, Some(json!({"text": "Hello", "tokens": [0, 1]})));
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    let data = last.data.unwrap();
    assert_eq!((&data["worker_id"], &data["finish_reason"]), (&json!("w-1"), &json!("stop")));
    assert_eq!(data["usage"]["completion_tokens"], 2);
    assert!(matches!(&worker.requests()[0].task, Task::Chat(chat) if chat.messages.len() == 1));
}

#[tokio::test]
async fn a_cancelled_job_ends_the_request_at_the_worker() {
    let (queen, worker) = queen_with_worker([Script::Hangs(&["Hello"])]).await;
    let cancel = CancellationToken::new();
    let jobs = client(&queen);
    let operation = infer(None);
    let job = jobs.run_until(&operation, &cancel, |_| {});
    let cancelling = async {
        until("the worker has it", async || worker.open() == 1).await;
        cancel.cancel();
    };
    let (end, ()) = tokio::join!(job, cancelling);
    assert_eq!(end.unwrap(), JobEnd::Cancelled);
    until("the worker's connection is closed", async || worker.open() == 0).await;
}

#[tokio::test]
async fn a_model_without_a_template_continues_the_prompt_as_it_is() {
    let no_template = || Script::Refuses(400, "no_chat_template");
    let (queen, worker) =
        queen_with_worker([no_template(), Script::Says(&["x"]), no_template()]).await;
    let (_, end) = run(&queen, &infer(None)).await;
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
    let prompt = Prompt::Text("Hi".into());
    assert_eq!(worker.requests()[1].task, Task::Completion { prompt });

    let (_, end) = run(&queen, &infer(Some("Be brief."))).await;
    let JobEnd::Failed(error) = end else { panic!("instructions cannot be followed: {end:?}") };
    assert_eq!(error.code.as_deref(), Some("no_chat_template"));
}

#[tokio::test]
async fn a_failed_inference_says_why() {
    let (queen, _worker) = queen_with_worker([Script::Dies(&["Hello"])]).await;
    let (_, end) = run(&queen, &infer(None)).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("worker_failed"));

    let mut unknown = infer(None);
    if let Operation::Infer(infer) = &mut unknown {
        infer.model = "nothing".parse().unwrap();
    }
    let (_, end) = run(&queen, &unknown).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("model_not_found"));
    assert!(error.message.contains("nothing"), "{error:?}");
}

#[tokio::test]
async fn a_hives_events_are_passed_on_once_and_its_result_and_errors_become_ours() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&hive.beat()).await;
    let (events, end) = run(&queen, &Operation::ModelList(localhost())).await;
    let messages: Vec<_> = events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["looking", "found", "1 model"]);
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    assert_eq!(last.data.unwrap()["models"][0]["alias"], "m");

    let (_, end) = run(&queen, &Operation::WorkerList(localhost())).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("not_in_the_script"));
    assert_eq!(error.hint.as_deref(), Some("ask something else"));
}

#[tokio::test]
async fn hives_are_listed_and_an_unknown_one_names_the_known() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let (_, end) = run(&queen, &Operation::WorkerList(localhost())).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("hive_not_running"));

    queen.hive_beat(&hive.beat()).await;
    let (_, end) = run(&queen, &Operation::HiveList {}).await;
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    let listed = &last.data.unwrap()["hives"][0];
    assert_eq!((&listed["hive_id"], &listed["liveness"]), (&json!("localhost"), &json!("alive")));

    let elsewhere = HiveTarget { hive_id: "gpu-1".parse().unwrap() };
    let (_, end) = run(&queen, &Operation::HiveStatus(elsewhere)).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("hive_not_found"));
    assert!(error.message.contains("known are: localhost"), "{error:?}");
}

async fn queen_with_worker(scripts: impl IntoIterator<Item = Script>) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}

async fn run(queen: &Queen, operation: &Operation) -> (Vec<JobEvent>, JobEnd) {
    let mut events = Vec::new();
    let end = client(queen).run(operation, |event| events.push(event.clone())).await.unwrap();
    (events, end)
}

fn client(queen: &Queen) -> JobClient {
    JobClient::new(&queen.url, None)
}

fn infer(system: Option<&str>) -> Operation {
    Operation::Infer(Box::new(Infer {
        model: "m".parse().unwrap(),
        prompt: "Hi".into(),
        system: system.map(str::to_owned),
        sampling: Sampling::default(),
    }))
}

fn localhost() -> HiveTarget {
    HiveTarget { hive_id: HiveAlias::localhost() }
}
