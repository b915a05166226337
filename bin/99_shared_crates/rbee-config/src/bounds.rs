//! Values that are checked while they are read, so that the error knows where they stand.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;

use bytesize::ByteSize;
use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// A whole number from `MIN` to `MAX`.
pub(crate) fn within<'de, D, T, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    deserializer.deserialize_u64(Within::<T, MIN, MAX>(PhantomData))
}

/// Like [`within`], for a setting that has no number by default.
pub(crate) fn some_within<'de, D, T, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    within::<D, T, MIN, MAX>(deserializer).map(Some)
}

struct Within<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

impl<T: TryFrom<u64>, const MIN: u64, const MAX: u64> Visitor<'_> for Within<T, MIN, MAX> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {MIN} to {MAX}")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let refused = || E::invalid_value(Unexpected::Unsigned(number), &self);
        if !(MIN..=MAX).contains(&number) {
            return Err(refused());
        }
        T::try_from(number).map_err(|_| refused())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }
}

/// True or false, as a text, too.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;

    impl Visitor<'_> for Flag {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: Error>(self, flag: bool) -> Result<bool, E> {
            Ok(flag)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(Flag)
}

/// A number of bytes, or a text such as `8 GiB`.
pub(crate) fn some_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    // What a configuration file can hold as a number.
    let most = i64::MAX as u64;
    let expected = "a size of at least 1.0 MiB such as \"8 GiB\"";
    deserializer.deserialize_any(Size { least: 1 << 20, most, expected }).map(Some)
}

/// The same, for the body of a request.
pub(crate) fn body_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let expected = "a size from 1 KiB to 1 GiB such as \"10 MiB\"";
    deserializer.deserialize_any(Size { least: 1 << 10, most: 1 << 30, expected })
}

/// A size within bounds, in bytes.
struct Size {
    least: u64,
    most: u64,
    expected: &'static str,
}

impl Size {
    fn within(&self, size: u64) -> Option<u64> {
        (self.least..=self.most).contains(&size).then_some(size)
    }
}

impl Visitor<'_> for Size {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        let size = u64::try_from(number).ok().and_then(|size| self.within(size));
        size.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        let size = text.trim().parse().ok().and_then(|ByteSize(size)| self.within(size));
        size.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// An IP address and a port.
pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let expected = "an IP address and a port such as \"127.0.0.1:8500\"";
    checked(deserializer, expected, |text| text.parse().ok())
}

/// The path of a PEM file.
pub(crate) fn some_pem_file<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    checked(deserializer, "the path of a PEM file", path).map(Some)
}

/// `http://HOST[:PORT]`, given without a slash at the end.
pub(crate) fn queen_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    base_url(deserializer, "a base URL such as \"http://queen.home.arpa:8500\"")
}

/// The same, of a hub of models.
pub(crate) fn hub_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    base_url(deserializer, "a base URL such as \"https://huggingface.co\"")
}

fn base_url<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Option<String>, D::Error> {
    checked(deserializer, expected, |text| {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        let legal = |b: u8| b.is_ascii_graphic() && !b"@?#\"<>\\^`{|}".contains(&b);
        let host = rest.split('/').next().unwrap_or("");
        (!host.is_empty() && rest.bytes().all(legal)).then(|| text.to_owned())
    })
    .map(Some)
}

/// A host name or an IP address. It can become an argument of `ssh`, so it cannot begin like a flag.
pub(crate) fn host_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked(deserializer, "a host name or an IP address", |text| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
        let fits = (1..=253).contains(&text.len()) && text.bytes().all(legal);
        (fits && !text.starts_with('-')).then(|| text.to_owned())
    })
}

/// Like [`host_name`], for a setting that has none by default.
pub(crate) fn some_host_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    host_name(deserializer).map(Some)
}

fn checked<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Text(&'static str);

    impl Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    let text = deserializer.deserialize_str(Text(expected))?;
    read(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &expected))
}
