//! `token …`: the tokens of this machine's queen. They are in a file; no queen has to run.

use std::io::{self, BufRead as _, Read as _};
use std::path::Path;

use access_tokens::{
    NewToken, RevokedToken, Secret, TokenError, TokenStore, forget_secret, store_secret,
};
use serde_json::{Value, json};

use crate::cli::TokenCommand;
use crate::failure::Failure;
use crate::render::table;
use crate::session::Session;

/// Where the hives of this machine look for it.
const HUB_TOKEN: &str = "huggingface.token";
/// The longest token that is read, in bytes.
const MAX_TOKEN: u64 = 4096;

pub(super) async fn token(session: &Session, command: TokenCommand) -> Result<(), Failure> {
    session.only_local("token")?;
    let store = TokenStore::open(&session.paths.secrets);
    match command {
        TokenCommand::Create { name } => {
            let token = create(&store, name).map_err(|e| failed("create", e))?;
            warn_of_power_cut(session, token.unsynced.as_ref());
            tell_created(session, &token).await
        }
        TokenCommand::List => {
            let tokens =
                store.list().map_err(|error| Failure::caused("cannot list the tokens", error))?;
            if session.output.is_json() {
                return session.output.document(&tokens).await;
            }
            if tokens.is_empty() {
                return session
                    .output
                    .text("no tokens: `rbee-keeper token create` makes one\n")
                    .await;
            }
            session
                .output
                .text(table::tokens(&tokens, jiff::Timestamp::now(), session.output.style()))
                .await
        }
        TokenCommand::Huggingface { remove } => huggingface(session, remove).await,
        TokenCommand::Revoke { token } => {
            let RevokedToken { info: revoked, unsynced } =
                store.revoke(&token).map_err(|e| failed("revoke", e))?;
            warn_of_power_cut(session, unsynced.as_ref());
            if session.output.is_json() {
                return session.output.document(&revoked).await;
            }
            session.output.text(format!("revoked token {} ({})\n", revoked.id, revoked.name)).await
        }
    }
}

fn warn_of_power_cut(session: &Session, unsynced: Option<&io::Error>) {
    if let Some(error) = unsynced {
        session.output.warn(&may_be_undone(&session.paths.secrets, error));
    }
}

/// What is told of a change of tokens that is done, and may not be on the disk.
fn may_be_undone(secrets: &Path, error: &io::Error) -> String {
    format!(
        "it is done, but a power cut may undo it: {} cannot be put on the disk: {error}; see to that disk, then look at \
         `rbee-keeper token list`",
        secrets.display()
    )
}

/// Stores the token for the hub, or removes it. It never stands on a command line.
async fn huggingface(session: &Session, remove: bool) -> Result<(), Failure> {
    let secrets = &session.paths.secrets;
    let message = if remove {
        let removed = forget_secret(secrets, HUB_TOKEN)
            .map_err(|error| Failure::caused("cannot remove the token", error))?;
        if removed {
            "the token for Hugging Face is removed"
        } else {
            "there was no token for Hugging Face"
        }
    } else {
        if session.output.can_ask() {
            session.output.note("paste the token and press Enter");
        }
        let secret = secret_from_stdin().await?;
        store_secret(secrets, HUB_TOKEN, &secret)
            .map_err(|error| Failure::caused("cannot store the token", error))?;
        "the token for Hugging Face is stored"
    };
    if session.output.is_json() {
        return session.output.document(&json!({ "message": message })).await;
    }
    session.output.text(format!("{message}\n")).await
}

async fn secret_from_stdin() -> Result<Secret, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().take(MAX_TOKEN).read_line(&mut line).map(|_| line)
    });
    match read.await {
        Ok(Ok(line)) => Ok(Secret::from(line.trim().to_owned())),
        Ok(Err(error)) => Err(Failure::caused("cannot read the token from stdin", error)),
        Err(_) => Err(Failure::local("cannot read the token from stdin")),
    }
}

/// Makes a token; without a name it gets the first one of `token-1`, `token-2`, … that is free.
fn create(store: &TokenStore, name: Option<String>) -> Result<NewToken, TokenError> {
    if let Some(name) = name {
        return store.create(&name);
    }
    let taken = store.list()?;
    let free = (1..).map(|number| format!("token-{number}"));
    let mut free = free.filter(|name| taken.iter().all(|token| token.name != *name));
    loop {
        // There are finitely many tokens, so the iterator does not end.
        let name = free.next().unwrap_or_default();
        match store.create(&name) {
            // Somebody else made one of this name in the meantime.
            Err(TokenError::NameTaken(_)) => {}
            made => return made,
        }
    }
}

/// The token alone on stdout, so that a script can take it; the explanation beside it.
async fn tell_created(session: &Session, token: &NewToken) -> Result<(), Failure> {
    let secret = token.secret.expose();
    if session.output.is_json() {
        let mut document = json!(token.info);
        if let Value::Object(fields) = &mut document {
            fields.insert("token".to_owned(), Value::String(secret.to_owned()));
        }
        return session.output.document(&document).await;
    }
    session.output.note(&format!(
        "token {} ({}) is shown this once; give it to clients as RBEE_API_KEY or as \
         Authorization: Bearer",
        token.info.id, token.info.name
    ));
    session.output.text(format!("{secret}\n")).await
}

fn failed(verb: &str, error: TokenError) -> Failure {
    let hint = match &error {
        TokenError::File { source, .. } if is_full(source) => "free some space on that disk",
        TokenError::File { .. } => "look whether that folder can be written to by this user",
        // The message says what to do.
        TokenError::Database { .. } | TokenError::TooNew { .. } | TokenError::Empty { .. } => {
            return Failure::caused(format!("cannot {verb} the token"), error);
        }
        _ => "`rbee-keeper token list` shows the tokens",
    };
    Failure::caused(format!("cannot {verb} the token"), error).with_hint(hint)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_a_power_cut_may_undo_is_told_with_its_folder_and_cause() {
        let told = may_be_undone(Path::new("/secrets"), &io::Error::other("the disk is ill"));
        for part in ["a power cut may undo it", "/secrets", "the disk is ill"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }

    #[test]
    fn a_full_disk_is_no_reason_to_look_at_the_tokens() {
        let of = |kind: io::ErrorKind| {
            let error = TokenError::File { path: "/secrets".into(), source: kind.into() };
            failed("create", error).hint().unwrap()
        };
        assert_eq!(of(io::ErrorKind::StorageFull), "free some space on that disk");
        assert!(of(io::ErrorKind::PermissionDenied).contains("written to"));
        let unknown = failed("revoke", TokenError::Unknown("x".into())).hint().unwrap();
        assert!(unknown.contains("token list"), "{unknown}");
    }
}
