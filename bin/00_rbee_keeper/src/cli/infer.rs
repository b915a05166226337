//! `infer`

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::wanted_model::AnsweringModel;

#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("text").required(true).multiple(false),
    after_help = "\
Examples:
  rbee-keeper infer 'Why is the sky blue?'
  rbee-keeper infer --model smollm2 --prompt 'Name a colour' --max-tokens 8 --temperature 0
  rbee-keeper infer --model hf:bartowski/Llama-3.2-3B-Instruct-GGUF 'Name a colour'
  git diff | rbee-keeper infer --system 'Write a commit message' -"
)]
pub(crate) struct InferArgs {
    /// The prompt; `-` reads it from stdin
    #[arg(value_name = "PROMPT", group = "text")]
    pub(crate) positional: Option<String>,
    /// The prompt, as an option; `-` reads it from stdin
    #[arg(long, short, value_name = "PROMPT", group = "text")]
    pub(crate) prompt: Option<String>,
    /// The model, by its name here or at an attached server, or a reference to download it by; may be left
    /// out when there is only one
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<AnsweringModel>,
    /// Instructions that stand above the prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// The most tokens of the answer [default: until the context is full]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the likeliest token, higher is livelier [default: 0.8]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    pub(crate) temperature: Option<f32>,
    /// Only the likeliest tokens that have this probability together [default: 0.95]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    pub(crate) top_p: Option<f32>,
    /// Only the N likeliest tokens; 0 is all of them [default: 40]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_k: Option<u32>,
    /// Only tokens with this part of the likeliest one's probability [default: 0.05]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    pub(crate) min_p: Option<f32>,
    /// The same seed gives the same answer [default: a random one]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,
}

/// A number that JSON can carry.
fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("must be a finite number".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
