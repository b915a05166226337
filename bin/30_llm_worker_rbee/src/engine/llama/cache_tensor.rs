//! Refuses a KV cache whose tensors are larger than a GPU's driver allows for one buffer.
//!
//! llama.cpp ends the process when it meets one, even when it only measures.

use llama_cpp_sys_2 as sys;
use worker_contract::{Device, DeviceId, DeviceKind};

use super::attention::CacheType;
use super::context::ContextSettings;
use super::memory_estimate::Facts;
use super::memory_need::Bytes;
use super::placement::{GpuLayers, Placement};

/// A tensor of the KV cache is too large for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{device} cannot hold this: one layer's cache of a context of {context_tokens} tokens is a tensor of {}, which is more than its driver allows; a smaller --ctx-size, or --cache-type-k and --cache-type-v q8_0, make it smaller",
    Bytes(*bytes)
)]
pub struct CacheTensorTooLarge {
    device: DeviceId,
    context_tokens: u32,
    bytes: u64,
}

/// Whether each GPU of a placement can have the cache's tensors of its layers.
pub(super) fn check(
    devices: &[(Device, usize)],
    placement: &Placement,
    context: &ContextSettings,
    facts: Facts,
) -> Result<(), CacheTensorTooLarge> {
    if placement.layers() == GpuLayers::Count(0) {
        return Ok(());
    }
    let tokens = context.kv_tokens;
    let used = devices.iter().filter(|(device, _)| placement.devices.contains(&device.id));
    for (device, index) in used.filter(|(device, _)| device.id.kind == DeviceKind::Gpu) {
        for (kind, width) in [
            (context.attention.cache_type_k, facts.key_width),
            (context.attention.cache_type_v, facts.value_width),
        ] {
            if !takes(*index, kind, width, tokens) {
                let bytes = kind.bytes(width.saturating_mul(u64::from(tokens)));
                let device = device.id;
                return Err(CacheTensorTooLarge { device, context_tokens: tokens, bytes });
            }
        }
    }
    Ok(())
}

/// Asks llama.cpp's device `index` whether it takes a tensor, as its scheduler will ask.
fn takes(index: usize, kind: CacheType, width: u64, tokens: u32) -> bool {
    let Ok(width) = i64::try_from(width) else { return false };
    if width == 0 || width % 32 != 0 || width > i64::from(u32::MAX) {
        // No row of whole blocks: llama.cpp has an error of its own for those that it cannot use.
        return true;
    }
    // SAFETY: the context has room for one tensor's description and takes no memory for its data;
    // a row is whole blocks; the number of the device comes from llama.cpp's own list; the tensor
    // is not used after its context is freed.
    unsafe {
        let context = sys::ggml_init(sys::ggml_init_params {
            mem_size: sys::ggml_tensor_overhead(),
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        if context.is_null() {
            return true;
        }
        let tensor =
            sys::ggml_new_tensor_2d(context, kind.engine().into(), width, i64::from(tokens));
        let takes = sys::ggml_backend_dev_supports_op(sys::ggml_backend_dev_get(index), tensor);
        sys::ggml_free(context);
        takes
    }
}
