//! One connection, and requests on it, one after another.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use http1_client::{AnswerReader, RequestHead};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::order::Order;

/// Room for what is read at once.
const READ: usize = 4096;

/// A connection to a gateway or a worker.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    input: Vec<u8>,
    reader: AnswerReader,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("it does not take connections")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, input: Vec::new(), reader: AnswerReader::default() })
    }

    /// Sends a chat request and reads the head of its answer; what came after it is in `body`.
    pub(super) async fn ask(
        &mut self,
        model: &str,
        order: Order,
        is_stream: bool,
        body: &mut Vec<u8>,
    ) -> Result<()> {
        let request = json!({
            "model": model,
            "messages": [{"role": "user", "content": order.to_string()}],
            "stream": is_stream,
            "max_tokens": order.tokens,
        });
        let request = request.to_string();
        let head = RequestHead::post("/v1/chat/completions", &self.address.to_string())?
            .header("content-type", "application/json")?;
        let mut bytes = head.finish(request.len());
        bytes.extend_from_slice(request.as_bytes());
        self.stream.write_all(&bytes).await?;
        self.reader = AnswerReader::default();
        loop {
            self.fill(body).await?;
            match self.reader.head() {
                Some(head) if head.status() == 200 => return Ok(()),
                Some(head) => {
                    bail!("status {}: {}", head.status(), String::from_utf8_lossy(body));
                }
                None => {}
            }
        }
    }

    /// Appends the next bytes of the answer to `body`; false at its end.
    pub(super) async fn read(&mut self, body: &mut Vec<u8>) -> Result<bool> {
        if self.is_ended() {
            return Ok(false);
        }
        self.fill(body).await?;
        Ok(true)
    }

    /// Whether the answer is whole.
    pub(super) fn is_ended(&self) -> bool {
        self.reader.is_ended()
    }

    async fn fill(&mut self, body: &mut Vec<u8>) -> Result<()> {
        self.input.clear();
        self.input.reserve(READ);
        let length = self.stream.read_buf(&mut self.input).await?;
        ensure!(length > 0, "the connection ended in the middle of the answer");
        self.reader.feed(&self.input, &mut |part| body.extend_from_slice(part))?;
        Ok(())
    }
}
