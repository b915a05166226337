//! The devices that llama.cpp's loaded backends offer.

use std::ffi::CStr;

use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};
use llama_cpp_sys_2 as sys;
use worker_contract::{Device, DeviceId, DeviceKind, DeviceLoad};

use super::Runtime;

/// All devices, the processor first.
#[must_use]
pub fn devices(_runtime: &Runtime) -> Vec<Device> {
    numbered().into_iter().map(|(device, _)| device).collect()
}

/// A device that was asked for does not exist.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no device {wanted} here; there are: {present}. One that `llm-worker-rbee devices` shows has a \
     driver that failed, which the log tells of; it may need --sandbox off"
)]
pub struct NoSuchDevice {
    wanted: DeviceId,
    present: String,
}

/// The engine's numbers of the devices to offload to, in the order wanted: none for the processor.
pub(super) fn gpus(_runtime: &Runtime, wanted: &[DeviceId]) -> Result<Vec<usize>, NoSuchDevice> {
    let all = numbered();
    let mut gpus = Vec::new();
    for wanted in wanted {
        let Some((device, index)) = all.iter().find(|(device, _)| device.id == *wanted) else {
            let present: Vec<String> = all.iter().map(|(d, _)| d.id.to_string()).collect();
            return Err(NoSuchDevice { wanted: *wanted, present: present.join(", ") });
        };
        if device.id.kind == DeviceKind::Gpu {
            gpus.push(*index);
        }
    }
    Ok(gpus)
}

/// Each device with the engine's number for it.
pub(super) fn numbered() -> Vec<(Device, usize)> {
    let all = list_llama_ggml_backend_devices();
    let is_gpu = |d: &&LlamaBackendDevice| {
        matches!(d.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
    };
    let cpus = all.iter().filter(|d| d.device_type == LlamaBackendDeviceType::Cpu);
    let cpus = cpus.zip(0..).map(|(d, n)| (described(d, DeviceKind::Cpu, n), d.index));
    let gpus = all.iter().filter(is_gpu).zip(0..);
    let gpus = gpus.map(|(d, n)| (described(d, DeviceKind::Gpu, n), d.index));
    cpus.chain(gpus).collect()
}

fn described(device: &LlamaBackendDevice, kind: DeviceKind, index: u16) -> Device {
    Device {
        id: DeviceId { kind, index },
        backend: device.backend.clone(),
        name: device.description.trim().to_owned(),
        memory_total_bytes: device.memory_total as u64,
        memory_free_bytes: device.memory_free as u64,
        pci_address: pci_address(device.index),
        load: DeviceLoad::default(),
        is_gone: false,
    }
}

/// Where a device is on the PCI bus, where its backend tells: `0000:01:00.0`.
fn pci_address(index: usize) -> Option<String> {
    // SAFETY: the number comes from llama.cpp's own list, which does not shrink; the properties are
    // plain data that the call fills in, and their texts live as long as the device.
    unsafe {
        let mut properties = std::mem::zeroed::<sys::ggml_backend_dev_props>();
        sys::ggml_backend_dev_get_props(sys::ggml_backend_dev_get(index), &raw mut properties);
        if properties.device_id.is_null() {
            return None;
        }
        let address = CStr::from_ptr(properties.device_id).to_str().ok()?;
        let is_address = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
        address.bytes().all(is_address).then(|| address.to_owned())
    }
}
