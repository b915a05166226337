//! The file: what is in it.

use sqlite_file::{Layout, StoreKind};

pub(super) const KIND: StoreKind = StoreKind {
    layout: Layout { version: 1, tables: TABLES },
    before_path: "",
    content: "decisions",
    thread: "decisions",
    advises_to_open: true,
};

const TABLES: &str = "
    CREATE TABLE decisions (
        id         INTEGER PRIMARY KEY,
        at_ms      INTEGER NOT NULL,  -- since the Unix epoch
        kind       TEXT NOT NULL,
        request_id TEXT,
        caller     TEXT,              -- a token's fingerprint, or 'local'
        model      TEXT,
        worker_id  TEXT,
        reason     TEXT NOT NULL,
        why        TEXT NOT NULL,
        detail     TEXT               -- JSON
    );
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sqlite_file::{StoreError, StoreFile};

    use super::*;

    #[test]
    fn a_failure_names_the_file_alone() {
        let file = StoreFile::new(&KIND, Path::new("/decisions.db"));
        let closed = || rusqlite::Error::QueryReturnedNoRows;
        assert_eq!(file.unusable(closed()).to_string(), "cannot use /decisions.db");
        let unopened = StoreError::Open { file, source: closed() };
        assert_eq!(unopened.to_string(), "cannot open /decisions.db");
        assert_eq!((KIND.content, KIND.thread), ("decisions", "decisions"));
    }
}
