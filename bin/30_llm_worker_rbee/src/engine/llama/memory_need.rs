//! Whether what a model needs fits into what is free. Pure.

use std::fmt;

use worker_contract::{DeviceId, DeviceKind};

/// What a model and its context need on one device, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    /// The device.
    pub(super) device: DeviceId,
    /// Weights that stay in the file and are read from it as they are wanted.
    pub(super) mapped: u64,
    /// Weights that take memory.
    pub(super) weights: u64,
    /// The KV cache, or what the model has in its place.
    pub(super) context: u64,
    /// Room to compute a batch.
    pub(super) compute: u64,
    /// What is free; `None` where the device does not tell.
    pub(super) free: Option<u64>,
}

/// A device cannot hold what it is asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotEnoughMemory {
    need: Need,
    context_tokens: u32,
    other_gpus: bool,
}

impl Need {
    pub(super) fn nothing(device: DeviceId, free: Option<u64>) -> Self {
        Self { device, mapped: 0, weights: 0, context: 0, compute: 0, free }
    }

    /// What must be there at once, in bytes.
    fn least(&self) -> u64 {
        self.weights.saturating_add(self.context).saturating_add(self.compute)
    }
}

/// Whether every device has what it must have at least.
///
/// Weights that are mapped from the file need no memory of their own: they are worth a warning in
/// the log, for a model that is read from the disk again and again is slow.
pub(super) fn judge(
    needs: &[Need],
    context_tokens: u32,
    other_gpus: bool,
) -> Result<(), NotEnoughMemory> {
    for need in needs {
        let Some(free) = need.free else { continue };
        if need.least() > free {
            return Err(NotEnoughMemory { need: need.clone(), context_tokens, other_gpus });
        }
    }
    Ok(())
}

/// The devices that will read weights from the disk again and again.
pub(super) fn crowded(needs: &[Need]) -> impl Iterator<Item = &Need> {
    needs.iter().filter(|need| {
        need.free.is_some_and(|free| need.least().saturating_add(need.mapped) > free)
    })
}

impl NotEnoughMemory {
    fn text(&self) -> String {
        let need = &self.need;
        let free = need.free.unwrap_or(0);
        let weights = if need.weights == 0 {
            String::new()
        } else {
            format!("weights {}, ", Bytes(need.weights))
        };
        let what_to_do = match need.device.kind {
            DeviceKind::Cpu => "",
            DeviceKind::Gpu if self.other_gpus => {
                ", --n-gpu-layers auto leaves to the processor what does not fit, or name more of this machine's GPUs in --device"
            }
            DeviceKind::Gpu => {
                ", --n-gpu-layers auto leaves to the processor what does not fit, or choose another device"
            }
        };
        format!(
            "{} cannot hold this: {} are needed ({}context of {} tokens {}, computing {}) and {} are free; a smaller --ctx-size, or --cache-type-k and --cache-type-v q8_0, need less{}",
            need.device,
            Bytes(need.least()),
            weights,
            self.context_tokens,
            Bytes(need.context),
            Bytes(need.compute),
            Bytes(free),
            what_to_do,
        )
    }
}

/// An amount of memory, for people and for comparing: `1.5 GiB (1610612736 bytes)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mib, gib) = (f64::from(1 << 20), f64::from(1 << 30));
        let bytes = self.0 as f64;
        if bytes < gib {
            write!(f, "{:.1} MiB ({} bytes)", bytes / mib, self.0)
        } else {
            write!(f, "{:.2} GiB ({} bytes)", bytes / gib, self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn only_what_takes_memory_must_fit() {
        for (mapped, weights, context, compute, free, fits, is_crowded) in [
            (0, 4, 1, 1, Some(6), true, false),
            (0, 4, 1, 1, Some(5), false, true),
            (9, 0, 1, 1, Some(5), true, true),
            (9, 0, 5, 1, Some(5), false, true),
            (0, u64::MAX, 1, 1, Some(5), false, true),
            (0, 4, 1, 1, None, true, false),
        ] {
            let device = "GPU-0".parse().unwrap();
            let need = [Need { device, mapped, weights, context, compute, free }];
            assert_eq!(judge(&need, 8, false).is_ok(), fits, "{need:?}");
            assert_eq!(crowded(&need).count() == 1, is_crowded, "{need:?}");
        }
    }

    #[test]
    fn the_refusal_says_what_is_needed_what_is_free_and_what_to_do() {
        let gpu = Need {
            device: "GPU-1".parse().unwrap(),
            mapped: 0,
            weights: 7 * GIB,
            context: 3 * GIB / 2,
            compute: GIB / 2,
            free: Some(6 * GIB),
        };
        let said = judge(std::slice::from_ref(&gpu), 8192, true).unwrap_err().to_string();
        for wanted in [
            "GPU-1 cannot hold this",
            "9.00 GiB (9663676416 bytes) are needed",
            "weights 7.00 GiB",
            "context of 8192 tokens 1.50 GiB",
            "computing 512.0 MiB",
            "6.00 GiB (6442450944 bytes) are free",
            "--ctx-size",
            "--n-gpu-layers auto",
            "more of this machine's GPUs",
        ] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
        let processor = Need { device: "CPU-0".parse().unwrap(), weights: 0, free: Some(1), ..gpu };
        let said = judge(&[processor], 8192, false).unwrap_err().to_string();
        assert!(said.starts_with("CPU-0 cannot hold this: 2.00 GiB"), "{said}");
        assert!(!said.contains("weights") && !said.contains("--n-gpu-layers"), "{said}");
    }
}
