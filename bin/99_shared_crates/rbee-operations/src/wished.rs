//! A wish of a policy that can be taken back.

use std::fmt;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The word for no wish.
const ANY: &str = "any";

/// What is preferred; `any` says that nothing is, whatever stood before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wished<T> {
    /// Each is as good as the others.
    Any,
    /// This one.
    One(T),
}

impl<T> Wished<T> {
    /// Which one is preferred, if any is.
    #[must_use]
    pub fn one(self) -> Option<T> {
        match self {
            Self::Any => None,
            Self::One(one) => Some(one),
        }
    }

    /// The same, left where it is.
    #[must_use]
    pub fn as_one(&self) -> Option<&T> {
        match self {
            Self::Any => None,
            Self::One(one) => Some(one),
        }
    }
}

impl<T: FromStr> FromStr for Wished<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == ANY { Ok(Self::Any) } else { text.parse().map(Self::One) }
    }
}

impl<T: fmt::Display> fmt::Display for Wished<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str(ANY),
            Self::One(one) => one.fmt(f),
        }
    }
}

impl<T: fmt::Display> Serialize for Wished<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T> Deserialize<'de> for Wished<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
