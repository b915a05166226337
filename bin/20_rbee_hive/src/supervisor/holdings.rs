//! What a worker has of the machine beside its process and its port.

use crate::catalog::InUse;

/// What a worker holds as long as it runs or is to be started again.
///
/// Whoever asks for a worker takes these first, so that two who ask at once cannot both get what is
/// there once. They are given back, by being dropped, before others can see that the worker has ended:
/// on every path, be it stopped, failed or never started.
#[derive(Debug)]
pub(crate) struct Holdings {
    /// Keeps the model's file from being deleted; `None` for an adopted worker whose model is just
    /// being removed.
    pub(crate) _model: Option<InUse>,
}

impl Holdings {
    /// Those of a worker that uses this model.
    pub(crate) fn new(model: Option<InUse>) -> Self {
        Self { _model: model }
    }
}
