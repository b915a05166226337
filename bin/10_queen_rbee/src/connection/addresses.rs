//! Which of several addresses of one host is used: the first that takes a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

/// After how long without a word of one address the next is tried as well (RFC 8305, "Connection Attempt Delay").
const DELAY: Duration = Duration::from_millis(250);
/// How many addresses of one host are tried.
const MOST: usize = 8;

/// Connects to the first address that takes a connection. One that is silent, such as an IPv6 address whose
/// router leads nowhere, does not keep the others from being tried; those that are slower are given up.
pub(super) async fn first_of<T, F: Future<Output = io::Result<T>>>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut left = addresses.into_iter().take(MOST).peekable();
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    loop {
        match left.next() {
            Some(address) => attempts.push(connect(address)),
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        let has_more = left.peek().is_some();
        tokio::select! {
            biased;
            Some(attempt) = attempts.next() => match attempt {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            },
            () = sleep(DELAY), if has_more => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;

    use tokio::time::{Instant, timeout};

    use super::*;

    /// What an address does.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Does {
        Takes(u64),
        Refuses(u64),
        Nothing,
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_address_that_takes_a_connection_is_used() {
        use Does::{Nothing, Refuses, Takes};
        for (because, addresses, expected, ms, tried) in [
            ("one", vec![Takes(10)], Some(1), 10, 1),
            ("the first is as good", vec![Takes(10), Takes(0)], Some(1), 10, 1),
            ("one refuses", vec![Refuses(10), Takes(20)], Some(2), 30, 2),
            ("one is silent", vec![Nothing, Takes(10)], Some(2), 260, 2),
            ("several are", vec![Nothing, Nothing, Nothing, Takes(0)], Some(4), 750, 4),
            ("the slow one is sooner", vec![Takes(300), Nothing], Some(1), 300, 2),
            ("one refuses late", vec![Refuses(300), Nothing, Takes(0)], Some(3), 300, 3),
            ("all refuse", vec![Refuses(10), Refuses(10)], None, 20, 2),
            ("there is none", vec![], None, 0, 0),
            ("there are too many", [vec![Refuses(0); 8], vec![Takes(0)]].concat(), None, 0, 8),
        ] {
            let began = Instant::now();
            let log = RefCell::new(0);
            let ports = (1..=addresses.len()).map(|port| {
                SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("there are few")))
            });
            let connect = async |address: SocketAddr| {
                *log.borrow_mut() += 1;
                match addresses[usize::from(address.port()) - 1] {
                    Takes(after) => sleep(Duration::from_millis(after)).await,
                    Refuses(after) => {
                        sleep(Duration::from_millis(after)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Nothing => pending().await,
                }
                Ok(address.port())
            };
            let first = timeout(Duration::from_secs(3), first_of(ports, connect)).await;
            let took = began.elapsed().as_millis();
            let first = first.expect("not all are silent").ok();
            assert_eq!((first, took, *log.borrow()), (expected, ms, tried), "{because}");
        }
    }
}
