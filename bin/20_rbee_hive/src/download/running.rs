//! Which downloads run, for whoever wants to see them or to end one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::part_file::read_note;

/// The downloads that run. A clone is the same table.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningDownloads(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// What was asked for, without secrets.
    reference: String,
    /// The unfinished files that it needs.
    keys: Vec<String>,
    cancel: CancellationToken,
    /// Fires when it is over.
    gone: CancellationToken,
}

/// A download is in the table while this exists.
#[derive(Debug)]
pub(crate) struct Entered {
    id: u64,
    table: RunningDownloads,
    cancel: CancellationToken,
    gone: CancellationToken,
}

/// A download that runs, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RunningDownload {
    /// What was asked for.
    pub(crate) reference: String,
    /// The bytes that are there.
    pub(crate) bytes: u64,
    /// How many there will be, where that is known.
    pub(crate) total: Option<u64>,
}

impl RunningDownloads {
    /// Enters a download.
    pub(crate) fn enter(&self, reference: String) -> Entered {
        let (cancel, gone) = (CancellationToken::new(), CancellationToken::new());
        let (ends, over) = (cancel.clone(), gone.clone());
        let entry = Entry { reference, keys: Vec::new(), cancel: ends, gone: over };
        let mut table = self.table();
        let id = table.next;
        table.next += 1;
        table.entries.insert(id, entry);
        Entered { id, table: self.clone(), cancel, gone }
    }

    /// All of them, by what lies in the folder of unfinished files. Blocking.
    pub(crate) fn list(&self, partial: &Path) -> Vec<RunningDownload> {
        let found: Vec<(String, Vec<String>)> = {
            let table = self.table();
            table.entries.values().map(|e| (e.reference.clone(), e.keys.clone())).collect()
        };
        let shown = found.into_iter().map(|(reference, keys)| {
            let notes: Vec<_> =
                keys.iter().map(|key| read_note(&partial.join(format!("{key}.json")))).collect();
            let bytes = notes.iter().flatten().map(super::Note::present).sum();
            let sizes = notes.iter().map(|note| note.as_ref()?.size);
            let total = sizes.sum::<Option<u64>>().filter(|_| !keys.is_empty());
            RunningDownload { reference, bytes, total }
        });
        shown.collect()
    }

    /// Ends all downloads of a reference; done when they have ended. Says how many there were.
    pub(crate) async fn cancel(&self, reference: &str) -> usize {
        let ending: Vec<CancellationToken> = {
            let table = self.table();
            let of_it = table.entries.values().filter(|entry| entry.reference == reference);
            of_it.map(|entry| (entry.cancel.cancel(), entry.gone.clone()).1).collect()
        };
        for gone in &ending {
            gone.cancelled().await;
        }
        ending.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered {
    /// Fires when somebody wants it to end.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Says which unfinished files it needs.
    pub(crate) fn needs(&self, keys: &[String]) {
        let mut table = self.table.table();
        let Some(entry) = table.entries.get_mut(&self.id) else { return };
        let further = keys.iter().filter(|key| !entry.keys.contains(key)).cloned();
        let further: Vec<String> = further.collect();
        entry.keys.extend(further);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.table().entries.remove(&self.id);
        self.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_downloads_of_a_reference_are_ended_and_no_other() {
        let (table, folder) = (RunningDownloads::default(), tempfile::tempdir().unwrap());
        let [first, second, other] =
            ["hf:o/r", "hf:o/r", "hf:o/s"].map(|name| table.enter(name.into()));
        let references = || -> Vec<String> {
            table.list(folder.path()).into_iter().map(|running| running.reference).collect()
        };
        assert_eq!(references(), ["hf:o/r", "hf:o/r", "hf:o/s"]);
        let ends = async {
            first.cancelled().cancelled().await;
            second.cancelled().cancelled().await;
            assert!(!other.cancelled().is_cancelled());
            drop((first, second));
        };
        let (ended, ()) = tokio::join!(table.cancel("hf:o/r"), ends);
        assert_eq!((ended, references()), (2, vec!["hf:o/s".to_owned()]));
        assert_eq!(table.cancel("hf:o/r").await, 0);
    }

    #[test]
    fn what_is_there_is_known_by_the_notes_beside_the_files() {
        let (table, folder) = (RunningDownloads::default(), tempfile::tempdir().unwrap());
        let running = table.enter("hf:o/r".into());
        let shown = || {
            let shown = table.list(folder.path()).remove(0);
            (shown.bytes, shown.total)
        };
        assert_eq!(shown(), (0, None), "nothing is known yet");
        running.needs(&["a".into(), "b".into()]);
        running.needs(&["a".into()]);
        let write = |key: &str, done: &str| {
            let note = format!(
                r#"{{"what":"f","size":10,"sha256":null,"etag":null,"boot":"","done":{done}}}"#
            );
            std::fs::write(folder.path().join(format!("{key}.json")), note).unwrap();
        };
        write("a", "[[0,4]]");
        assert_eq!(shown(), (4, None), "of the other nobody knows how large it is");
        write("b", "[[0,10]]");
        assert_eq!(shown(), (14, Some(20)));
    }
}
