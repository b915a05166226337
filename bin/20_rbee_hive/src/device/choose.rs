//! Which device a worker gets. Pure.

use worker_contract::{Device, DeviceId, DeviceKind};

/// A device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoDevice {
    /// There is no such device.
    #[error("this machine has no device {asked}; it has {known}")]
    Unknown {
        /// What was asked for.
        asked: DeviceId,
        /// What there is.
        known: String,
    },
    /// There is no device at all.
    #[error("the worker's engine found no device on this machine")]
    None,
}

/// The device that was asked for; if none was, the first GPU, else the first CPU.
///
/// Nothing else takes the place of a device that was asked for: a user who wants the GPU wants to
/// know that it is gone.
pub(crate) fn choose(devices: &[Device], asked: Option<DeviceId>) -> Result<DeviceId, NoDevice> {
    let first = |kind| devices.iter().map(|d| d.id).filter(|id| id.kind == kind).min();
    match asked {
        Some(asked) if devices.iter().any(|device| device.id == asked) => Ok(asked),
        Some(_) if devices.is_empty() => Err(NoDevice::None),
        Some(asked) => Err(NoDevice::Unknown { asked, known: names(devices) }),
        None => first(DeviceKind::Gpu).or_else(|| first(DeviceKind::Cpu)).ok_or(NoDevice::None),
    }
}

fn names(devices: &[Device]) -> String {
    let names: Vec<String> = devices.iter().map(|device| device.id.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_that_is_asked_for_or_the_best_one() {
        for (has, asked, expected) in [
            ("CPU-0", None, Ok("CPU-0")),
            ("CPU-0 GPU-1 GPU-0", None, Ok("GPU-0")),
            ("CPU-0 GPU-0", Some("CPU-0"), Ok("CPU-0")),
            ("CPU-0", Some("GPU-0"), Err("this machine has no device GPU-0; it has CPU-0")),
            (
                "CPU-0 GPU-0",
                Some("GPU-1"),
                Err("this machine has no device GPU-1; it has CPU-0, GPU-0"),
            ),
            ("", None, Err("the worker's engine found no device on this machine")),
            ("", Some("CPU-0"), Err("the worker's engine found no device on this machine")),
        ] {
            let devices: Vec<Device> = has.split_whitespace().map(device).collect();
            let asked = asked.map(|id| id.parse().unwrap());
            let chosen =
                choose(&devices, asked).map(|id| id.to_string()).map_err(|e| e.to_string());
            assert_eq!(chosen, expected.map(String::from).map_err(String::from), "{has} {asked:?}");
        }
    }

    fn device(id: &str) -> Device {
        Device {
            id: id.parse().unwrap(),
            backend: "test".into(),
            name: id.into(),
            memory_total_bytes: 1,
            memory_free_bytes: 1,
        }
    }
}
