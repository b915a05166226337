//! How a model is loaded, as llama.cpp wants to be told.
//!
//! llama-cpp-2's own parameters have no shares of devices (`tensor_split`), so these are llama.cpp's.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::context::ContextSettings;
use super::engine_log;
use super::placement::{GpuLayers, Placement, SplitMode};
use super::raw;
use super::runtime::Runtime;

/// What is left free on each GPU when layers are fitted, in bytes: llama.cpp's own default.
const FIT_MARGIN: usize = 1 << 30;

/// How a model is loaded.
#[derive(Debug)]
pub(super) struct ModelParams {
    /// The devices to offload to, ended by a null.
    devices: Vec<sys::ggml_backend_dev_t>,
    split_mode: SplitMode,
    /// A negative number is all.
    gpu_layers: i32,
    /// Empty, or one for each of `llama_max_devices`.
    tensor_split: Vec<f32>,
    /// Which tensors go elsewhere than their layer, ended by nulls; patterns are llama.cpp's statics.
    overrides: Vec<sys::llama_model_tensor_buft_override>,
}

/// llama.cpp found no way to share the layers between GPUs and processor.
#[derive(Debug, thiserror::Error)]
#[error(
    "--n-gpu-layers auto found no number of layers that fits with {margin} MiB to spare on each GPU{because}; give the number, use a smaller --ctx-size, or --device CPU-0"
)]
pub struct NoFit {
    margin: usize,
    because: String,
}

impl ModelParams {
    /// Parameters for a placement; `gpus` are llama.cpp's numbers of the devices.
    pub(super) fn new(_runtime: &Runtime, placement: &Placement, gpus: &[usize]) -> Self {
        // SAFETY: the numbers come from llama.cpp's own list, which does not shrink.
        let device = |index: &usize| unsafe { sys::ggml_backend_dev_get(*index) };
        let devices = gpus.iter().map(device).chain([std::ptr::null_mut()]).collect();
        let gpu_layers = match placement.layers() {
            GpuLayers::Auto | GpuLayers::All => -1,
            GpuLayers::Count(count) => i32::try_from(count).unwrap_or(i32::MAX),
        };
        let mut tensor_split = placement.tensor_split.clone();
        if !tensor_split.is_empty() {
            tensor_split.resize(max_devices(), 0.0);
        }
        let split_mode = placement.split_mode;
        Self { devices, split_mode, gpu_layers, tensor_split, overrides: Vec::new() }
    }

    /// Chooses how many layers the GPUs hold by the memory that is free there.
    pub(super) fn fit(&mut self, file: &CStr, context: &ContextSettings) -> Result<(), NoFit> {
        // SAFETY: it takes nothing and gives a number.
        let most_overrides = unsafe { sys::llama_max_tensor_buft_overrides() };
        let mut tensor_split = vec![0.0; max_devices()];
        let mut margins = vec![FIT_MARGIN; max_devices()];
        let mut overrides = vec![no_override(); most_overrides + 1];
        let mut params = self.raw();
        let mut context = context.for_fit();
        let _quiet = engine_log::Quiet::new();
        // SAFETY: all pointers are to places that outlive the call, with the sizes that fit.h asks
        // for; only the engine's thread changes llama.cpp's log while it runs.
        let status = unsafe {
            sys::llama_rs_fit_params(
                file.as_ptr(),
                &raw mut params,
                &raw mut context,
                tensor_split.as_mut_ptr(),
                overrides.as_mut_ptr(),
                margins.as_mut_ptr(),
                context.n_ctx,
                std::ptr::null(),
                sys::GGML_LOG_LEVEL_ERROR,
            )
        };
        if status != 0 {
            let because = engine_log::last_errors().map_or_else(String::new, |e| format!(" ({e})"));
            return Err(NoFit { margin: FIT_MARGIN >> 20, because });
        }
        self.gpu_layers = params.n_gpu_layers;
        self.tensor_split = if params.tensor_split.is_null() { Vec::new() } else { tensor_split };
        self.overrides =
            if params.tensor_buft_overrides.is_null() { Vec::new() } else { overrides };
        Ok(())
    }

    /// How many layers of `layers` the GPUs hold.
    pub(super) fn layers_on_gpus(&self, layers: u32) -> u32 {
        if self.devices.len() == 1 {
            return 0;
        }
        u32::try_from(self.gpu_layers).map_or(layers, |count| count.min(layers))
    }

    /// How many groups of tensors of those layers the processor holds nevertheless.
    pub(super) fn parts_on_processor(&self) -> usize {
        self.overrides.iter().filter(|entry| !entry.pattern.is_null()).count()
    }

    /// Loads a model; `on_progress` is told the part that is done, 0 to 1. What is wrong is in
    /// [`engine_log`].
    pub(super) fn load<F: FnMut(f32)>(
        &self,
        file: &CStr,
        mut on_progress: F,
    ) -> Option<LlamaModel> {
        let mut params = self.raw();
        params.progress_callback = Some(tell_progress::<F>);
        params.progress_callback_user_data = std::ptr::from_mut(&mut on_progress).cast();
        load(file, params)
    }

    /// Loads what says how much memory a model takes, and takes none for its tensors.
    pub(super) fn rehearse(&self, file: &CStr) -> Option<LlamaModel> {
        let mut params = self.raw();
        params.no_alloc = true;
        params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
        load(file, params)
    }

    /// For as long as `self` lives and does not change.
    fn raw(&self) -> sys::llama_model_params {
        // SAFETY: it takes nothing and gives values.
        let mut params = unsafe { sys::llama_model_default_params() };
        // llama.cpp reads the list only.
        params.devices = self.devices.as_ptr().cast_mut();
        params.n_gpu_layers = self.gpu_layers;
        params.split_mode = match self.split_mode {
            SplitMode::Layer => sys::LLAMA_SPLIT_MODE_LAYER,
            SplitMode::Row => sys::LLAMA_SPLIT_MODE_ROW,
            SplitMode::None => sys::LLAMA_SPLIT_MODE_NONE,
        };
        if !self.tensor_split.is_empty() {
            params.tensor_split = self.tensor_split.as_ptr();
        }
        if !self.overrides.is_empty() {
            params.tensor_buft_overrides = self.overrides.as_ptr();
        }
        params
    }
}

fn load(file: &CStr, params: sys::llama_model_params) -> Option<LlamaModel> {
    // SAFETY: `file` is a C string, and what `params` points to outlives the call: both callers
    // take it from a `ModelParams` that they borrow.
    let model = unsafe { sys::llama_model_load_from_file(file.as_ptr(), params) };
    // SAFETY: it was just loaded, and only this owns it.
    NonNull::new(model).map(|model| unsafe { raw::own_model(model) })
}

/// # Safety
///
/// `data` is an `F` that nobody else uses during the call.
unsafe extern "C" fn tell_progress<F: FnMut(f32)>(done: f32, data: *mut c_void) -> bool {
    // SAFETY: as the caller promises.
    let on_progress = unsafe { &mut *data.cast::<F>() };
    on_progress(done);
    true
}

fn max_devices() -> usize {
    // SAFETY: it takes nothing and gives a number.
    unsafe { sys::llama_max_devices() }
}

fn no_override() -> sys::llama_model_tensor_buft_override {
    let (pattern, buft) = (std::ptr::null(), std::ptr::null_mut());
    sys::llama_model_tensor_buft_override { pattern, buft }
}
