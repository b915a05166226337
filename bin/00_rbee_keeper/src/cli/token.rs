//! `token …`

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;

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
