//! `model …`

use std::path::{Path, PathBuf};

use rbee_operations::{
    HiveTarget, ModelCopy, ModelDownload, ModelGarbage, ModelImport, ModelImportStore, ModelName,
    ModelPin, ModelStore, ModelTarget, ModelUpdate, Operation, ProjectorChoice,
};
use worker_contract::{ModelEntry, Sha256Digest};

use super::hive::ask;
use super::{data, list, now, read, run, run_and_tell};
use crate::cli::{
    AcceptArgs, DownloadArgs, FromStore, ImportArgs, ListModelsArgs, ModelArg, ModelCommand, OnHive,
};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::{detail, table};
use crate::session::Session;
use crate::view::{Garbage, Update, Verification};

pub(super) async fn model(session: &Session, command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::Download(args) => run_and_tell(session, download(args)).await,
        ModelCommand::Import(args) => {
            let operation = import(args, session.queen_is_here())?;
            run_and_tell(session, operation).await
        }
        ModelCommand::List(ListModelsArgs { on, partial: false }) => list_all(session, on).await,
        ModelCommand::List(ListModelsArgs { on, partial: true }) => partial(session, on).await,
        ModelCommand::Get(model) => get(session, model).await,
        ModelCommand::Delete(model) => {
            run_and_tell(session, Operation::ModelDelete(target(model))).await
        }
        ModelCommand::Verify(model) => verify(session, model).await,
        ModelCommand::Pin(args) => pin(session, args).await,
        ModelCommand::Alias { model, alias } => {
            let ModelTarget { hive_id, model } = target(model);
            run_and_tell(session, Operation::ModelAlias(ModelName { hive_id, model, alias })).await
        }
        ModelCommand::Copy { model, from, to } => {
            let copy = ModelCopy { from, hive_id: to, model };
            run_and_tell(session, Operation::ModelCopy(copy)).await
        }
        ModelCommand::Update(args) => update(session, args).await,
        ModelCommand::Gc(on) => {
            let garbage = ModelGarbage { hive_id: on.hive, remove: true };
            run_and_tell(session, Operation::ModelGarbage(garbage)).await
        }
        ModelCommand::Policy(args) => super::policy::policy(session, args).await,
    }
}

fn download(args: DownloadArgs) -> Operation {
    let DownloadArgs { reference, alias, mmproj, no_mmproj, on } = args;
    let projector = if no_mmproj { ProjectorChoice::Without } else { mmproj.unwrap_or_default() };
    Operation::ModelDownload(ModelDownload { hive_id: on.hive, reference, alias, projector })
}

async fn list_all(session: &Session, on: OnHive) -> Result<(), Failure> {
    let outcome = run(session, Operation::ModelList(HiveTarget { hive_id: on.hive })).await?;
    let models = list(outcome, "models")?;
    session
        .output
        .result(&models, |style| {
            let models: Vec<ModelEntry> = read(&models)?;
            Ok(if models.is_empty() {
                "no models: add one with `rbee-keeper model download REFERENCE` or \
                 `rbee-keeper model import FILE`\n"
                    .to_owned()
            } else {
                table::models(&models, now(), style)
            })
        })
        .await
}

/// What unfinished downloads have left.
async fn partial(session: &Session, on: OnHive) -> Result<(), Failure> {
    let garbage = ModelGarbage { hive_id: on.hive, remove: false };
    let found = list(run(session, Operation::ModelGarbage(garbage)).await?, "garbage")?;
    session
        .output
        .result(&found, |style| {
            let found: Vec<Garbage> = read(&found)?;
            Ok(if found.is_empty() {
                "no unfinished downloads\n".to_owned()
            } else {
                table::garbage(&found, now(), style)
            })
        })
        .await
}

/// Pins a model to its file on the disk, once somebody agreed to the digest.
async fn pin(session: &Session, args: AcceptArgs) -> Result<(), Failure> {
    let target = target(args.model);
    let found = data(run(session, Operation::ModelVerify(target.clone())).await?);
    let verification: Verification = read(&found)?;
    if verification.matches {
        return session.output.result(&found, |_| Ok(detail::verification(&verification))).await;
    }
    if verification.pinned == verification.actual {
        // The model itself is as it was.
        return Err(changed_projector(&verification));
    }
    let shown = detail::verification(&verification);
    let consent = Consent { accept: args.accept, yes: args.yes, command: "model pin" };
    let accept = consent.to(session, &verification.actual, shown, &found).await?;
    let ModelTarget { hive_id, model } = target;
    run_and_tell(session, Operation::ModelPin(ModelPin { hive_id, model, accept })).await
}

/// Looks for another file at the source, and takes it once somebody agreed to its digest.
async fn update(session: &Session, args: AcceptArgs) -> Result<(), Failure> {
    let ModelTarget { hive_id, model } = target(args.model);
    let look = ModelUpdate {
        hive_id: hive_id.clone(),
        model: model.clone(),
        accept: None,
        accept_projector: None,
    };
    let found = data(run(session, Operation::ModelUpdate(look)).await?);
    let update: Update = read(&found)?;
    let Some(offered) = update.offered.clone().filter(|_| update.changed) else {
        return session.output.result(&found, |_| Ok(detail::update(&update))).await;
    };
    let consent = Consent { accept: args.accept, yes: args.yes, command: "model update" };
    let accept = consent.to(session, &offered, detail::update(&update), &found).await?;
    let accept_projector = update.projector.and_then(|projector| projector.offered);
    let accept_projector =
        accept_projector.map(|digest| digest.parse().map_err(Failure::Protocol)).transpose()?;
    let take = ModelUpdate { hive_id, model, accept: Some(accept), accept_projector };
    run_and_tell(session, Operation::ModelUpdate(take)).await
}

/// Who agreed to another digest, if anybody did.
struct Consent {
    accept: Option<Sha256Digest>,
    yes: bool,
    command: &'static str,
}

impl Consent {
    /// The digest, if somebody agrees to it: on the command line, or now. Both digests are shown.
    async fn to(
        self,
        session: &Session,
        offered: &str,
        shown: String,
        found: &serde_json::Value,
    ) -> Result<Sha256Digest, Failure> {
        let digest: Sha256Digest = offered.parse().map_err(Failure::Protocol)?;
        if self.yes || self.accept.as_ref() == Some(&digest) {
            return Ok(digest);
        }
        if let Some(accept) = self.accept {
            return Err(Failure::local(format!("the digest is {digest}, not {accept}")));
        }
        if session.output.can_ask() {
            Output::stderr(&shown);
            let agreed = ask("Pin the model to the other file? [y/N] ").await?;
            return if agreed { Ok(digest) } else { Err(Failure::Declined) };
        }
        session.output.result(found, |_| Ok(shown)).await?;
        Err(Failure::local("the model is another file, and nobody agreed to it")
            .with_hint(format!("`rbee-keeper {} MODEL --accept {digest}`", self.command)))
    }
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
    if verification.pinned == verification.actual {
        return Err(changed_projector(&verification));
    }
    let alias = &verification.alias;
    Err(Failure::local(format!("the file of {alias} is not the one that was imported"))
        .with_hint(format!("`rbee-keeper model delete {alias}` and import a file that you trust")))
}

fn changed_projector(found: &Verification) -> Failure {
    let alias = &found.alias;
    Failure::local(format!("the projector of {alias} is not the one that was added"))
        .with_hint("the same import or download again puts back the one that it is pinned to")
}

/// The operation for files: with an absolute path, because the daemons have another working directory.
fn import(args: ImportArgs, queen_is_here: bool) -> Result<Operation, Failure> {
    let ImportArgs { file, alias, link, mmproj, from, on } = args;
    let is_here = on.hive.is_localhost() && queen_is_here;
    let path = file.map(|file| whole_path(file, is_here, &on)).transpose()?;
    let projector = mmproj.map(|file| whole_path(file, is_here, &on)).transpose()?;
    let hive_id = on.hive;
    let store = match from {
        None => {
            let path = path.ok_or_else(|| Failure::usage("which file?".to_owned()))?;
            return Ok(Operation::ModelImport(ModelImport {
                hive_id,
                path,
                alias,
                link,
                projector,
            }));
        }
        Some(FromStore::Ollama) => ModelStore::Ollama,
        Some(FromStore::Lmstudio) => ModelStore::LmStudio,
    };
    Ok(Operation::ModelImportStore(ModelImportStore { hive_id, store, path }))
}

fn whole_path(file: PathBuf, is_here: bool, on: &OnHive) -> Result<String, Failure> {
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
        .with_hint("give the absolute path on that machine"));
    };
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::usage(format!("the path {} is not UTF-8", path.to_string_lossy())))
}

/// Whether it is worth asking a daemon: a file or a folder that this user can open.
fn readable(file: &Path) -> Result<(), Failure> {
    let metadata = std::fs::metadata(file).map_err(|error| unreadable(file, error))?;
    if metadata.is_dir() {
        return std::fs::read_dir(file).map(drop).map_err(|error| unreadable(file, error));
    }
    if !metadata.is_file() {
        return Err(Failure::local(format!("{} is neither a file nor a folder", file.display()))
            .with_hint("give a GGUF file, or a folder of them"));
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
        let device = import(args("/dev/null", "localhost"), true).unwrap_err();
        assert!(device.to_string().contains("neither a file nor a folder"), "{device}");
        assert!(import(args("src", "localhost"), true).is_ok(), "a folder of models");
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
        let file = Some(PathBuf::from(file));
        ImportArgs { file, alias: None, link: false, mmproj: None, from: None, on }
    }
}
