//! One connection, and requests on it, one after another.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use httparse::{EMPTY_HEADER, Status};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::chunked::Chunked;
use crate::order::Order;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Room for what is read at once.
const READ: usize = 4096;

/// A connection to a gateway or a worker.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    input: Vec<u8>,
    framing: Framing,
}

/// How an answer's end is known.
#[derive(Debug)]
enum Framing {
    Chunked(Chunked),
    /// So many bytes are missing.
    Length(u64),
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("it does not take connections")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, input: Vec::new(), framing: Framing::Length(0) })
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
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{request}",
            self.address,
            request.len(),
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.input.clear();
        loop {
            ensure!(self.fill().await? > 0, "the connection ended before the answer");
            if let Some(length) = self.head()? {
                let rest = self.input.split_off(length);
                self.input.clear();
                self.decode(&rest, body)?;
                return Ok(());
            }
            ensure!(self.input.len() < MAX_HEAD, "the head of the answer does not end");
        }
    }

    /// Appends the next bytes of the answer to `body`; false at its end.
    pub(super) async fn read(&mut self, body: &mut Vec<u8>) -> Result<bool> {
        if self.is_ended() {
            return Ok(false);
        }
        self.input.clear();
        ensure!(self.fill().await? > 0, "the connection ended in the middle of the answer");
        let input = std::mem::take(&mut self.input);
        let decoded = self.decode(&input, body);
        self.input = input;
        decoded?;
        Ok(true)
    }

    /// Whether the answer is whole.
    pub(super) fn is_ended(&self) -> bool {
        match &self.framing {
            Framing::Chunked(chunked) => chunked.is_ended(),
            Framing::Length(left) => *left == 0,
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        self.input.reserve(READ);
        Ok(self.stream.read_buf(&mut self.input).await?)
    }

    fn decode(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<()> {
        match &mut self.framing {
            Framing::Chunked(chunked) => chunked.decode(bytes, body),
            Framing::Length(left) => {
                *left = left.checked_sub(bytes.len() as u64).context("the answer is too long")?;
                body.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// The length of the answer's head, once it is whole.
    fn head(&mut self) -> Result<Option<usize>> {
        let mut headers = [EMPTY_HEADER; 48];
        let mut response = httparse::Response::new(&mut headers);
        let Status::Complete(length) = response.parse(&self.input)? else { return Ok(None) };
        let header = |name: &str| {
            let found =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        if response.code != Some(200) {
            let body = String::from_utf8_lossy(&self.input[length..]);
            bail!("status {}: {body}", response.code.unwrap_or_default());
        }
        self.framing = match header("content-length") {
            Some(length) => Framing::Length(length.parse().context("content-length")?),
            None if header("transfer-encoding").is_some_and(|value| value == "chunked") => {
                Framing::Chunked(Chunked::default())
            }
            None => bail!("the answer does not say where it ends"),
        };
        Ok(Some(length))
    }
}
