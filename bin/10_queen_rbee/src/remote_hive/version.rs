//! Versions of the C library, which programs of one machine need on another.

use std::fmt;
use std::str::FromStr;

/// `2.36`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The latest version of glibc whose symbols a program wants: it is in the names of those versions.
    pub(super) fn of_glibc_in(program: &[u8]) -> Option<Self> {
        const NAME: &[u8] = b"GLIBC_";
        let mut latest = None;
        for at in memchr::memmem::find_iter(program, NAME) {
            let rest = &program[at + NAME.len()..];
            let end =
                rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(rest.len());
            let version =
                std::str::from_utf8(&rest[..end.min(16)]).ok().and_then(|v| v.parse().ok());
            latest = latest.max(version);
        }
        latest
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().split('.').map(|part| part.parse::<u32>().ok());
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_all_wanted_versions_counts() {
        let program =
            b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.9\0GLIBCXX_3.4.30\0GLIBC_2";
        assert_eq!(Version::of_glibc_in(program), Some("2.34".parse().unwrap()));
        assert_eq!(Version::of_glibc_in(b"static"), None);
        assert!("2.36".parse::<Version>().unwrap() > "2.9".parse().unwrap());
    }
}
