//! The name that a model gets when the user gives none: made from the file's name. Pure.

use worker_contract::ModelAlias;

use super::shard::Shard;

/// The longest alias that is made, in bytes.
const MAX_BYTES: usize = 96;

/// `SmolLM2-135M-Instruct.Q4_1.gguf` becomes `smollm2-135m-instruct`; `None` if nothing legal is left.
pub(crate) fn from_file_name(file_name: &str) -> Option<ModelAlias> {
    let lower = file_name.to_lowercase();
    let stem = lower.strip_suffix(".gguf").unwrap_or(&lower);
    let stem = Shard::of(stem).map_or(stem, |shard| shard.stem);
    let legal = legalised(without_quantization(stem));
    legal.parse().ok()
}

/// The quantization that a file's name ends with: `Q4_K_M`, `f16`, `UD-Q4_K_XL`.
pub(crate) fn quantization_in(stem: &str) -> Option<&str> {
    let cut = quantization_at(&stem.to_ascii_lowercase())?;
    stem.get(cut + 1..)
}

/// Cuts off the last part if it names a quantization: `-q4_k_m`, `.f16`, `-ud-q4_k_xl`.
fn without_quantization(stem: &str) -> &str {
    quantization_at(stem).map_or(stem, |at| &stem[..at])
}

/// Where the separator before the quantization is, in a name of small letters.
fn quantization_at(stem: &str) -> Option<usize> {
    let mut separators = stem.match_indices(['.', '-', '_', '/']).map(|(at, _)| at);
    separators.find(|at| names_quantization(&stem[at + 1..]))
}

fn names_quantization(text: &str) -> bool {
    let text = text.strip_prefix("ud-").unwrap_or(text);
    if matches!(text, "f32" | "f16" | "bf16" | "fp16" | "fp32" | "mxfp4" | "mxfp4_moe") {
        return true;
    }
    let digits = ["iq", "tq", "q"].iter().find_map(|prefix| text.strip_prefix(prefix));
    let Some((bits, rest)) = digits.and_then(|digits| digits.split_at_checked(1)) else {
        return false;
    };
    let is_bits = bits.bytes().all(|b| b.is_ascii_digit());
    // What follows the bits: nothing, or `_0`, `_k`, `_k_m`, `_xxs`, …
    let parts_follow = rest.is_empty()
        || rest.strip_prefix('_').is_some_and(|parts| {
            parts.split('_').all(|part| {
                (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
            })
        });
    is_bits && parts_follow
}

/// Puts `-` for each character that an alias cannot have, and never two separators in a row.
fn legalised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_ascii_alphanumeric() || "._:-".contains(c) { c } else { '-' };
        let doubled =
            !c.is_ascii_alphanumeric() && !out.ends_with(|l: char| l.is_ascii_alphanumeric());
        if !doubled && out.len() < MAX_BYTES {
            out.push(c);
        }
    }
    out.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_alias_is_the_file_name_without_what_only_files_need() {
        for (file, alias) in [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("smollm2-135m-instruct")),
            ("Qwen3-0.6B-Q4_K_M.gguf", Some("qwen3-0.6b")),
            ("Qwen3-VL-30B-A3B-MXFP4_MOE.gguf", Some("qwen3-vl-30b-a3b")),
            ("gemma-3-270m-it-UD-IQ2_XXS.gguf", Some("gemma-3-270m-it")),
            ("model.f16.gguf", Some("model")),
            ("big-Q8_0-00001-of-00002.gguf", Some("big")),
            ("stories260K.gguf", Some("stories260k")),
            ("qwen_q8_0.gguf", Some("qwen")),
            ("My Model (copy).gguf", Some("my-model-copy")),
            ("a..b.gguf", Some("a.b")),
            ("Qwen2-q.gguf", Some("qwen2-q")),
            ("modèle.gguf", Some("mod-le")),
            ("no-extension", Some("no-extension")),
            ("---.gguf", None),
            ("", None),
        ] {
            let made = from_file_name(file);
            assert_eq!(made.as_ref().map(ModelAlias::as_str), alias, "{file}");
        }
    }

    proptest! {
        #[test]
        fn any_file_name_with_a_letter_gives_a_legal_alias(name in "\\PC{0,300}") {
            let has_letter = name.chars().any(|c| c.is_ascii_alphabetic());
            if has_letter && !name.to_lowercase().ends_with(".gguf") && from_file_name(&name).is_none() {
                // Only a name that is nothing but a quantization may be refused.
                let start = name.to_lowercase();
                prop_assert!(start.contains('q') || start.contains('f'), "{name:?}");
            }
        }
    }
}
