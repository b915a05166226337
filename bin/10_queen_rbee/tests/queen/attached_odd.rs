//! Servers of others that write their answers in ways of their own.

use crate::attached::queen_with;
use crate::support::{Plays, ServerDouble, chat};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn what_keeps_a_stream_alive_takes_nothing_of_its_answer_away() {
    for between in
        ["data:\n\n", "data: {}\n\n", "event: ping\ndata: ping\n\n", "event: ping\ndata: {}\n\n"]
    {
        let text = |text: &str| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
            )
        };
        let (hello, world) = (text("Hello"), text(" world"));
        let body = format!("{between}{hello}{between}{world}data: [DONE]\n\n{between}");
        let plays = Plays::Answers(200, "text/event-stream", body);
        let server = ServerDouble::start("vllm", &["m"], [plays]);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        let choice = &reply.json()["choices"][0];
        assert_eq!(choice["message"]["content"], "Hello world", "{between}: {reply:?}");
        assert_eq!(server.requests().len(), 1, "{between}");
    }
}

#[tokio::test]
async fn a_content_type_is_understood_in_any_case() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
    let whole = r#"{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    for (kind, body) in [
        ("Text/Event-Stream; charset=utf-8", format!("data: {chunk}\n\ndata: [DONE]\n\n")),
        ("Application/JSON", whole.to_owned()),
    ] {
        let server = ServerDouble::start("vllm", &["m"], [Plays::Answers(200, kind, body)]);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hi", "{kind}: {reply:?}");
        assert_eq!(server.requests().len(), 1, "{kind}");
    }
}
