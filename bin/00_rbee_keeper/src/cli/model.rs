//! `model …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use rbee_operations::{ModelRef, ProjectorChoice, Wished};
use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest};

use super::{OfHive, OnHive};

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Download a model into a hive's catalog; its SHA-256 is pinned
    ///
    /// A download that was ended goes on with what it has when the same command is given again.
    #[command(after_help = "\
Examples:
  rbee-keeper model download hf:bartowski/Llama-3.2-3B-Instruct-GGUF
  rbee-keeper model download hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M@main --alias llama
  rbee-keeper model download https://example.com/models/llama.gguf --hive gpu-1
  rbee-keeper model download hf:ggml-org/gemma-3-4b-it-GGUF      sees images: its projector comes with it

Without a quantization the best one is taken that fits the machine. HF_ENDPOINT names a mirror where the
hive is started; `rbee-keeper token huggingface` stores a token for private models.")]
    Download(DownloadArgs),
    /// End a download, whoever began it; what arrived is kept
    #[command(after_help = "\
Examples:
  rbee-keeper model list --partial                                         shows what is being downloaded
  rbee-keeper model cancel hf:bartowski/Llama-3.2-3B-Instruct-GGUF")]
    Cancel {
        /// What is being downloaded, as it was asked for
        #[arg(value_name = "REFERENCE")]
        reference: ModelRef,
        /// On which hive [default: the one that downloads it]
        #[arg(long, value_name = "ALIAS")]
        hive: Option<HiveAlias>,
    },
    /// Add a GGUF file, or a folder of them, to a hive's catalog; each SHA-256 is pinned
    #[command(after_help = "\
Examples:
  rbee-keeper model import ./SmolLM2-135M-Instruct.Q4_1.gguf --alias smollm2-135m
  rbee-keeper model import /srv/models/llama.gguf --hive gpu-1
  rbee-keeper model import ./gemma-3.gguf --mmproj ./mmproj-gemma-3.gguf
  rbee-keeper model import ~/models --link
  rbee-keeper model import --from ollama")]
    Import(ImportArgs),
    /// List the models of all hives
    List(ListModelsArgs),
    /// Show one model
    Get(ModelArg),
    /// Remove a model from the catalog and its copy from the disk
    Delete(ModelArg),
    /// Compare a model's file with the SHA-256 that was pinned, on each hive that has it
    Verify(VerifyArgs),
    /// Pin a model to its file as it lies on the disk; shows both digests and asks
    Pin(AcceptArgs),
    /// Give a model a further name
    Alias {
        #[command(flatten)]
        model: ModelArg,
        /// The further name
        #[arg(value_name = "NAME")]
        alias: ModelAlias,
    },
    /// Copy a model from one hive to another, straight between the two
    #[command(after_help = "\
Examples:
  rbee-keeper model copy smollm2-135m --from localhost --to gpu-1")]
    Copy {
        /// The model, as `model list` shows it
        #[arg(value_name = "MODEL")]
        model: ModelAlias,
        /// The hive that has it
        #[arg(long, value_name = "ALIAS", default_value = "localhost")]
        from: HiveAlias,
        /// The hive that is to have it
        #[arg(long, value_name = "ALIAS", default_value = "localhost")]
        to: HiveAlias,
    },
    /// Look whether a model's source has another file by now; shows both digests and asks
    Update(UpdateArgs),
    /// Say what a model sees images with: another projector, or none
    ///
    /// All names of the model's file see with the same. No worker may run it meanwhile.
    #[command(after_help = "\
Examples:
  rbee-keeper model mmproj gemma hf:ggml-org/gemma-3-4b-it-GGUF:mmproj-model-f16.gguf
  rbee-keeper model mmproj gemma file:/srv/models/mmproj-gemma.gguf
  rbee-keeper model mmproj gemma auto      the best that lies where the model came from
  rbee-keeper model mmproj gemma none")]
    Mmproj {
        #[command(flatten)]
        model: ModelArg,
        /// A reference to a projector, `auto` or `none`
        #[arg(value_name = "REFERENCE|auto|none")]
        projector: ProjectorChoice,
    },
    /// Remove what unfinished downloads have left; `model list --partial` shows it
    Gc(OnHive),
    /// Show or set how many workers a model has, where, and for how long
    #[command(after_help = "\
Examples:
  rbee-keeper model policy
  rbee-keeper model policy llama --min 1 --pin true
  rbee-keeper model policy llama --hive gpu-1 --device GPU-0 --idle 3600
  rbee-keeper model policy llama --hive any
  rbee-keeper model policy llama --reset")]
    Policy(PolicyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// The model; all that have a policy if left out
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<ModelAlias>,
    /// How many workers it has at least
    #[arg(long, value_name = "N", requires = "model", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) min: Option<u32>,
    /// How many workers it has at most by the queen's own doing
    #[arg(long, value_name = "N", requires = "model", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) max: Option<u32>,
    /// Whether its workers stay (as many as --min says, and one), however idle they are and whoever needs their memory
    #[arg(long, value_name = "true|false", requires = "model")]
    pub(crate) pin: Option<bool>,
    /// After how many seconds without a request a worker is ended; 0 for never
    #[arg(long, value_name = "SECONDS", requires = "model", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(0..=2_592_000))]
    pub(crate) idle: Option<u64>,
    /// The hive where it is preferred to run; `any` takes a preference back, also that of config.toml
    #[arg(long, value_name = "ALIAS|any", requires = "model")]
    pub(crate) hive: Option<Wished<HiveAlias>>,
    /// The device on which it is preferred to run; `any` takes a preference back, likewise
    #[arg(long, value_name = "DEVICE|any", requires = "model")]
    pub(crate) device: Option<Wished<DeviceId>>,
    /// KV cache size in tokens, for all slots of a worker together
    #[arg(long, value_name = "TOKENS", requires = "model", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(256..=16_777_216))]
    pub(crate) ctx_size: Option<u32>,
    /// How many requests run at once in a worker
    #[arg(long, value_name = "N", requires = "model", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: Option<u32>,
    /// Drop what was set before
    #[arg(long, requires = "model")]
    pub(crate) reset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    #[arg(
        value_name = "REFERENCE",
        help = "hf:OWNER/REPO[:QUANT][@REVISION], https://HOST/FILE.gguf, or file:/PATH on the hive's machine"
    )]
    pub(crate) reference: ModelRef,
    /// The name in requests [default: made from the file's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Option<ModelAlias>,
    /// What the model sees images with: a reference, or `auto` for the best that lies beside it
    /// [default: the one beside it, if there is just one]
    #[arg(long, value_name = "REFERENCE|auto")]
    pub(crate) mmproj: Option<ProjectorChoice>,
    /// Take the model without what it could see images with
    #[arg(long, conflicts_with = "mmproj")]
    pub(crate) no_mmproj: bool,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

#[derive(Debug, Args)]
pub(crate) struct ListModelsArgs {
    #[command(flatten)]
    pub(crate) of: OfHive,
    /// List downloads that run, and what unfinished ones have left, instead
    #[arg(long)]
    pub(crate) partial: bool,
}

/// A change of a pin, which somebody has to agree to.
#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    #[command(flatten)]
    pub(crate) model: ModelArg,
    /// Agree to this digest and no other, without being asked
    #[arg(long, value_name = "SHA256")]
    pub(crate) accept: Option<Sha256Digest>,
    /// Agree to whatever is there, without being asked
    #[arg(long, short, conflicts_with = "accept")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    pub(crate) to: AcceptArgs,
    /// Agree to this digest of the projector, where that changes, too
    #[arg(long, value_name = "SHA256", requires = "accept")]
    pub(crate) accept_projector: Option<Sha256Digest>,
}

/// A program whose models can be taken over.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FromStore {
    /// Ollama
    Ollama,
    /// LM Studio
    Lmstudio,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The GGUF file, or a folder of them; for another machine's hive an absolute path there
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath, required_unless_present = "from")]
    pub(crate) file: Option<PathBuf>,
    /// The name in requests [default: made from the file's name]
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub(crate) alias: Option<ModelAlias>,
    /// Share the file with its owner instead of copying it; once changed it is refused
    #[arg(long, conflicts_with = "from")]
    pub(crate) link: bool,
    /// The projector that lets the model see images, a GGUF file as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "from")]
    pub(crate) mmproj: Option<PathBuf>,
    /// Take over the models of another program, without a copy; PATH is its folder then
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) from: Option<FromStore>,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

/// A model wherever it is, or on one hive.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The model, as `model list` shows it
    #[arg(value_name = "MODEL")]
    pub(crate) model: ModelAlias,
    /// On which hive [default: each that has it]
    #[arg(long, value_name = "ALIAS")]
    pub(crate) hive: Option<HiveAlias>,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArg {
    /// The model, as `model list` shows it
    #[arg(value_name = "MODEL")]
    pub(crate) model: ModelAlias,
    /// On which hive [default: the one that has it]
    #[arg(long, value_name = "ALIAS")]
    pub(crate) hive: Option<HiveAlias>,
}
