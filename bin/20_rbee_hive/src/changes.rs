//! A signal that something which the hive reports has changed. Many changes may be heard as one.

use std::sync::Arc;

use tokio::sync::watch;

/// Notes changes, and lets others wait for them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    signal: Arc<watch::Sender<()>>,
}

impl Changes {
    pub(crate) fn note(&self) {
        self.signal.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.signal.subscribe()
    }
}
