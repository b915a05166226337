//! Devices, catalog entries, hives and servers as tests need them.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Operation;
use worker_contract::{Device, DeviceLoad, GgufSummary, HiveAlias, ModelEntry};

use crate::attached::Engine;
use crate::hive_client::{FindHive, HiveClient};
use crate::registry::{Served, ServerReport};

/// A device of 128 GiB, of which so much is free.
pub(crate) fn device(name: &str, memory_free_bytes: u64) -> Device {
    Device {
        id: name.parse().unwrap(),
        backend: String::new(),
        name: String::new(),
        memory_total_bytes: 128 << 30,
        memory_free_bytes,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    }
}

/// A model of a size, whose file has the digest 000….
pub(crate) fn entry(name: &str, size_bytes: u64) -> ModelEntry {
    ModelEntry {
        alias: name.parse().unwrap(),
        sha256: "0".repeat(64).parse().unwrap(),
        source: String::new(),
        added_at: 0,
        shards: Vec::new(),
        projector: None,
        gguf: GgufSummary {
            architecture: String::new(),
            name: None,
            license: None,
            quantization: String::new(),
            parameters: 1,
            context_length: 4096,
            embedding_length: None,
            kind: None,
            has_chat_template: true,
            size_bytes,
        },
    }
}

/// A server of somebody else that is well, and its only model.
pub(crate) fn server(name: &str, model: &str) -> ServerReport {
    let served = Served {
        worker_id: format!("{name}-{model}").parse().unwrap(),
        alias: model.parse().unwrap(),
        name: model.to_owned(),
        context_length: 0,
    };
    ServerReport {
        name: name.parse().unwrap(),
        url: format!("http://{name}:11434").parse().unwrap(),
        engine: Engine::Ollama,
        slots: 4,
        most_answers: None,
        names_its_model: false,
        models: vec![served],
        is_named: false,
        failure: None,
    }
}

/// Hives that take every operation and never end one.
#[derive(Debug)]
pub(crate) struct NeverReady;

impl FindHive for NeverReady {
    fn find(&self, _: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Ok(Arc::new(Self))
    }
}

impl HiveClient for NeverReady {
    fn execute(
        &self,
        _: Operation,
        _: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        std::future::pending().boxed()
    }
}

/// No hive at all.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl FindHive for Nowhere {
    fn find(&self, hive: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Err(JobError::new("hive_not_found", format!("there is no hive {hive}")))
    }
}
