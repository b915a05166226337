//! Names that travel: each is checked once, where it enters, and is then a type of its own.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// A name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {what} {value:?}: use 1 to {max} letters, digits, {extra}, starting with a letter or a digit"
)]
pub struct InvalidName {
    /// What kind of name it was meant to be.
    pub what: &'static str,
    /// The refused text, cut to a printable length.
    pub value: String,
    /// The longest name of this kind, in bytes.
    pub max: usize,
    /// The characters that this kind allows besides letters and digits.
    pub extra: &'static str,
}

/// Checks one name against the rule that all names share.
fn check(
    what: &'static str,
    max: usize,
    extra: &'static str,
    value: &str,
) -> Result<(), InvalidName> {
    // Names come with each report and request, so each is looked at once, byte by byte.
    let (mut before, mut is_legal) = (0, value.len() <= max);
    for byte in value.bytes() {
        is_legal &= byte.is_ascii_alphanumeric() || extra.as_bytes().contains(&byte);
        is_legal &= (before, byte) != (b'.', b'.');
        before = byte;
    }
    if is_legal && value.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(());
    }
    let value = value.chars().take(80).collect();
    Err(InvalidName { what, value, max, extra })
}

/// What reads a name of one type.
struct Name<T>(PhantomData<T>);

impl<T: FromStr<Err = InvalidName>> Visitor<'_> for Name<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        value.parse().map_err(E::custom)
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $extra:literal) => {
        $(#[$doc])*
        ///
        /// A clone is the same text: names are in everything that is said of a request or a worker.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                check($what, $max, $extra, value)?;
                Ok(Self(value.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Name(PhantomData))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a hive, as the operator chose it; `localhost` is the queen's own machine.
    HiveAlias, "hive alias", 63, "._-"
);
name_type!(
    /// The name of a worker process, unique in one queen.
    WorkerId, "worker id", 64, "._-"
);
name_type!(
    /// The name under which a model is in a catalog and in API requests.
    ModelAlias, "model alias", 96, "._:-"
);
name_type!(
    /// The id that a request keeps through all hops (`x-request-id`).
    RequestId, "request id", 128, "._:-"
);
name_type!(
    /// The id of a job.
    JobId, "job id", 64, "-"
);

/// What no other name is.
fn random() -> Arc<str> {
    let mut room = Uuid::encode_buffer();
    Arc::from(Uuid::new_v4().hyphenated().encode_lower(&mut room))
}

impl HiveAlias {
    /// The alias of the queen's own machine.
    #[must_use]
    pub fn localhost() -> Self {
        Self("localhost".into())
    }

    /// Whether this is the queen's own machine.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        self.as_str() == "localhost"
    }
}

impl RequestId {
    /// A fresh random id.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }
}

impl JobId {
    /// A fresh random id.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }
}

impl WorkerId {
    /// A fresh random id, short enough to type: `w-` and eight hexadecimal digits.
    #[must_use]
    pub fn random() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        Self(format!("w-{}", &id[..8]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_that_could_become_a_path_is_refused() {
        for bad in ["", "../x", "a/b", "a..b", ".hidden", "-rf", "a b", "a\n", "ä"] {
            assert!(bad.parse::<ModelAlias>().is_err(), "{bad:?}");
        }
        for good in ["smollm2-135m", "qwen2.5:7b", "A_1"] {
            assert!(good.parse::<ModelAlias>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn generated_ids_obey_their_own_rule() {
        assert!(WorkerId::random().as_str().parse::<WorkerId>().is_ok());
        assert!(JobId::random().as_str().parse::<JobId>().is_ok());
        assert!(RequestId::random().as_str().parse::<RequestId>().is_ok());
    }

    proptest! {
        #[test]
        fn an_accepted_name_survives_json(text in "\\PC{0,100}") {
            if let Ok(name) = text.parse::<ModelAlias>() {
                let json = serde_json::to_string(&name).unwrap();
                prop_assert_eq!(serde_json::from_str::<ModelAlias>(&json).unwrap(), name);
            }
        }
    }
}
