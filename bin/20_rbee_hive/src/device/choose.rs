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
    /// It was there.
    #[error("the device {0} is gone: the system sees it no longer")]
    Gone(DeviceId),
    /// There is no device at all.
    #[error("the worker's engine found no device on this machine")]
    None,
}

/// The device that was asked for; if none was, the first GPU, else the first CPU.
///
/// Nothing else takes the place of a device that was asked for: a user who wants the GPU wants to
/// know that it is gone.
pub(crate) fn choose(devices: &[Device], asked: Option<DeviceId>) -> Result<DeviceId, NoDevice> {
    let present = || devices.iter().filter(|device| !device.is_gone).map(|device| device.id);
    let first = |kind| present().filter(|id| id.kind == kind).min();
    match asked {
        Some(asked) if present().any(|id| id == asked) => Ok(asked),
        Some(asked) if devices.iter().any(|device| device.id == asked) => {
            Err(NoDevice::Gone(asked))
        }
        Some(_) if devices.is_empty() => Err(NoDevice::None),
        Some(asked) => Err(NoDevice::Unknown { asked, known: names(present()) }),
        None => first(DeviceKind::Gpu).or_else(|| first(DeviceKind::Cpu)).ok_or(NoDevice::None),
    }
}

fn names(devices: impl Iterator<Item = DeviceId>) -> String {
    let names: Vec<String> = devices.map(|id| id.to_string()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample::device;

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
            ("CPU-0 GPU-0!", None, Ok("CPU-0")),
            (
                "CPU-0 GPU-0!",
                Some("GPU-0"),
                Err("the device GPU-0 is gone: the system sees it no longer"),
            ),
            ("", None, Err("the worker's engine found no device on this machine")),
            ("", Some("CPU-0"), Err("the worker's engine found no device on this machine")),
        ] {
            let devices: Vec<Device> = has.split_whitespace().map(marked).collect();
            let asked = asked.map(|id| id.parse().unwrap());
            let chosen =
                choose(&devices, asked).map(|id| id.to_string()).map_err(|e| e.to_string());
            assert_eq!(chosen, expected.map(String::from).map_err(String::from), "{has} {asked:?}");
        }
    }

    /// One that is gone has a mark.
    fn marked(id: &str) -> Device {
        let (id, is_gone) = id.strip_suffix('!').map_or((id, false), |id| (id, true));
        Device { is_gone, ..device(id) }
    }
}
