//! What a file says of itself, for people and catalogs.

use std::collections::BTreeMap;

use worker_contract::GgufSummary;

use super::Header;
use super::value::{Value, ValueType};

/// The architecture that projectors name.
const PROJECTOR: &str = "clip";

impl Header {
    /// The summary of a file of `size_bytes`, or what is missing for a language model. What the model can do
    /// is for the engine to say.
    pub fn summary(&self, size_bytes: u64) -> Result<GgufSummary, String> {
        let architecture =
            self.text("general.architecture").ok_or_else(|| "general.architecture".to_owned())?;
        let (parameters, quantization) = self.weights();
        if parameters == 0 {
            return Err("any tensor".to_owned());
        }
        let context_key = format!("{architecture}.context_length");
        let context_length = match self.number(&context_key) {
            // What sees remembers nothing.
            None if self.is_projector() => 0,
            length => length.ok_or(context_key)?,
        };
        Ok(GgufSummary {
            context_length,
            embedding_length: self.width(),
            kind: None,
            architecture: architecture.to_owned(),
            name: self.text("general.name").map(printable),
            license: self.text("general.license").map(printable),
            quantization: self.file_type().map_or(quantization, str::to_owned),
            parameters,
            has_chat_template: self.text("tokenizer.chat_template").is_some(),
            size_bytes,
        })
    }

    /// Whether it is what a model sees images with, and no model.
    #[must_use]
    pub fn is_projector(&self) -> bool {
        self.text("general.architecture") == Some(PROJECTOR)
    }

    /// The number of weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.weights().0
    }

    pub(super) fn number(&self, key: &str) -> Option<u32> {
        match self.get(key)? {
            Value::Integer(ValueType::U32 | ValueType::U64, number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The number of weights, and the tensor type that holds most of them.
    fn weights(&self) -> (u64, String) {
        let mut weights_by_type: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in &self.tensors {
            let weights = weights_by_type.entry(tensor.kind.name).or_default();
            *weights = weights.saturating_add(tensor.weights);
        }
        let total = weights_by_type.values().fold(0, |sum: u64, n| sum.saturating_add(*n));
        let most = weights_by_type.into_iter().max_by_key(|(_, weights)| *weights);
        (total, most.map_or_else(String::new, |(name, _)| name.to_owned()))
    }

    /// The name of `general.file_type`, as llama.cpp gives it: `Q4_K - Medium` becomes `Q4_K_M`.
    fn file_type(&self) -> Option<&'static str> {
        // The numbers: llama.cpp, include/llama.h, enum llama_ftype.
        Some(match self.number("general.file_type")? {
            0 => "F32",
            1 => "F16",
            2 => "Q4_0",
            3 => "Q4_1",
            7 => "Q8_0",
            8 => "Q5_0",
            9 => "Q5_1",
            10 => "Q2_K",
            11 => "Q3_K_S",
            12 => "Q3_K_M",
            13 => "Q3_K_L",
            14 => "Q4_K_S",
            15 => "Q4_K_M",
            16 => "Q5_K_S",
            17 => "Q5_K_M",
            18 => "Q6_K",
            19 => "IQ2_XXS",
            20 => "IQ2_XS",
            21 => "Q2_K_S",
            22 => "IQ3_XS",
            23 => "IQ3_XXS",
            24 => "IQ1_S",
            25 => "IQ4_NL",
            26 => "IQ3_S",
            27 => "IQ3_M",
            28 => "IQ2_S",
            29 => "IQ2_M",
            30 => "IQ4_XS",
            31 => "IQ1_M",
            32 => "BF16",
            36 => "TQ1_0",
            37 => "TQ2_0",
            38 => "MXFP4",
            _ => return None,
        })
    }
}

/// A text for a terminal: a name from a file must not be able to command it.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}
