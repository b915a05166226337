//! The hyperparameters: numbers for which llama.cpp ends the process (`GGML_ASSERT` in
//! `src/llama-model.cpp`, `load_hparams`), or multiplies beyond what its integers hold.

use super::Header;
use super::error::{GgufError, Place};
use super::limits::{MAX_CONTEXT, MAX_EXPERTS, MAX_HEADS, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH};
use super::value::Value;

/// The longest name of an architecture; theirs have up to about 20 characters.
const MAX_ARCHITECTURE_BYTES: usize = 64;

/// Keys below the architecture's name with a single number, and what it is at most.
const MOST: [(&str, u64); 25] = [
    ("context_length", MAX_CONTEXT),
    ("vocab_size", MAX_VOCABULARY),
    ("embedding_length", MAX_WIDTH),
    ("embedding_length_out", MAX_WIDTH),
    ("embedding_length_per_layer_input", MAX_WIDTH),
    ("features_length", MAX_WIDTH),
    ("expert_feed_forward_length", MAX_WIDTH),
    ("expert_shared_feed_forward_length", MAX_WIDTH),
    ("attention.key_length", MAX_WIDTH),
    ("attention.value_length", MAX_WIDTH),
    ("attention.key_length_mla", MAX_WIDTH),
    ("attention.value_length_mla", MAX_WIDTH),
    ("attention.key_length_swa", MAX_WIDTH),
    ("attention.value_length_swa", MAX_WIDTH),
    ("attention.q_lora_rank", MAX_WIDTH),
    ("attention.kv_lora_rank", MAX_WIDTH),
    ("rope.dimension_count", MAX_WIDTH),
    ("rope.dimension_count_swa", MAX_WIDTH),
    ("ssm.inner_size", MAX_WIDTH),
    ("ssm.state_size", MAX_WIDTH),
    ("ssm.group_count", MAX_WIDTH),
    ("ssm.time_step_rank", MAX_WIDTH),
    ("ssm.conv_kernel", MAX_HEADS),
    ("token_type_count", MAX_HEADS),
    ("attention.sliding_window", MAX_CONTEXT),
];

/// The ways to scale rotary positions that llama.cpp knows.
const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];

pub(super) fn check(header: &Header) -> Result<(), GgufError> {
    const ARCHITECTURE: &str = "general.architecture";
    let Some(value) = header.get(ARCHITECTURE) else { return Ok(()) };
    let here = || Place::Key(ARCHITECTURE.to_owned());
    let Value::Text(architecture) = value else {
        return Err(here().invalid("it is no text"));
    };
    if architecture.len() > MAX_ARCHITECTURE_BYTES
        || !architecture.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(here().invalid("it is no name of an architecture"));
    }
    Hyperparameters { header, architecture }.check()
}

/// The keys of one architecture.
struct Hyperparameters<'a> {
    header: &'a Header,
    architecture: &'a str,
}

impl Hyperparameters<'_> {
    fn check(&self) -> Result<(), GgufError> {
        for (name, limit) in MOST {
            self.number(name, limit)?;
        }
        for name in ["context_length", "embedding_length", "block_count"] {
            if self.number(name, u64::MAX)? == Some(0) {
                return Err(self.place(name).invalid("it is 0"));
            }
        }
        let layers = self.number("block_count", MAX_LAYERS)?;
        self.check_at_most("nextn_predict_layers", layers)?;
        self.check_heads(layers)?;
        self.check_experts(layers)?;
        self.check_states()?;
        self.check_rope()
    }

    fn check_heads(&self, layers: Option<u64>) -> Result<(), GgufError> {
        self.per_layer("feed_forward_length", layers, MAX_WIDTH)?;
        let heads = self.per_layer("attention.head_count", layers, MAX_HEADS)?;
        let kv_heads = self.per_layer("attention.head_count_kv", layers, MAX_HEADS)?;
        // A layer without attention has no heads.
        let with_attention = heads.iter().zip(&kv_heads).filter(|(n, kv)| **n > 0 && **kv > 0);
        if let Some((n, kv)) = with_attention.clone().find(|(n, kv)| *n % *kv != 0) {
            let problem = format!("{kv} heads of keys and values cannot serve {n} heads");
            return Err(self.place("attention.head_count_kv").invalid(problem));
        }
        let most = heads.iter().chain(&kv_heads).copied().max().unwrap_or(0);
        for name in ["key_length", "value_length", "key_length_swa", "value_length_swa"] {
            let name = format!("attention.{name}");
            let Some(width) = self.number(&name, MAX_WIDTH)? else { continue };
            let all = most.saturating_mul(width);
            self.place(&name).check_limit("the width of all heads", all, MAX_WIDTH)?;
        }
        Ok(())
    }

    fn check_experts(&self, layers: Option<u64>) -> Result<(), GgufError> {
        let experts = self.number("expert_count", MAX_EXPERTS)?.unwrap_or(0);
        if experts <= 1 && self.architecture.starts_with("hunyuan") {
            // llama.cpp takes such a model for one without experts.
            return Ok(());
        }
        let used = self.per_layer("expert_used_count", layers, MAX_EXPERTS)?;
        let used = used.into_iter().max().unwrap_or(0);
        if used > experts || (used == 0 && experts > 0) {
            let problem = format!("it is {used}, and there are {experts} experts");
            return Err(self.place("expert_used_count").invalid(problem));
        }
        let groups = self.number("expert_group_count", MAX_EXPERTS)?.unwrap_or(0);
        let fits = groups == 0 || groups < experts && experts.is_multiple_of(groups);
        if !fits {
            let problem = format!("{experts} experts are not in {groups} groups");
            return Err(self.place("expert_group_count").invalid(problem));
        }
        let used_groups = self.number("expert_group_used_count", MAX_EXPERTS)?.unwrap_or(0);
        if groups > 1 && !(1..groups).contains(&used_groups) {
            let problem = format!("it is {used_groups}, and there are {groups} groups");
            return Err(self.place("expert_group_used_count").invalid(problem));
        }
        Ok(())
    }

    /// The state of layers without attention: llama.cpp multiplies these in 32 bits.
    fn check_states(&self) -> Result<(), GgufError> {
        let number = |name| Ok::<_, GgufError>(self.number(name, MAX_WIDTH)?.unwrap_or(0));
        let inner = number("ssm.inner_size")?;
        let state = number("ssm.state_size")?;
        let groups = number("ssm.group_count")?;
        let kernel = number("ssm.conv_kernel")?;
        let convolved = groups.saturating_mul(state).saturating_mul(2).saturating_add(inner);
        let size = inner.saturating_mul(state).max(kernel.saturating_mul(convolved));
        let what = "the size of a layer's state";
        self.place("ssm.state_size").check_limit(what, size, MAX_CONTEXT)
    }

    fn check_rope(&self) -> Result<(), GgufError> {
        const SCALING: &str = "rope.scaling.type";
        for name in ["rope.dimension_count", "rope.dimension_count_swa"] {
            if self.number(name, MAX_WIDTH)?.is_some_and(|n| n % 2 == 1) {
                return Err(self.place(name).invalid("it is odd, and they come in pairs"));
            }
        }
        match self.value(SCALING) {
            Some(Value::Text(kind)) if !ROPE_SCALINGS.contains(&kind.as_str()) => {
                let known = ROPE_SCALINGS.join(", ");
                Err(self.place(SCALING).invalid(format!("it is none of {known}")))
            }
            _ => Ok(()),
        }
    }

    fn check_at_most(&self, name: &str, limit: Option<u64>) -> Result<(), GgufError> {
        self.number(name, limit.unwrap_or(MAX_LAYERS)).map(drop)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn place(&self, name: &str) -> Place {
        Place::Key(self.key(name))
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.header.get(&self.key(name))
    }

    /// A key's number, 0 to `limit`.
    fn number(&self, name: &str, limit: u64) -> Result<Option<u64>, GgufError> {
        self.value(name).map(|value| self.checked(name, value.as_integer(), limit)).transpose()
    }

    /// A key's numbers: one for each layer, or one for all.
    fn per_layer(
        &self,
        name: &str,
        layers: Option<u64>,
        limit: u64,
    ) -> Result<Vec<u64>, GgufError> {
        let layers = layers.unwrap_or(1);
        let Some(Value::Array(array)) = self.value(name) else {
            let number = self.number(name, limit)?;
            return Ok(vec![number.unwrap_or(0); usize::try_from(layers).unwrap_or(0)]);
        };
        if array.length != layers {
            let problem = format!("it has {} numbers for {layers} layers", array.length);
            return Err(self.place(name).invalid(problem));
        }
        let Some(numbers) = &array.integers else {
            return Err(self.place(name).invalid("it has no whole numbers"));
        };
        numbers.iter().map(|number| self.checked(name, Some(*number), limit)).collect()
    }

    fn checked(&self, name: &str, number: Option<i128>, limit: u64) -> Result<u64, GgufError> {
        let number = number.and_then(|number| u64::try_from(number).ok());
        let number = number.ok_or_else(|| self.place(name).invalid("it is no number from 0 on"))?;
        self.place(name).check_limit("it", number, limit)?;
        Ok(number)
    }
}
