//! Devices for tests.

use worker_contract::{Device, DeviceLoad};

/// A device with this id, of which nothing else matters.
pub(super) fn device(id: &str) -> Device {
    Device {
        id: id.parse().unwrap(),
        backend: "test".into(),
        name: id.into(),
        memory_total_bytes: 1,
        memory_free_bytes: 1,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    }
}
