//! `model …`

use std::path::Path;

use rbee_operations::{HiveTarget, ModelImport, ModelTarget, Operation};
use worker_contract::ModelEntry;

use super::{data, list, now, read, run, run_and_tell};
use crate::cli::{ImportArgs, ModelArg, ModelCommand, OnHive};
use crate::failure::Failure;
use crate::render::{detail, table};
use crate::session::Session;
use crate::view::Verification;

pub(super) async fn model(session: &Session, command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::Import(args) => {
            let operation = import(args, session.queen_is_here())?;
            run_and_tell(session, operation).await
        }
        ModelCommand::List(on) => list_all(session, on).await,
        ModelCommand::Get(model) => get(session, model).await,
        ModelCommand::Delete(model) => {
            run_and_tell(session, Operation::ModelDelete(target(model))).await
        }
        ModelCommand::Verify(model) => verify(session, model).await,
    }
}

async fn list_all(session: &Session, on: OnHive) -> Result<(), Failure> {
    let outcome = run(session, Operation::ModelList(HiveTarget { hive_id: on.hive })).await?;
    let models = list(outcome, "models")?;
    session
        .output
        .result(&models, |style| {
            let models: Vec<ModelEntry> = read(&models)?;
            Ok(if models.is_empty() {
                "no models: add one with `rbee-keeper model import FILE`\n".to_owned()
            } else {
                table::models(&models, now(), style)
            })
        })
        .await
}

async fn get(session: &Session, model: ModelArg) -> Result<(), Failure> {
    let model = data(run(session, Operation::ModelGet(target(model))).await?);
    session.output.result(&model, |_| Ok(detail::model(&read(&model)?, now()))).await
}

/// Compares, shows both digests, and fails where they differ.
async fn verify(session: &Session, model: ModelArg) -> Result<(), Failure> {
    let found = data(run(session, Operation::ModelVerify(target(model))).await?);
    let verification: Verification = read(&found)?;
    session.output.result(&found, |_| Ok(detail::verification(&verification))).await?;
    if verification.matches {
        return Ok(());
    }
    let alias = &verification.alias;
    Err(Failure::local(format!("the file of {alias} is not the one that was imported"))
        .with_hint(format!("`rbee-keeper model delete {alias}` and import a file that you trust")))
}

/// The operation for a file: absolute, because the daemons have another working directory.
fn import(args: ImportArgs, queen_is_here: bool) -> Result<Operation, Failure> {
    let ImportArgs { file, alias, on } = args;
    let is_here = on.hive.is_localhost() && queen_is_here;
    let path = if is_here {
        readable(&file)?;
        std::path::absolute(&file).map_err(|error| unreadable(&file, error))?
    } else if file.is_absolute() {
        file
    } else {
        return Err(Failure::usage(format!(
            "{} is a relative path, and the hive {} is on another machine",
            file.display(),
            on.hive
        ))
        .with_hint("give the file's absolute path on that machine"));
    };
    let path = path.into_os_string().into_string().map_err(|path| {
        Failure::usage(format!("the path {} is not UTF-8", path.to_string_lossy()))
    })?;
    Ok(Operation::ModelImport(ModelImport { hive_id: on.hive, path, alias }))
}

/// Whether it is worth asking a daemon: a file that this user can open.
fn readable(file: &Path) -> Result<(), Failure> {
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(file, error))?;
    if !metadata.is_file() {
        return Err(Failure::local(format!("{} is not a file", file.display()))
            .with_hint("give one GGUF file"));
    }
    std::fs::File::open(file).map(drop).map_err(|error| unreadable(file, error))
}

fn unreadable(file: &Path, error: std::io::Error) -> Failure {
    Failure::caused(format!("cannot read {}", file.display()), error)
}

fn target(model: ModelArg) -> ModelTarget {
    ModelTarget { hive_id: model.on.hive, model: model.model }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_file_of_this_machine_is_sent_with_its_absolute_path() {
        let operation = import(args("Cargo.toml", "localhost"), true).unwrap();
        let Operation::ModelImport(import) = operation else { panic!("{operation:?}") };
        assert_eq!(Path::new(&import.path), std::env::current_dir().unwrap().join("Cargo.toml"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused_before_anything_is_started() {
        let missing = import(args("./none.gguf", "localhost"), true).unwrap_err();
        assert_eq!(missing.exit_code(), 1);
        assert!(missing.to_string().contains("./none.gguf"), "{missing}");
        let folder = import(args("src", "localhost"), true).unwrap_err();
        assert!(folder.to_string().contains("not a file"), "{folder}");
    }

    #[test]
    fn a_path_on_another_machine_has_to_be_absolute() {
        for (hive, queen_is_here) in [("gpu-1", true), ("localhost", false)] {
            let refused = import(args("m.gguf", hive), queen_is_here).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{refused}");
            assert!(import(args("/not/here/m.gguf", hive), queen_is_here).is_ok());
        }
    }

    fn args(file: &str, hive: &str) -> ImportArgs {
        let on = OnHive { hive: hive.parse().unwrap() };
        ImportArgs { file: PathBuf::from(file), alias: None, on }
    }
}
