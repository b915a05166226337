//! Where a worker for a model is started.

use std::cmp::Reverse;

use worker_contract::{Device, DeviceId, DeviceKind, HiveAlias, ModelAlias};

use super::Snapshot;
use crate::registry::Liveness;

/// The hive, and its device, that suits a model best: one that reports on time; where the model
/// fits into free memory; a GPU; the most free memory. A hive that lists no device chooses itself.
pub(super) fn place<'a>(
    snapshot: &Snapshot<'a>,
    model: &ModelAlias,
) -> Option<(&'a HiveAlias, Option<DeviceId>)> {
    let hives = snapshot.hives.iter().filter(|hive| hive.liveness != Liveness::Gone);
    let placed = hives.filter_map(|hive| {
        let size = hive.entry(model)?.gguf.size_bytes;
        let present = hive.devices.iter().filter(|device| !device.is_gone);
        let device = present.max_by_key(|device| suits(device, size));
        let rank = device.map(|device| suits(device, size).0);
        let key = (hive.liveness == Liveness::Alive, rank, Reverse(hive.id));
        Some((key, (hive.id, device.map(|device| device.id))))
    });
    placed.max_by_key(|(key, _)| *key).map(|(_, place)| place)
}

type Suitability = ((bool, bool, u64), Reverse<DeviceId>);

fn suits(device: &Device, size_bytes: u64) -> Suitability {
    let fits = device.memory_free_bytes >= size_bytes;
    let is_gpu = device.id.kind == DeviceKind::Gpu;
    ((fits, is_gpu, device.memory_free_bytes), Reverse(device.id))
}
