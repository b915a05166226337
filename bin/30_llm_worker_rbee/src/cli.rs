//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use llm_worker_rbee::engine::llama::{
    AdapterSettings, CacheType, FlashAttention, GpuLayers, Pooling, SplitMode,
};
use llm_worker_rbee::sandbox::Mode;
use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest, WorkerId};

/// Loads one GGUF model with llama.cpp and streams tokens over HTTP.
///
/// A hive starts it; it also runs alone:
///
///     llm-worker-rbee --model FILE --port 9300
///     curl -N http://127.0.0.1:9300/v1/inference -H 'content-type: application/json' \
///       -d '{"task":{"type":"chat","messages":[{"role":"user","content":"Hello"}]}}'
#[derive(Debug, Parser)]
#[command(
    name = "llm-worker-rbee",
    version,
    verbatim_doc_comment,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Option<Serve>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the devices that the engine can use.
    Devices {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a GGUF file says of itself, and check that it is whole.
    Inspect {
        /// The file.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a model would take of each device's memory, with the arguments of a worker.
    Fit {
        /// The worker's arguments; those that memory does not depend on are ignored.
        #[command(flatten)]
        serve: Box<Serve>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the worker's version, its engine's, and where the engine's libraries are.
    Version {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How the next tokens are guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Draft {
    /// From what followed the last few tokens before, in prompt and answer; only while it pays.
    Ngram,
    /// Not at all.
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The GGUF file.
    #[arg(long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 9300)]
    pub(crate) port: u16,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) bind: IpAddr,
    /// The model's name in requests; by default the file's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Option<ModelAlias>,
    /// This worker's id; by default a random one.
    #[arg(long, value_name = "ID")]
    pub(crate) worker_id: Option<WorkerId>,
    /// The hive that starts it.
    #[arg(long, default_value = "localhost", value_name = "ALIAS")]
    pub(crate) hive_id: HiveAlias,
    /// What holds the model: CPU-0, a GPU, or several GPUs that share it: GPU-0,GPU-1.
    #[arg(long, default_value = "CPU-0", value_name = "DEVICE,…", value_delimiter = ',')]
    pub(crate) device: Vec<DeviceId>,
    /// How many layers GPUs hold: a number, all, or auto for what fits into their free memory. The
    /// processor holds the rest; by default there is none.
    #[arg(long, value_name = "auto|all|N", alias = "gpu-layers")]
    pub(crate) n_gpu_layers: Option<GpuLayers>,
    /// How several GPUs share the model: layer (each has layers), row (each has rows of every
    /// matrix; CUDA and ROCm), none (one GPU).
    #[arg(long, default_value = "layer", value_name = "layer|row|none")]
    pub(crate) split_mode: SplitMode,
    /// Each GPU's share, in the order of --device; by default its part of the free memory.
    #[arg(long, value_name = "3,1", value_delimiter = ',', allow_negative_numbers = true)]
    pub(crate) tensor_split: Vec<f32>,
    /// The type of cached keys: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl.
    #[arg(long, default_value = "f16", value_name = "TYPE")]
    pub(crate) cache_type_k: CacheType,
    /// The type of cached values; the quantised ones need flash attention.
    #[arg(long, default_value = "f16", value_name = "TYPE")]
    pub(crate) cache_type_v: CacheType,
    /// Attention as one operation, which needs less memory; auto: where the device can do it.
    #[arg(long, default_value = "auto", value_name = "auto|on|off")]
    pub(crate) flash_attention: FlashAttention,
    /// A LoRA adapter (GGUF) for the model, at a scale, 1 by default. May be given several times.
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub(crate) lora: Vec<AdapterSettings>,
    /// The model's projector (GGUF), which lets it see images.
    #[arg(long, value_name = "FILE")]
    pub(crate) mmproj: Option<PathBuf>,
    /// How many requests run at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: u32,
    /// KV cache size in tokens, for all slots together.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(256..=16_777_216))]
    pub(crate) ctx_size: u32,
    /// Make vectors (mean, cls, last) or scores (rank) instead of text; by default as the file says.
    #[arg(long, value_name = "mean|cls|last|rank")]
    pub(crate) pooling: Option<Pooling>,
    /// How many requests may wait for a slot.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) max_queue: u32,
    /// Make each answer depend on nothing but request, seed, model and build: alone, in a crowd or
    /// resumed, it is the same. Sequences are computed one by one, so several at once are slower.
    #[arg(long)]
    pub(crate) batch_invariant: bool,
    /// How much of the machine's memory may keep computed prompts that had to leave the KV cache, in
    /// MiB; 0 keeps none.
    #[arg(long, default_value_t = 512, value_name = "MIB", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) prompt_cache_mib: u32,
    /// How the next tokens are guessed, to be verified in one step; answers do not depend on it.
    #[arg(long, value_enum, default_value = "ngram")]
    pub(crate) draft: Draft,
    /// A smaller model with the same vocabulary, which guesses the next tokens where they are not
    /// guessed from the text.
    #[arg(long, value_name = "FILE")]
    pub(crate) draft_model: Option<PathBuf>,
    /// The pinned digest of the file, as the queen is to be told.
    #[arg(long, value_name = "SHA256")]
    pub(crate) digest: Option<Sha256Digest>,
    /// The queen to report to, who demands her secret (--token-file); none by default.
    #[arg(long, value_name = "URL")]
    pub(crate) queen: Option<String>,
    /// This worker's base URL as the queen can reach it; by default the address it listens on.
    #[arg(long, value_name = "URL")]
    pub(crate) advertise: Option<String>,
    /// A file with the secret that every request but /health must carry, and reports carry too.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The time between two reports, in milliseconds.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(50..=600_000))]
    pub(crate) heartbeat_interval_ms: u64,
    /// Threads of the processor; by default one for each physical core.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    /// Whether to give up the rights to files, network and system calls that a worker does not need.
    ///
    /// The log says what the kernel enforces. Start `llm-worker-rbee devices` once after boot where
    /// NVIDIA's driver makes its device files at the first use: a worker that gave up its rights cannot.
    #[arg(long, value_enum, default_value_t = Mode::Auto, env = "RBEE_SANDBOX")]
    pub(crate) sandbox: Mode,
}
