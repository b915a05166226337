//! The bytes of a connection, by TLS or without.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
#[cfg(not(test))]
use std::time::Duration;

#[cfg(not(test))]
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(not(test))]
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;
#[cfg(test)]
use turmoil::net::TcpStream;

#[cfg(not(test))]
use super::addresses::first_of;
use super::tls::Trust;
use crate::registry::Address;

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// After how much silence the system asks whether the other machine is there, which it answers also while
/// its program is busy,
#[cfg(not(test))]
const SILENCE: Duration = Duration::from_secs(10);
/// how long it waits for that,
#[cfg(not(test))]
const PATIENCE: Duration = Duration::from_secs(5);
/// and how often it asks before the connection is broken.
#[cfg(not(test))]
const QUESTIONS: u32 = 4;

impl Stream {
    /// Connects to an address.
    pub(super) async fn connect(address: &Address) -> io::Result<TcpStream> {
        let plain = reach(address).await?;
        plain.set_nodelay(true)?;
        #[cfg(not(test))]
        keep_alive(&plain)?;
        Ok(plain)
    }

    /// Has who is at the other end prove to be that host.
    pub(super) async fn secure(
        plain: TcpStream,
        address: &Address,
        trust: &Trust,
    ) -> io::Result<Self> {
        let (connector, name) = trust.connector(&address.host).await?;
        Ok(Self::Secure(Box::new(connector.connect(name, plain).await?)))
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Secure(stream) => Pin::new(stream).poll_read(context, into),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Secure(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    /// Sends what TLS has kept back.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }
}

/// Connects to whichever of a host's addresses takes it first.
#[cfg(not(test))]
async fn reach(address: &Address) -> io::Result<TcpStream> {
    let addresses = lookup_host((address.host.as_str(), address.port)).await?;
    first_of(addresses, TcpStream::connect).await
}

#[cfg(test)]
async fn reach(address: &Address) -> io::Result<TcpStream> {
    TcpStream::connect((address.host.as_str(), address.port)).await
}

/// A machine that is off, or cut off, breaks its connections within half a minute.
#[cfg(not(test))]
fn keep_alive(plain: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(plain, true)?;
    sockopt::set_tcp_keepidle(plain, SILENCE)?;
    sockopt::set_tcp_keepintvl(plain, PATIENCE)?;
    Ok(sockopt::set_tcp_keepcnt(plain, QUESTIONS)?)
}
