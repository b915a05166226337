//! That nothing can be written at present.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why nothing can be written at present, for whoever is to know. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    reason: Arc<Mutex<Option<String>>>,
}

impl Trouble {
    /// Why, if it is so.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.lock().clone()
    }

    /// It is so from now on. False if it was before.
    pub fn begin(&self, reason: String) -> bool {
        self.lock().replace(reason).is_none()
    }

    /// It is over. False if it was not so before.
    pub fn end(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        // Nothing panics under this lock halfway through a change.
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
