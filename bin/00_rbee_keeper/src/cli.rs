//! The words of the command line, and nothing else: what each of them does is in `command/`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use rbee_operations::{ModelRef, ProjectorChoice, SshTarget};
use worker_contract::{DeviceId, HiveAlias, ModelAlias, Sha256Digest, WorkerId};

use crate::wanted_model::WantedModel;

/// Run language models on the computers that you own.
#[derive(Debug, Parser)]
#[command(
    name = "rbee-keeper",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "\
Examples:
  rbee-keeper up                                        start rbee on this machine
  rbee-keeper model download hf:OWNER/REPO               fetch a model; model import takes a file
  rbee-keeper worker spawn --model smollm2 --device CPU-0
  rbee-keeper infer --model smollm2 'Why is the sky blue?'
  rbee-keeper status                                    everything on one screen
  rbee-keeper down                                      stop it all

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 not running (status commands), 130 Ctrl-C."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// The queen's address, such as http://gpu-box:8500 [default: this machine's queen]
    #[arg(long, global = true, value_name = "URL", env = "RBEE_QUEEN_URL", hide_env_values = true)]
    pub(crate) queen: Option<String>,
    /// A file with the API token; RBEE_API_KEY holds one directly
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// Print one JSON document on stdout; an error is a JSON object on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print results and errors only: no progress, no notes
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start rbee on this machine: the queen, and a hive
    Up(StartArgs),
    /// Stop all of rbee on this machine: workers, hive, queen
    Down,
    /// Show queen, hives, devices, workers and models on one screen
    ///
    /// Exits with 3 when no queen is running.
    Status,
    /// The queen: the process that answers clients and decides where a request runs
    #[command(subcommand)]
    Queen(QueenCommand),
    /// Hives: one on each machine, it starts and watches the workers there
    #[command(subcommand)]
    Hive(HiveCommand),
    /// Workers: one process for each loaded model
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Models: the GGUF files that a hive can load
    #[command(subcommand)]
    Model(ModelCommand),
    /// Run a prompt; the answer comes on stdout as it is written
    Infer(InferArgs),
    /// Jobs: everything that the queen was asked to do
    #[command(subcommand)]
    Job(JobCommand),
    /// API tokens: what a queen that others can reach demands of its clients
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print a shell's completion script
    #[command(after_help = "\
Examples:
  rbee-keeper completions bash > ~/.local/share/bash-completion/completions/rbee-keeper
  rbee-keeper completions zsh > ~/.zfunc/_rbee-keeper")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Where the queen listens [default: queen.bind of the configuration]
    ///
    /// Any address but loopback needs an API token: see `rbee-keeper token create`.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) bind: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueenCommand {
    /// Start the queen in the background
    #[command(after_help = "\
Examples:
  rbee-keeper queen start
  rbee-keeper token create --name laptop && rbee-keeper queen start --bind 0.0.0.0:8500")]
    Start(StartArgs),
    /// Stop the queen; requests that run are finished first
    Stop,
    /// Show whether the queen runs; exits with 3 when it does not
    Status,
    /// Show version, features and address of the running queen
    Info,
    /// Build the queen again from its source, with or without a hive inside
    #[command(after_help = "\
Examples:
  rbee-keeper queen rebuild --with-local-hive
  rbee-keeper queen rebuild --source ~/src/rbee")]
    Rebuild(RebuildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Put this machine's hive into the queen's process: its operations are direct calls then
    #[arg(long)]
    pub(crate) with_local_hive: bool,
    /// The checkout to build [default: the one that this program was built from]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) source: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HiveCommand {
    /// List the hives that the queen knows
    List,
    /// Start a hive
    Start {
        #[command(flatten)]
        hive: HiveArg,
        /// Ask nothing
        #[arg(long, short)]
        yes: bool,
    },
    /// Stop a hive and its workers
    Stop(HiveArg),
    /// Stop a hive and start it again; its workers end
    Restart(HiveArg),
    /// Show a hive's devices, models and workers
    Status(HiveArg),
    /// Ask a hive for its devices, models and workers at once
    Refresh(HiveArg),
    /// Show the end of a hive's log
    Logs {
        #[command(flatten)]
        hive: HiveArg,
        /// How many lines
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        lines: u16,
    },
    /// Make a hive of another machine known to the queen
    #[command(after_help = "\
Examples:
  rbee-keeper hive add gpu-1 --ssh bee@192.168.1.20 && rbee-keeper hive install gpu-1
  rbee-keeper hive add gpu-1 --ssh gpu-box              an alias of ~/.ssh/config
  rbee-keeper hive add nas --url http://nas:9000 --secret-file -

The queen's user logs in by SSH as on any day: keys, agent, known_hosts, ProxyJump.")]
    Add(HiveAddArgs),
    /// List the hives that announce themselves on the network; none joins by itself
    Discover {
        /// How long to listen, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=30))]
        wait: u32,
    },
    /// List the hosts of the queen's ~/.ssh/config, which can be added
    ImportSsh,
    /// Forget a hive that was added; what is installed on its machine stays
    Remove(NamedHive),
    /// Put a hive on its machine over SSH, or bring it up to date
    ///
    /// Needs no root there. Workers that run are not disturbed.
    Install {
        #[command(flatten)]
        hive: NamedHive,
        /// The queen's URL as that machine reaches it [default: found out]
        #[arg(long, value_name = "URL")]
        queen_url: Option<String>,
    },
    /// Stop a hive and take it off its machine; its models stay
    Uninstall {
        #[command(flatten)]
        hive: NamedHive,
        /// Take its models, too
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("way").required(true).multiple(false))]
pub(crate) struct HiveAddArgs {
    /// The name that the hive is to have
    #[arg(value_name = "ALIAS")]
    pub(crate) alias: HiveAlias,
    #[arg(
        long,
        value_name = "TARGET",
        group = "way",
        help = "Where SSH goes: [USER@]HOST[:PORT], or an alias of ~/.ssh/config"
    )]
    pub(crate) ssh: Option<SshTarget>,
    /// The URL of a hive that runs there already
    #[arg(long, value_name = "URL", group = "way", requires = "secret_file")]
    pub(crate) url: Option<String>,
    /// A file with the secret of the hive that runs; - reads it from stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "url")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Where an installed hive listens [default: 9000]
    #[arg(long, value_name = "PORT", requires = "ssh", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The host name or address at which the queen reaches the machine [default: where SSH goes]
    #[arg(long, value_name = "HOST", requires = "ssh")]
    pub(crate) advertise: Option<String>,
}

/// A hive of another machine.
#[derive(Debug, Args)]
pub(crate) struct NamedHive {
    /// The hive
    #[arg(value_name = "ALIAS")]
    pub(crate) alias: HiveAlias,
}

#[derive(Debug, Args)]
pub(crate) struct HiveArg {
    /// The hive; `localhost` is the queen's own machine
    #[arg(value_name = "ALIAS", default_value = "localhost")]
    pub(crate) alias: HiveAlias,
}

/// The hive that a worker or a model belongs to.
#[derive(Debug, Args)]
pub(crate) struct OnHive {
    /// On which hive
    #[arg(long, value_name = "ALIAS", default_value = "localhost")]
    pub(crate) hive: HiveAlias,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Start a worker for a model
    #[command(after_help = "\
Examples:
  rbee-keeper worker spawn --model smollm2 --device CPU-0
  rbee-keeper worker spawn --model llama-8b --device GPU-0 --slots 8 --ctx-size 32768
  rbee-keeper worker spawn --model hf:bartowski/Llama-3.2-3B-Instruct-GGUF     download it first")]
    Spawn(SpawnArgs),
    /// List a hive's workers
    List(OnHive),
    /// Show one worker
    Get(WorkerArg),
    /// Stop a worker
    Delete(WorkerArg),
    /// Start a worker again, be it running or given up after too many failures
    Restart(WorkerArg),
    /// Show what a worker's engine has written
    #[command(after_help = "\
Examples:
  rbee-keeper worker logs w-1 -n 20
  rbee-keeper worker logs w-1 --follow        until Ctrl-C, or the worker is deleted")]
    Logs(LogsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) worker: WorkerArg,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the last lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) lines: u32,
}

#[derive(Debug, Args)]
pub(crate) struct SpawnArgs {
    /// The model, by its name in the hive's catalog, or a reference: what is not there is downloaded
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: WantedModel,
    /// The device: CPU-0, GPU-0, … [default: the hive's first GPU, else CPU-0]
    #[arg(long, short, value_name = "ID")]
    pub(crate) device: Option<DeviceId>,
    #[command(flatten)]
    pub(crate) on: OnHive,
    /// How many requests run at once [default: the hive's setting]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slots: Option<u32>,
    /// Tokens that fit into the context, all slots together [default: the hive's setting]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx_size: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArg {
    /// The worker's id, as `worker list` shows it
    #[arg(value_name = "WORKER")]
    pub(crate) worker_id: WorkerId,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

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

Without a quantization the best one is taken that fits the machine. HF_ENDPOINT names a mirror;
`rbee-keeper token huggingface` stores a token for private models.")]
    Download(DownloadArgs),
    /// Add a GGUF file, or a folder of them, to a hive's catalog; each SHA-256 is pinned
    #[command(after_help = "\
Examples:
  rbee-keeper model import ./SmolLM2-135M-Instruct.Q4_1.gguf --alias smollm2-135m
  rbee-keeper model import /srv/models/llama.gguf --hive gpu-1
  rbee-keeper model import ./gemma-3.gguf --mmproj ./mmproj-gemma-3.gguf
  rbee-keeper model import ~/models --link
  rbee-keeper model import --from ollama")]
    Import(ImportArgs),
    /// List a hive's models
    List(ListModelsArgs),
    /// Show one model
    Get(ModelArg),
    /// Remove a model from the catalog and its copy from the disk
    Delete(ModelArg),
    /// Compare a model's file with the SHA-256 that was pinned
    Verify(ModelArg),
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
    Update(AcceptArgs),
    /// Remove what unfinished downloads have left; `model list --partial` shows it
    Gc(OnHive),
    /// Show or set how many workers a model has, where, and for how long
    #[command(after_help = "\
Examples:
  rbee-keeper model policy
  rbee-keeper model policy llama --min 1 --pin true
  rbee-keeper model policy llama --hive gpu-1 --device GPU-0 --idle 3600
  rbee-keeper model policy llama --reset")]
    Policy(PolicyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// The model; all that have a policy if left out
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<ModelAlias>,
    /// How many workers it has at least
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) min: Option<u32>,
    /// How many workers it has at most by the queen's own doing
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) max: Option<u32>,
    /// Whether its workers stay, however idle they are and whoever needs their memory
    #[arg(long, value_name = "true|false", requires = "model")]
    pub(crate) pin: Option<bool>,
    /// After how many seconds without a request a worker is ended; 0 for never
    #[arg(long, value_name = "SECONDS", requires = "model")]
    pub(crate) idle: Option<u64>,
    /// The hive where it is preferred to run
    #[arg(long, value_name = "ALIAS", requires = "model")]
    pub(crate) hive: Option<HiveAlias>,
    /// The device on which it is preferred to run
    #[arg(long, value_name = "DEVICE", requires = "model")]
    pub(crate) device: Option<DeviceId>,
    /// KV cache size in tokens, for all slots of a worker together
    #[arg(long, value_name = "TOKENS", requires = "model")]
    pub(crate) ctx_size: Option<u32>,
    /// How many requests run at once in a worker
    #[arg(long, value_name = "N", requires = "model")]
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
    pub(crate) on: OnHive,
    /// List what unfinished downloads have left instead
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

#[derive(Debug, Args)]
pub(crate) struct ModelArg {
    /// The model, as `model list` shows it
    #[arg(value_name = "MODEL")]
    pub(crate) model: ModelAlias,
    #[command(flatten)]
    pub(crate) on: OnHive,
}

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
    /// The model, or a reference to download it by; may be left out when there is only one
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<WantedModel>,
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

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List the jobs that the queen remembers
    List,
    /// Show one job
    Show(JobArg),
    /// Print a job's events from the first to the last; Ctrl-C leaves the job running
    Follow(JobArg),
    /// Cancel a job
    Cancel(JobArg),
}

#[derive(Debug, Args)]
pub(crate) struct JobArg {
    /// The job's id, or the beginning of it
    #[arg(value_name = "JOB", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) job: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown this once only
    #[command(after_help = "\
From the first token on, the queen demands one of every client that is not this user on this
machine. Only the token is printed on stdout:
  export RBEE_API_KEY=$(rbee-keeper token create --name laptop)")]
    Create {
        /// What the token is for
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
    },
    /// List the tokens, without their secrets
    List,
    /// Store a token for Hugging Face, read from stdin, for private models on this machine
    #[command(after_help = "\
The token is kept in the secrets folder of this machine, mode 0600, and sent to the hub alone.
Examples:
  rbee-keeper token huggingface < token.txt
  rbee-keeper token huggingface --remove")]
    Huggingface {
        /// Remove it
        #[arg(long)]
        remove: bool,
    },
    /// Make a token invalid
    Revoke {
        /// The token's id or name
        #[arg(value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
        token: String,
    },
}

/// A number that JSON can carry.
fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("must be a finite number".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_contradict_nothing() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_is_for() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help text", command.get_name());
            for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn global_options_work_before_and_after_the_command() {
        for line in ["rbee-keeper --json worker list", "rbee-keeper worker list --json"] {
            assert!(parse(line).unwrap().global.json, "{line}");
        }
    }

    #[test]
    fn the_commands_of_the_documentation_are_understood() {
        for line in [
            "up",
            "up --bind 127.0.0.1:0",
            "down",
            "status --json",
            "queen start --bind 0.0.0.0:8500",
            "queen start --bind [::1]:8500",
            "queen rebuild --with-local-hive --source /src",
            "hive list",
            "hive start localhost --yes",
            "hive status gpu-1",
            "hive add gpu-1 --ssh bee@192.168.1.20",
            "hive add gpu-1 --ssh gpu-box --port 9100 --advertise gpu-1.home.arpa",
            "hive add nas --url http://nas:9000 --secret-file -",
            "hive import-ssh",
            "model copy m --from localhost --to gpu-1",
            "hive discover --wait 5",
            "hive remove gpu-1",
            "hive install gpu-1 --queen-url http://desk:8500",
            "hive uninstall gpu-1 --purge",
            "hive logs gpu-1 -n 20",
            "hive restart gpu-1",
            "hive refresh gpu-1",
            "worker spawn --model m --device gpu-0 --hive gpu-1 --slots 2 --ctx-size 4096",
            "worker spawn --model hf:o/r:Q4_K_M@main",
            "infer --model https://h/a.gguf hello",
            "worker get w-1",
            "worker delete w-1 --hive gpu-1",
            "worker restart w-1",
            "worker logs w-1 -f -n 20 --hive gpu-1",
            "worker logs w-1 --follow --lines 0",
            "model import file.gguf --alias m",
            "model verify m",
            "model download hf:o/r:Q4_K_M@main --alias m --hive gpu-1",
            "model download hf:o/r --mmproj auto",
            "model download hf:o/r --mmproj hf:o/r:mmproj-F16.gguf",
            "model download hf:o/r --no-mmproj",
            "model import file.gguf --mmproj mmproj.gguf",
            "model import --from ollama",
            "model import /srv/store --from lmstudio",
            "model import folder --link",
            "model list --partial",
            "model pin m --yes",
            "model alias m n --hive gpu-1",
            "model update m --accept 0000000000000000000000000000000000000000000000000000000000000000",
            "model gc",
            "token huggingface --remove",
            "infer -",
            "infer hello --temperature 0 --stop a --stop b",
            "infer --prompt hello --model qwen2.5:7b --seed 18446744073709551615",
            "job follow 1f",
            "token create",
            "token revoke laptop",
            "completions bash",
        ] {
            assert!(parse(&format!("rbee-keeper {line}")).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_option_that_holds_it() {
        for (line, named) in [
            ("infer", "<PROMPT"),
            ("model download hf:o/r --mmproj p.gguf", "--mmproj"),
            ("model download hf:o/r --mmproj auto --no-mmproj", "--no-mmproj"),
            ("infer x --prompt y", "--prompt"),
            ("infer x --max-tokens -1", "--max-tokens"),
            ("infer x --max-tokens 0", "--max-tokens"),
            ("infer x --temperature nan", "--temperature"),
            ("infer x --temperature warm", "--temperature"),
            ("infer x --seed -1", "--seed"),
            ("infer x --stop=", "--stop"),
            ("infer x --model ../etc/passwd", "--model"),
            ("infer x --model hf:../etc", "--model"),
            ("worker spawn", "--model"),
            ("worker spawn --model m --device TPU-0", "--device"),
            ("worker spawn --model m --slots 0", "--slots"),
            ("worker get ../x", "WORKER"),
            ("worker logs w-1 -n -1", "--lines"),
            ("worker logs w-1 -n 10001", "--lines"),
            ("hive status a/b", "ALIAS"),
            ("hive add gpu-1", "--ssh"),
            ("hive add gpu-1 --ssh=-oProxyCommand=id", "--ssh"),
            ("hive add gpu-1 --ssh a --url http://a:9000 --secret-file -", "--url"),
            ("hive add gpu-1 --url http://a:9000", "--secret-file"),
            ("hive install", "ALIAS"),
            ("queen start --bind 8500", "--bind"),
            ("token create --name=", "--name"),
            ("completions nushell5", "SHELL"),
        ] {
            let refused = parse(&format!("rbee-keeper {line}")).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{line}");
            assert!(refused.to_string().contains(named), "{line}: {refused}");
        }
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }
}
