//! The names of the parts of a split model: `NAME-00002-of-00003`. Pure.
//!
//! llama.cpp is given the first part and finds the others by their names in the same folder.

/// The most parts that a model may have.
pub(crate) const MAX_SHARDS: usize = 256;
/// What the parts of a model in the catalog are called before their number.
const STEM: &str = "model";

/// One part of a split model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard<'a> {
    /// The name that all parts share.
    pub(crate) stem: &'a str,
    /// From 1 on.
    pub(crate) index: usize,
    pub(crate) count: usize,
}

impl<'a> Shard<'a> {
    /// Reads a file's name without `.gguf`; `None` where it is no part of several.
    pub(crate) fn of(stem: &'a str) -> Option<Self> {
        let (rest, count) = number(stem)?;
        let (stem, index) = number(rest.strip_suffix("-of")?)?;
        let is_one = (2..=MAX_SHARDS).contains(&count) && (1..=count).contains(&index);
        (is_one && !stem.is_empty()).then_some(Self { stem, index, count })
    }
}

/// What part `index` of `count` is called in a catalog.
pub(crate) fn shard_name(index: usize, count: usize) -> String {
    name(STEM, index, count)
}

/// What part `index` of `count` of a model is called.
pub(crate) fn name(stem: &str, index: usize, count: usize) -> String {
    format!("{stem}-{index:05}-of-{count:05}.gguf")
}

/// Cuts off `-` and the five digits after it.
fn number(text: &str) -> Option<(&str, usize)> {
    let (rest, digits) = text.rsplit_once('-')?;
    let are_digits = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| Some((rest, digits.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_whole_files_by_their_names() {
        for (stem, expected) in [
            ("big-Q8_0-00002-of-00003", Some(("big-Q8_0", 2, 3))),
            ("model-00001-of-00002", Some(("model", 1, 2))),
            ("model-00001-of-00001", None),
            ("model-00003-of-00002", None),
            ("model-00000-of-00002", None),
            ("model-1-of-2", None),
            ("-00001-of-00002", None),
            ("model-00001-of-99999", None),
            ("model", None),
        ] {
            let shard = Shard::of(stem).map(|shard| (shard.stem, shard.index, shard.count));
            assert_eq!(shard, expected, "{stem}");
        }
        let name = shard_name(2, 3);
        let shard = Shard::of(name.strip_suffix(".gguf").unwrap()).unwrap();
        assert_eq!((shard.index, shard.count), (2, 3));
    }
}
