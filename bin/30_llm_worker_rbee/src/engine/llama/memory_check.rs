//! Refuses a model that its devices cannot hold, before anything is taken.
//!
//! llama.cpp can load a model and make a context without taking memory for tensors, and then say
//! what they would have taken. Its own reaction to too little of it is late and different for each
//! device: on the processor the kernel ends the process.

use std::ffi::CStr;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_sys_2 as sys;
use worker_contract::{Device, DeviceId, DeviceKind, MemoryNeed};

use super::context::{ContextSettings, has_parts};
use super::devices::numbered;
use super::engine_log;
use super::host_memory;
use super::memory_estimate::Facts;
use super::memory_need::{Bytes, Need, NotEnoughMemory, crowded, judge};
use super::model_params::ModelParams;
use super::placement::{Placement, SplitMode};
use super::pooled::{BATCH_TEXTS, PooledSettings};
use super::pooling::Purpose;
use super::raw;
use super::runtime::Runtime;

/// The largest context that is measured; a larger one is reckoned from it. llama.cpp takes memory
/// for the bookkeeping of each token even when it measures.
const MEASURED_TOKENS: u32 = 1 << 20;

/// What is to be checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) file: &'a CStr,
    pub(super) placement: &'a Placement,
    pub(super) params: &'a ModelParams,
    pub(super) context: &'a ContextSettings,
    pub(super) facts: Option<Facts>,
}

/// Whether the devices of a plan can hold it. Writes a warning where they can barely.
pub(super) fn check(runtime: &Runtime, plan: Plan<'_>) -> Result<(), NotEnoughMemory> {
    let devices = numbered();
    if fits_easily(&devices, plan) {
        return Ok(());
    }
    let Some(needs) = measure(runtime, &devices, plan, Purpose::Text) else {
        // Whatever is wrong, loading in earnest will meet it too and say it.
        return Ok(());
    };
    for need in &needs {
        tracing::info!(
            device = %need.device,
            weights_bytes = need.weights + need.mapped,
            context_bytes = need.context,
            compute_bytes = need.compute,
            free_bytes = need.free,
            "memory that the model needs"
        );
    }
    let gpus = devices.iter().filter(|(device, _)| device.id.kind == DeviceKind::Gpu).count();
    judge(&needs, plan.context.kv_tokens, gpus > plan.placement.devices.len())?;
    for need in crowded(&needs) {
        tracing::warn!(
            device = %need.device,
            weights = %Bytes(need.mapped),
            free = %Bytes(need.free.unwrap_or(0)),
            "the weights do not fit into free memory: they are read from the disk again and again"
        );
    }
    Ok(())
}

/// Whether even an upper bound is far below what is free, wherever that is known.
fn fits_easily(devices: &[(Device, usize)], plan: Plan<'_>) -> bool {
    let Some(facts) = plan.facts else { return false };
    let context = facts.context_at_most(plan.context);
    let all = facts.file_bytes.saturating_add(context);
    // Half: on the processor, some weights are kept a second time, in the order that it likes.
    let mut free = plan.placement.devices.iter().map(|id| free_on(devices, *id));
    free.all(|free| free.is_none_or(|free| all < free / 2))
}

/// What is free on a device, where it tells.
fn free_on(devices: &[(Device, usize)], id: DeviceId) -> Option<u64> {
    if id.kind == DeviceKind::Cpu {
        return host_memory::available();
    }
    let (device, _) = devices.iter().find(|(device, _)| device.id == id)?;
    (device.memory_total_bytes > 0).then_some(device.memory_free_bytes)
}

/// What a model takes of each device in a plan; `None` when llama.cpp cannot make the model or the
/// context at all.
pub(super) fn needs(
    runtime: &Runtime,
    plan: Plan<'_>,
    purpose: Purpose,
) -> Option<Vec<MemoryNeed>> {
    let needs = measure(runtime, &numbered(), plan, purpose)?;
    let told = needs.into_iter().map(|need| MemoryNeed {
        device: need.device,
        weights_bytes: need.weights,
        mapped_bytes: need.mapped,
        context_bytes: need.context,
        compute_bytes: need.compute,
    });
    Some(told.collect())
}

/// What each device needs; `None` when llama.cpp cannot make the model or the context at all.
fn measure(
    runtime: &Runtime,
    devices: &[(Device, usize)],
    plan: Plan<'_>,
    purpose: Purpose,
) -> Option<Vec<Need>> {
    let _quiet = engine_log::Quiet::new();
    let model = plan.params.rehearse(plan.file)?;
    let (tokens, sequences, params) = match purpose {
        Purpose::Text => {
            let tokens = plan.context.kv_tokens.min(MEASURED_TOKENS);
            let settings = ContextSettings { kv_tokens: tokens, ..*plan.context };
            let sequences = settings.sequences(has_parts(&model));
            (tokens, sequences, settings.params(sequences))
        }
        Purpose::Pooled(pooling) => {
            let settings = PooledSettings {
                pooling,
                text_tokens: plan.context.kv_tokens,
                threads: plan.context.threads,
                batch_invariant: plan.context.batch_invariant,
            };
            let params = settings.clamped(model.n_ctx_train()).params();
            (plan.context.kv_tokens, BATCH_TEXTS, params)
        }
    };
    let context = model.new_context(&runtime.backend, params).ok()?;
    let processor = DeviceId { kind: DeviceKind::Cpu, index: 0 };
    let ids = std::iter::once(processor)
        .chain(plan.placement.devices.iter().copied().filter(|id| id.kind == DeviceKind::Gpu));
    // Rows of all GPUs are in buffers that name one of them: what each needs cannot be told.
    let is_by_rows = plan.placement.split_mode == SplitMode::Row;
    let is_told = |id: DeviceId| id.kind == DeviceKind::Cpu || !is_by_rows;
    let free = |id| if is_told(id) { free_on(devices, id) } else { None };
    let mut needs: Vec<Need> = ids.map(|id| Need::nothing(id, free(id))).collect();
    for buffer in breakdown(&context)? {
        let id = device_of(devices, &buffer);
        let Some(need) = needs.iter_mut().find(|need| need.device == id) else { continue };
        // SAFETY: it takes nothing and gives a pointer to a static.
        let ordinary = unsafe { sys::ggml_backend_cpu_buffer_type() };
        let weights = if buffer.kind == ordinary { &mut need.mapped } else { &mut need.weights };
        *weights += buffer.model as u64;
        need.context += scaled(buffer.context as u64, plan.context.kv_tokens, tokens);
        need.compute += buffer.compute as u64;
    }
    // llama.cpp does not count where it puts the results, in the machine's memory.
    if let Some(processor) = needs.first_mut() {
        let results = model.n_vocab().max(0).unsigned_abs() + model.n_embd().max(0).unsigned_abs();
        processor.compute += u64::from(sequences) * u64::from(results) * 4;
    }
    Some(needs)
}

/// What was measured for `measured` tokens, for `tokens`.
fn scaled(bytes: u64, tokens: u32, measured: u32) -> u64 {
    let bytes = u128::from(bytes) * u128::from(tokens) / u128::from(measured.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The device whose memory a buffer takes.
fn device_of(devices: &[(Device, usize)], buffer: &BufferUse) -> DeviceId {
    let processor = DeviceId { kind: DeviceKind::Cpu, index: 0 };
    // SAFETY: the type comes from llama.cpp's breakdown of a context that lives.
    let (is_host, device) = unsafe {
        (
            sys::ggml_backend_buft_is_host(buffer.kind),
            sys::ggml_backend_buft_get_device(buffer.kind),
        )
    };
    if is_host {
        return processor;
    }
    let found = devices.iter().find(|(_, index)| {
        // SAFETY: the numbers come from llama.cpp's own list, which does not shrink.
        unsafe { sys::ggml_backend_dev_get(*index) == device }
    });
    found.map_or(processor, |(device, _)| device.id)
}

/// What a context and its model take in buffers of one type, in bytes: `rbee_buffer_use` of
/// memory_breakdown.cpp.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct BufferUse {
    kind: sys::ggml_backend_buffer_type_t,
    model: usize,
    context: usize,
    compute: usize,
}

unsafe extern "C" {
    fn rbee_memory_breakdown(
        context: *const sys::llama_context,
        out: *mut BufferUse,
        capacity: usize,
    ) -> usize;
}

fn breakdown(context: &LlamaContext<'_>) -> Option<Vec<BufferUse>> {
    let pointer = raw::context_pointer(context)?;
    let nothing = BufferUse { kind: std::ptr::null_mut(), model: 0, context: 0, compute: 0 };
    let mut uses = vec![nothing; 256];
    // SAFETY: the context lives, and there is room for as many entries as are said.
    let count = unsafe { rbee_memory_breakdown(pointer.as_ptr(), uses.as_mut_ptr(), uses.len()) };
    uses.truncate(count);
    (count > 0).then_some(uses)
}
