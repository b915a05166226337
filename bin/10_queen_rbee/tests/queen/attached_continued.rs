//! A last message of the assistant, continued by servers of others and after their failures.

use serde_json::{Value, json};
use worker_contract::{ChatMessage, Role, Task};

use crate::attached_failover::impatient;
use crate::support::{Plays, Script, ServerDouble, WorkerDouble};

const CHAT: &str = "/v1/chat/completions";

fn begun() -> Value {
    let begun = json!({"role": "assistant", "content": "My favourite colour is"});
    json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}, begun]})
}

#[tokio::test]
async fn a_last_message_that_a_server_is_told_to_continue_goes_on_after_it_and_what_the_server_gave()
 {
    for owner in ["llamacpp", "vllm", "rbee"] {
        let server = ServerDouble::start(owner, &["m"], [Plays::Dies(&[" **Pi"])]);
        let queen = impatient(&server).await;
        let worker = WorkerDouble::start("w-1", [Script::Says(&["nk**"])]);
        queen.worker_beat(&worker.beat()).await;
        let transcript = queen.stream(CHAT, &begun()).await.begun().await.rest().await;
        assert!(transcript.is_done && transcript.error.is_none(), "{owner}: {transcript:?}");
        assert_eq!(transcript.text(), " **Pink**", "{owner}");
        let asked = &server.requests()[0];
        assert_eq!(asked["messages"], begun()["messages"], "{owner}");
        let told = [&asked["continue_final_message"], &asked["add_generation_prompt"]];
        let expected =
            if owner == "rbee" { [json!(null), json!(null)] } else { [true.into(), false.into()] };
        assert_eq!(told, [&expected[0], &expected[1]], "{owner}");
        let Task::Chat(chat) = &worker.requests()[0].task else { panic!("{owner}: a chat") };
        let whole = ChatMessage::text(Role::Assistant, "My favourite colour is **Pi");
        assert_eq!((chat.messages.len(), &chat.messages[1]), (2, &whole), "{owner}");
    }
}

#[tokio::test]
async fn a_message_that_a_server_may_have_begun_by_itself_is_continued_by_nobody() {
    for owner in ["library", "organization_owner", "theirs"] {
        for is_streamed in [true, false] {
            let plays = [Plays::Dies(&["My favourite colour is **Pi"])];
            let server = ServerDouble::start(owner, &["m"], plays);
            let queen = impatient(&server).await;
            let worker = WorkerDouble::start("w-1", [Script::Says(&[" **Blue**"])]);
            queen.worker_beat(&worker.beat()).await;
            if is_streamed {
                let transcript = queen.stream(CHAT, &begun()).await.begun().await.rest().await;
                let error = transcript.error.expect("the true error");
                assert_eq!((&error["code"], transcript.is_done), (&json!("worker_failed"), false));
                assert!(worker.requests().is_empty(), "{owner}");
            } else {
                let reply = queen.ask(CHAT, &begun()).await;
                let text = reply.json()["choices"][0]["message"]["content"].clone();
                let worker_gave = text == " **Blue**";
                assert!(worker_gave || text == "Hello world", "{owner}, begun anew: {reply:?}");
            }
            assert!(!server.requests().is_empty(), "{owner} began");
        }
    }
}
