//! What models need of devices, as the worker's binary reckons it, remembered.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use worker_contract::{DeviceId, MemoryNeed, Sha256Digest};

use crate::supervisor::WorkerPlan;
use crate::worker_binary::{AskError, WorkerBinary};

/// The most answers that are remembered.
const MOST_ANSWERS: usize = 256;

/// What memory depends on. What else a worker is told is the same for all workers of a hive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    digest: Sha256Digest,
    projector: Option<Sha256Digest>,
    device: DeviceId,
    slots: u32,
    ctx_size: u32,
}

/// Asks what models need.
#[derive(Debug)]
pub(crate) struct Fit {
    binary: WorkerBinary,
    answers: Mutex<HashMap<Question, Vec<MemoryNeed>>>,
}

impl Fit {
    pub(crate) fn new(binary: WorkerBinary) -> Self {
        Self { binary, answers: Mutex::default() }
    }

    /// What a worker would need; `arguments` are those that it would be started with.
    pub(crate) async fn needs(
        &self,
        plan: &WorkerPlan,
        arguments: Vec<OsString>,
    ) -> Result<Vec<MemoryNeed>, AskError> {
        let question = Question {
            digest: plan.digest.clone(),
            projector: plan.projector.as_ref().map(|projector| projector.digest.clone()),
            device: plan.device,
            slots: plan.slots,
            ctx_size: plan.ctx_size,
        };
        if let Some(needs) = self.answers().get(&question) {
            return Ok(needs.clone());
        }
        let needs = self.binary.fit(arguments).await?;
        let mut answers = self.answers();
        if answers.len() >= MOST_ANSWERS {
            answers.clear();
        }
        answers.insert(question, needs.clone());
        Ok(needs)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Question, Vec<MemoryNeed>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
