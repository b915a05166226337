//! Which unfinished files somebody still needs, be they whole or not: from the first byte until the
//! catalog has them. Nobody else removes them meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who holds what. A clone is the same table.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(Arc<Mutex<HashMap<String, u32>>>);

/// The unfinished file stays where it is while this exists.
#[derive(Debug)]
pub(crate) struct Hold {
    key: String,
    holds: Holds,
}

impl Holds {
    /// Holds an unfinished file, be it there already or not.
    pub(super) fn hold(&self, key: &str) -> Hold {
        *self.table().entry(key.to_owned()).or_default() += 1;
        Hold { key: key.to_owned(), holds: self.clone() }
    }

    /// Whether somebody holds it.
    pub(super) fn is_held(&self, key: &str) -> bool {
        self.table().contains_key(key)
    }

    /// Does something to an unfinished file that nobody holds, and lets nobody hold it meanwhile.
    pub(super) fn if_free(&self, key: &str, work: impl FnOnce()) {
        let table = self.table();
        if !table.contains_key(key) {
            work();
        }
        drop(table);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.holds.table();
        if let Some(count) = table.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_free_when_the_last_who_needs_it_has_let_go() {
        let holds = Holds::default();
        let worked = |key: &str| {
            let mut worked = false;
            holds.if_free(key, || worked = true);
            worked
        };
        let (first, second) = (holds.hold("a"), holds.hold("a"));
        assert!(holds.is_held("a") && !worked("a") && worked("b"));
        drop(first);
        assert!(holds.is_held("a") && !worked("a"));
        drop(second);
        assert!(!holds.is_held("a") && worked("a"));
    }
}
