//! From llama-cpp-2's safe handles to llama.cpp's pointers and back, for what it has no call for.
//!
//! That crate keeps its pointers to itself. What is assumed of it here holds for the version that
//! Cargo.lock names, and the tests of adapters and devices fail where it no longer does.

use std::ptr::NonNull;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_sys_2 as sys;

/// Takes over a model that llama.cpp has loaded; it is freed when the result is dropped.
///
/// # Safety
///
/// `pointer` is a loaded model, and nobody else frees it.
pub(super) unsafe fn own_model(pointer: NonNull<sys::llama_model>) -> LlamaModel {
    // SAFETY: `LlamaModel` is `repr(transparent)` over a pointer that is `repr(transparent)` over
    // `NonNull`, and owns it, as the caller promises that it may.
    unsafe { std::mem::transmute::<NonNull<sys::llama_model>, LlamaModel>(pointer) }
}

/// llama.cpp's pointer of a model, valid as long as the model is.
pub(super) fn model_pointer(model: &LlamaModel) -> *mut sys::llama_model {
    const {
        assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
    }
    // SAFETY: `LlamaModel` is `repr(transparent)` over its pointer, which is not null.
    unsafe { std::mem::transmute_copy::<LlamaModel, *mut sys::llama_model>(model) }
}

/// llama.cpp's pointer of an adapter, valid as long as its model is.
pub(super) fn adapter_pointer(adapter: &LlamaLoraAdapter) -> *mut sys::llama_adapter_lora {
    const {
        assert!(size_of::<LlamaLoraAdapter>() == size_of::<*mut sys::llama_adapter_lora>());
    }
    // SAFETY: `LlamaLoraAdapter` is `repr(transparent)` over its pointer, which is not null.
    unsafe { std::mem::transmute_copy::<LlamaLoraAdapter, *mut sys::llama_adapter_lora>(adapter) }
}

/// llama.cpp's pointer of a context. `None` where llama-cpp-2 does not show it.
///
/// Its place in the struct is not fixed, but `Debug` prints it:
/// `LlamaContext { context: 0x55d0c0a4e2a0 }`.
pub(super) fn context_pointer(context: &LlamaContext<'_>) -> Option<NonNull<sys::llama_context>> {
    let address = address_in(&format!("{context:?}"))?;
    NonNull::new(std::ptr::with_exposed_provenance_mut(address))
}

fn address_in(debug: &str) -> Option<usize> {
    let address = debug.strip_prefix("LlamaContext { context: 0x")?.strip_suffix(" }")?;
    usize::from_str_radix(address, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_from_exactly_the_words_that_are_expected() {
        for (words, address) in [
            ("LlamaContext { context: 0x7f00 }", Some(0x7f00)),
            ("LlamaContext { context: 0x7f00, more: 1 }", None),
            ("LlamaContext { .. }", None),
            ("LlamaContext { context: 12 }", None),
        ] {
            assert_eq!(address_in(words), address, "{words}");
        }
    }
}
