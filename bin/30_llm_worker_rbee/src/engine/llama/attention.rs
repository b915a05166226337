//! How attention is computed, and what its cache is made of. Pure.

use std::fmt;
use std::str::FromStr;

use llama_cpp_2::context::params::KvCacheType;
use llama_cpp_sys_2 as sys;

/// How attention is computed and what the KV cache is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttentionSettings {
    /// The type of the cached keys.
    pub cache_type_k: CacheType,
    /// The type of the cached values.
    pub cache_type_v: CacheType,
    /// Whether attention is one fused operation.
    pub flash_attention: FlashAttention,
}

/// What a KV cache is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are ggml's")]
pub enum CacheType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

/// Whether attention is one fused operation, which needs less memory and is mostly faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// Where the device can do it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Values are quantised and flash attention is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "--cache-type-v {0} needs flash attention: leave --flash-attention at auto, or use f16, bf16 or f32"
)]
pub struct NeedsFlashAttention(CacheType);

impl AttentionSettings {
    /// Whether the settings go together.
    pub fn check(&self) -> Result<(), NeedsFlashAttention> {
        if self.cache_type_v.is_quantized() && self.flash_attention == FlashAttention::Off {
            return Err(NeedsFlashAttention(self.cache_type_v));
        }
        Ok(())
    }
}

impl CacheType {
    const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
        Self::Iq4Nl,
    ];

    /// Whether values lose precision in blocks of 32.
    #[must_use]
    pub fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The memory of that many values, in bytes: ggml's `type_size` of a block of 32.
    #[must_use]
    pub fn bytes(self, values: u64) -> u64 {
        let block = match self {
            Self::F32 => 128,
            Self::F16 | Self::Bf16 => 64,
            Self::Q8_0 => 34,
            Self::Q5_1 => 24,
            Self::Q5_0 => 22,
            Self::Q4_1 => 20,
            Self::Q4_0 | Self::Iq4Nl => 18,
        };
        values.div_ceil(32).saturating_mul(block)
    }

    pub(super) fn engine(self) -> KvCacheType {
        match self {
            Self::F32 => KvCacheType::F32,
            Self::F16 => KvCacheType::F16,
            Self::Bf16 => KvCacheType::BF16,
            Self::Q8_0 => KvCacheType::Q8_0,
            Self::Q5_1 => KvCacheType::Q5_1,
            Self::Q5_0 => KvCacheType::Q5_0,
            Self::Q4_1 => KvCacheType::Q4_1,
            Self::Q4_0 => KvCacheType::Q4_0,
            Self::Iq4Nl => KvCacheType::IQ4_NL,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
            Self::Iq4Nl => "iq4_nl",
        }
    }
}

impl FlashAttention {
    pub(super) fn engine(self) -> sys::llama_flash_attn_type {
        match self {
            Self::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            Self::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            Self::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("use one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FlashAttention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("use auto, on or off".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_type_reads_back_as_it_is_written_and_has_ggmls_size() {
        for kind in CacheType::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            let raw = sys::ggml_type::from(kind.engine());
            // SAFETY: `raw` is one of ggml's types.
            let (block, bytes) = unsafe { (sys::ggml_blck_size(raw), sys::ggml_type_size(raw)) };
            let values = u64::try_from(block).unwrap() * 96;
            assert_eq!(kind.bytes(values), 96 * bytes as u64, "{kind}");
            // SAFETY: as above.
            assert_eq!(kind.is_quantized(), unsafe { sys::ggml_is_quantized(raw) }, "{kind}");
        }
        assert!("q6_k".parse::<CacheType>().unwrap_err().contains("q8_0"));
    }

    #[test]
    fn quantised_values_need_flash_attention() {
        for (v, flash, is_fine) in [
            ("f16", "off", true),
            ("bf16", "off", true),
            ("q8_0", "auto", true),
            ("q8_0", "on", true),
            ("q8_0", "off", false),
            ("iq4_nl", "off", false),
        ] {
            let settings = AttentionSettings {
                cache_type_k: CacheType::Q4_0,
                cache_type_v: v.parse().unwrap(),
                flash_attention: flash.parse().unwrap(),
            };
            assert_eq!(settings.check().is_ok(), is_fine, "{settings:?}");
        }
        let refused = NeedsFlashAttention(CacheType::Q8_0).to_string();
        assert!(refused.contains("--cache-type-v q8_0 needs flash attention"));
    }
}
