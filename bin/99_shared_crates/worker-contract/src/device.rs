//! Devices as a hive reports them and as commands name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a device is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// The processor and the machine's main memory.
    Cpu,
    /// A graphics card, by any backend.
    Gpu,
}

/// A device of one machine: `CPU-0`, `GPU-0`, `GPU-1`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId {
    /// Processor or graphics card.
    pub kind: DeviceKind,
    /// The number among the devices of its kind, from 0.
    pub index: u16,
}

/// A text is not a device id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid device {0:?}: write CPU-0, GPU-0, GPU-1, …")]
pub struct InvalidDeviceId(pub String);

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        let refused = || InvalidDeviceId(text.chars().take(40).collect());
        let upper = text.to_ascii_uppercase();
        let (kind, index) = upper.split_once('-').ok_or_else(refused)?;
        let kind = match kind {
            "CPU" => DeviceKind::Cpu,
            "GPU" => DeviceKind::Gpu,
            _ => return Err(refused()),
        };
        if index.is_empty() || !index.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refused());
        }
        let index = index.parse().map_err(|_| refused())?;
        Ok(Self { kind, index })
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidDeviceId;
    fn try_from(text: String) -> Result<Self, InvalidDeviceId> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Cpu => "CPU",
            DeviceKind::Gpu => "GPU",
        };
        write!(f, "{kind}-{}", self.index)
    }
}

/// A device that the worker's engine can use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id on this machine.
    pub id: DeviceId,
    /// The engine's backend for it: `CPU`, `CUDA`, `Vulkan`, `Metal`, …
    pub backend: String,
    /// The maker's name for it.
    pub name: String,
    /// All its memory, in bytes.
    pub memory_total_bytes: u64,
    /// Its unused memory when it was looked at, in bytes.
    pub memory_free_bytes: u64,
    /// Its place on the PCI bus, such as `0000:01:00.0`, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_address: Option<String>,
    /// How busy it is, as far as the system tells.
    #[serde(default, skip_serializing_if = "DeviceLoad::is_unknown")]
    pub load: DeviceLoad,
    /// Whether it was there and is no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_gone: bool,
}

/// How busy a device is. What the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLoad {
    /// The part of its time in which it computes, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u8>,
    /// Its temperature, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<i16>,
    /// What it draws, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<u32>,
}

impl DeviceLoad {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// What a model takes of a device's memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryNeed {
    /// The device.
    pub device: DeviceId,
    /// Weights that take memory.
    pub weights_bytes: u64,
    /// Weights that are read from the file as they are wanted: they need memory to be fast, and none
    /// of their own.
    pub mapped_bytes: u64,
    /// The KV cache, or what the model has in its place.
    pub context_bytes: u64,
    /// Room to compute a batch. As a hive tells it, on a GPU also what the driver takes for the process.
    pub compute_bytes: u64,
}

impl MemoryNeed {
    /// What must be there at once, mapped weights left out.
    #[must_use]
    pub fn least_bytes(&self) -> u64 {
        self.weights_bytes.saturating_add(self.context_bytes).saturating_add(self.compute_bytes)
    }

    /// All of it.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.least_bytes().saturating_add(self.mapped_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_reads_back_as_it_is_written() {
        for text in ["CPU-0", "GPU-0", "GPU-15"] {
            assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        }
        assert_eq!("gpu-1".parse::<DeviceId>().unwrap().to_string(), "GPU-1");
        for bad in ["", "GPU", "GPU-", "GPU--1", "TPU-0", "GPU-+1", "GPU-99999", "GPU-1.0"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
        }
    }
}
