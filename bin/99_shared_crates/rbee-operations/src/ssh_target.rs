//! Where `ssh` is to go.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `[USER@]HOST[:PORT]`: a host name, an address (IPv6 in brackets) or an alias of `~/.ssh/config`.
///
/// It becomes arguments of `ssh`, so neither part can begin like an option or hold what a shell reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SshTarget {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

/// A target of `ssh` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid SSH target {value:?}: give [USER@]HOST[:PORT] or an alias of ~/.ssh/config, an IPv6 address in brackets"
)]
pub struct InvalidSshTarget {
    /// The refused text, cut to a printable length.
    pub value: String,
}

impl SshTarget {
    /// The user to log in as, where one is named.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The host, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, where one is named.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The command that a person goes there with.
    #[must_use]
    pub fn command(&self, program: &str) -> String {
        let port = self.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{program} {port}{user}{}", self.host)
    }

    fn parse(text: &str) -> Option<Self> {
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(is_word(user, "._-").then(|| user.to_owned())?), rest),
            None => (None, text),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_ipv6 = host.parse::<Ipv6Addr>().is_ok();
        if !is_ipv6 && !is_word(host, "._-") {
            return None;
        }
        let port = match port {
            Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
            None => None,
        };
        Some(Self { user, host: host.to_owned(), port })
    }
}

impl FromStr for SshTarget {
    type Err = InvalidSshTarget;

    fn from_str(text: &str) -> Result<Self, InvalidSshTarget> {
        Self::parse(text).ok_or_else(|| InvalidSshTarget { value: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for SshTarget {
    type Error = InvalidSshTarget;

    fn try_from(text: String) -> Result<Self, InvalidSshTarget> {
        text.parse()
    }
}

impl From<SshTarget> for String {
    fn from(target: SshTarget) -> Self {
        target.to_string()
    }
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn is_word(text: &str, extra: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    (1..=253).contains(&text.len())
        && text.chars().all(legal)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_understands_is_read_and_written_back() {
        for text in ["gpu-1", "bee@gpu-1.home.arpa", "bee@10.1.0.2:2222", "[fd00::1]:22", "_svc@h"]
        {
            let target: SshTarget = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
        let target: SshTarget = "bee@[fd00::1]:2222".parse().unwrap();
        assert_eq!(
            (target.user(), target.host(), target.port()),
            (Some("bee"), "fd00::1", Some(2222))
        );
        assert_eq!(target.command("ssh"), "ssh -p 2222 bee@fd00::1");
    }

    #[test]
    fn what_would_be_an_option_or_a_command_is_refused() {
        for bad in [
            "",
            "-oProxyCommand=x",
            "bee@-oProxyCommand=x",
            "-l@host",
            "a b",
            "$(id)",
            "`id`",
            "h;id",
            "h|id",
            "h\nid",
            "h'",
            "h:0",
            "h:99999",
            "h:22x",
            "[host]:22",
            "[fd00::1",
            "fd00::1:2222x",
            "h/../x",
            "bee@",
            "@h",
            "ä",
        ] {
            assert!(bad.parse::<SshTarget>().is_err(), "{bad:?}");
        }
    }
}
