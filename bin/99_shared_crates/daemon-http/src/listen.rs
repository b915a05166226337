//! Taking an address.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "{address} is in use: another program listens there, perhaps a daemon of rbee that runs already; choose another address with --bind (a worker: --port) or `bind` in config.toml; port 0 takes a free one"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not one of this machine, or may not be used.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Listens on an address; port 0 takes a free one. Gives the address that it really has.
///
/// To be called inside a tokio runtime.
pub fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A daemon that restarts must not wait for the connections of the one before.
        socket.set_reuseaddr(cfg!(unix))?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let real = listener.local_addr()?;
        Ok((listener, real))
    };
    listen().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { address },
        _ => BindError::Refused { address, source },
    })
}

/// Others could reach a daemon that knows no token.
#[derive(Debug, thiserror::Error)]
#[error(
    "{address} can be reached from other machines, and there is no API token; make one with `rbee-keeper token create`, then start again"
)]
pub struct UnsafeBind {
    address: SocketAddr,
}

/// Refuses an address that other machines can reach as long as there is no token.
pub fn require_safe_bind(address: SocketAddr, has_tokens: bool) -> Result<(), UnsafeBind> {
    if has_tokens || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(UnsafeBind { address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (_held, address) = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(address.port(), 0);
        let error = bind(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--bind"), "{error}");
    }

    #[test]
    fn only_loopback_is_safe_without_a_token() {
        for safe in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(require_safe_bind(safe.parse().unwrap(), false).is_ok(), "{safe}");
        }
        for open in ["0.0.0.0:1", "[::]:1", "192.168.0.7:1"] {
            let error = require_safe_bind(open.parse().unwrap(), false).unwrap_err().to_string();
            assert!(error.contains("rbee-keeper token create"), "{error}");
            assert!(require_safe_bind(open.parse().unwrap(), true).is_ok(), "{open}");
        }
    }
}
