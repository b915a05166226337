//! llama.cpp's log, overheard: its last errors are quoted in ours, and a rehearsal is kept quiet.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use llama_cpp_sys_2 as sys;

/// The most error lines that are kept.
const MOST_LINES: usize = 8;

/// The most characters of a line that are kept.
const MOST_CHARACTERS: usize = 400;

static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static IS_QUIET: AtomicBool = AtomicBool::new(false);
static IS_LOADING: AtomicBool = AtomicBool::new(false);

/// Who got the lines before, and still does.
struct Original {
    callback: sys::ggml_log_callback,
    data: *mut c_void,
}

// SAFETY: the pointer is only handed back to its callback, which llama.cpp calls from any thread.
unsafe impl Send for Original {}
// SAFETY: as above.
unsafe impl Sync for Original {}

/// Listens from here on, and passes everything on to where it went before. Once a process.
pub(super) fn listen() {
    static LLAMA: OnceLock<Original> = OnceLock::new();
    static GGML: OnceLock<Original> = OnceLock::new();
    if LLAMA.get().is_some() {
        return;
    }
    let mut llama = Original { callback: None, data: std::ptr::null_mut() };
    let mut ggml = Original { callback: None, data: std::ptr::null_mut() };
    // SAFETY: both functions write to the two places that they are given.
    unsafe {
        sys::llama_log_get(&raw mut llama.callback, &raw mut llama.data);
        sys::ggml_log_get(&raw mut ggml.callback, &raw mut ggml.data);
    }
    let pointer = |original: &'static Original| std::ptr::from_ref(original).cast_mut().cast();
    // SAFETY: the data of each callback is a static, which lives as long as the process. ggml's
    // comes second because setting llama.cpp's sets both.
    unsafe {
        sys::llama_log_set(Some(overhear), pointer(LLAMA.get_or_init(|| llama)));
        let ggml = pointer(GGML.get_or_init(|| ggml));
        sys::ggml_log_set(Some(overhear), ggml);
        // The projector's own log is the process's error output unless it is told otherwise.
        sys::mtmd_log_set(Some(overhear), ggml);
    }
}

/// Forgets the errors so far; what comes next belongs to what is done next.
pub(super) fn forget_errors() {
    errors().clear();
}

/// The errors since [`forget_errors`], as one line.
pub(super) fn last_errors() -> Option<String> {
    let lines = errors().clone();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// While it lives, what llama.cpp tells goes out as `debug`: a rehearsal is not the performance.
pub(super) struct Quiet(());

impl Quiet {
    pub(super) fn new() -> Self {
        IS_QUIET.store(true, Relaxed);
        Self(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        IS_QUIET.store(false, Relaxed);
    }
}

/// While it lives, what llama.cpp calls an error goes out as `info`: a backend without a device is none, and
/// a device that is wanted and not there is refused by us.
pub(super) struct Loading(());

impl Loading {
    pub(super) fn new() -> Self {
        IS_LOADING.store(true, Relaxed);
        Self(())
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        IS_LOADING.store(false, Relaxed);
    }
}

fn errors() -> MutexGuard<'static, Vec<String>> {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
///
/// `text` is a C string and `data` an [`Original`] that lives.
unsafe extern "C" fn overhear(level: sys::ggml_log_level, text: *const c_char, data: *mut c_void) {
    if level == sys::GGML_LOG_LEVEL_ERROR {
        // SAFETY: `text` is a C string.
        let line = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        let mut errors = errors();
        if let Some(line) = worth_telling(&line)
            && errors.len() < MOST_LINES
            && !errors.contains(&line)
        {
            errors.push(line);
        }
    }
    let level = as_told(level);
    // SAFETY: `data` is what `listen` gave, a static.
    let original = unsafe { &*data.cast::<Original>() };
    if let Some(callback) = original.callback {
        // SAFETY: the callback is called as llama.cpp would call it, with its own data.
        unsafe { callback(level, text, original.data) };
    }
}

/// The level at which a line goes out.
fn as_told(level: sys::ggml_log_level) -> sys::ggml_log_level {
    match level {
        sys::GGML_LOG_LEVEL_INFO | sys::GGML_LOG_LEVEL_WARN if IS_QUIET.load(Relaxed) => {
            sys::GGML_LOG_LEVEL_DEBUG
        }
        sys::GGML_LOG_LEVEL_ERROR if IS_LOADING.load(Relaxed) => sys::GGML_LOG_LEVEL_INFO,
        level => level,
    }
}

/// A line without the name of the function that wrote it; `None` for the lines that say only that
/// something failed.
fn worth_telling(line: &str) -> Option<String> {
    let line = line.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let text = match line.split_once(": ") {
        Some((name, text)) if !name.is_empty() && name.chars().all(is_name) => text,
        _ => line,
    };
    let text = text.strip_prefix("error loading model: ").unwrap_or(text).trim();
    if text.is_empty() || text == "failed to load model" {
        return None;
    }
    Some(text.chars().take(MOST_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_without_a_device_is_no_error() {
        let error = sys::GGML_LOG_LEVEL_ERROR;
        let loading = Loading::new();
        assert_eq!(as_told(error), sys::GGML_LOG_LEVEL_INFO);
        drop(loading);
        assert_eq!(as_told(error), error);
    }

    #[test]
    fn a_line_is_quoted_without_the_functions_name_and_empty_talk_is_left_out() {
        for (line, told) in [
            ("llama_model_load: error loading model: bad magic\n", Some("bad magic")),
            ("llama_model_load_from_file_impl: failed to load model\n", None),
            (
                "quantized V cache requires flash_attn\n",
                Some("quantized V cache requires flash_attn"),
            ),
            ("what is this: text", Some("what is this: text")),
            ("\n", None),
        ] {
            assert_eq!(worth_telling(line).as_deref(), told, "{line:?}");
        }
    }
}
