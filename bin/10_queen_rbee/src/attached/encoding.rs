//! Whether what a server answers can be read as it comes. Pure.

/// How much of the name of an encoding is told, in characters.
const MAX_NAME: usize = 40;

/// What is wrong with an answer by its `content-encoding`; `None` where it can be read.
#[must_use]
pub fn compresses(encoding: Option<&str>) -> Option<String> {
    let name = encoding?.trim();
    if name.is_empty() || name.eq_ignore_ascii_case("identity") {
        return None;
    }
    let shown: String = name.chars().filter(char::is_ascii_graphic).take(MAX_NAME).collect();
    Some(format!("it compresses its answer ({shown}), which was not asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_cannot_be_read() {
        for (encoding, expected) in [
            (None, None),
            (Some(""), None),
            (Some(" Identity "), None),
            (Some("gzip"), Some("(gzip)")),
            (Some("br, gzip"), Some("(br,gzip)")),
        ] {
            let told = compresses(encoding);
            let is_told = match (&told, expected) {
                (Some(told), Some(part)) => told.contains(part),
                (None, None) => true,
                _ => false,
            };
            assert!(is_told, "{encoding:?}: {told:?}");
        }
    }
}
