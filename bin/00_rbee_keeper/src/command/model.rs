//! `model …`

use std::path::{Path, PathBuf};

use rbee_operations::{
    ModelCopy, ModelDownload, ModelDownloadCancel, ModelGarbage, ModelImport, ModelImportStore,
    ModelName, ModelPin, ModelProjectorSet, ModelRef, ModelStore, ModelTarget, ModelUpdate,
    Operation, ProjectorChoice,
};
use serde_json::Value;
use worker_contract::{HiveAlias, Sha256Digest};

use super::hive::ask;
use super::{data, lists, now, place, read, run, run_and_tell};
use crate::cli::{
    AcceptArgs, DownloadArgs, FromStore, ImportArgs, ListModelsArgs, ModelArg, ModelCommand,
    OnHive, UpdateArgs, VerifyArgs,
};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::detail;
use crate::session::Session;
use crate::view::{Update, Verification};

pub(super) async fn model(session: &Session, command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::Download(args) => run_and_tell(session, download(args)).await,
        ModelCommand::Import(args) => {
            let operation = import(args, session.queen_is_here())?;
            run_and_tell(session, operation).await
        }
        ModelCommand::Cancel { reference, hive } => cancel(session, reference, hive).await,
        ModelCommand::List(ListModelsArgs { of, partial: false }) => {
            lists::models(session, of).await
        }
        ModelCommand::List(ListModelsArgs { of, partial: true }) => {
            lists::downloads(session, of).await
        }
        ModelCommand::Get(model) => get(session, model).await,
        ModelCommand::Delete(model) => {
            let target = place::model(session, model).await?;
            run_and_tell(session, Operation::ModelDelete(target)).await
        }
        ModelCommand::Verify(VerifyArgs { model, hive }) => {
            verify(session, ModelArg { model, hive }).await
        }
        ModelCommand::Pin(args) => pin(session, args).await,
        ModelCommand::Alias { model, alias } => {
            let ModelTarget { hive_id, model } = place::model(session, model).await?;
            run_and_tell(session, Operation::ModelAlias(ModelName { hive_id, model, alias })).await
        }
        ModelCommand::Copy { model, from, to } => {
            let copy = ModelCopy { from, hive_id: to, model };
            run_and_tell(session, Operation::ModelCopy(copy)).await
        }
        ModelCommand::Update(args) => update(session, args).await,
        ModelCommand::Mmproj { model, projector } => {
            let ModelTarget { hive_id, model } = place::model(session, model).await?;
            let set = ModelProjectorSet { hive_id, model, projector };
            run_and_tell(session, Operation::ModelProjectorSet(set)).await
        }
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

/// Ends a download, where it is.
async fn cancel(
    session: &Session,
    reference: ModelRef,
    hive: Option<HiveAlias>,
) -> Result<(), Failure> {
    let hive_id = match hive {
        Some(hive) => hive,
        None => lists::who_downloads(session, &reference).await?,
    };
    let cancel = ModelDownloadCancel { hive_id, reference };
    run_and_tell(session, Operation::ModelDownloadCancel(cancel)).await
}

/// Pins a model to its file on the disk, once somebody agreed to the digest.
async fn pin(session: &Session, args: AcceptArgs) -> Result<(), Failure> {
    let target = place::model(session, args.model).await?;
    let found = data(run(session, Operation::ModelVerify(target.clone())).await?);
    let verification: Verification = read(&found)?;
    if verification.matches {
        let shown = detail::verification(&verification, None);
        return session.output.result(&found, |_| Ok(shown)).await;
    }
    if verification.pinned == verification.actual {
        // The model itself is as it was.
        return Err(changed_projector(&verification));
    }
    let shown = detail::verification(&verification, None);
    let command = format!("model pin {}{}", target.model, on(&target.hive_id));
    let consent = Consent::of(args.accept, None, args.yes, command);
    let offer = Offer::of(&verification.actual, None)?;
    let accept = consent.to(session, offer, shown, &found).await?.file;
    let ModelTarget { hive_id, model } = target;
    run_and_tell(session, Operation::ModelPin(ModelPin { hive_id, model, accept })).await
}

/// Looks for another file at the source, and takes it once somebody agreed to its digest, and to that
/// of its projector where it changes, too.
async fn update(session: &Session, args: UpdateArgs) -> Result<(), Failure> {
    let UpdateArgs { to: AcceptArgs { model, accept, yes }, accept_projector } = args;
    let ModelTarget { hive_id, model } = place::model(session, model).await?;
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
    let command = format!("model update {model}{}", on(&hive_id));
    let consent = Consent::of(accept, accept_projector.clone(), yes, command);
    let offer = Offer::of(&offered, update.other_projector())?;
    let agreed = consent.to(session, offer, detail::update(&update), &found).await?;
    // Of a projector whose digest its server does not tell, the hive finds it out.
    let accept_projector = agreed.projector.or(accept_projector);
    let take = ModelUpdate { hive_id, model, accept: Some(agreed.file), accept_projector };
    run_and_tell(session, Operation::ModelUpdate(take)).await
}

/// The digests that somebody has to agree to.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    file: Sha256Digest,
    /// Where that changes as well.
    projector: Option<Sha256Digest>,
}

/// Who agreed to other digests, if anybody did.
struct Consent {
    accept: Option<Sha256Digest>,
    accept_projector: Option<Sha256Digest>,
    yes: bool,
    /// The command by which somebody agrees, without the digests.
    command: String,
}

impl Offer {
    fn of(file: &str, projector: Option<&str>) -> Result<Self, Failure> {
        let digest = |text: &str| text.parse().map_err(Failure::Protocol);
        Ok(Self { file: digest(file)?, projector: projector.map(digest).transpose()? })
    }
}

impl Consent {
    fn of(
        accept: Option<Sha256Digest>,
        accept_projector: Option<Sha256Digest>,
        yes: bool,
        command: String,
    ) -> Self {
        Self { accept, accept_projector, yes, command }
    }

    /// The digests, if somebody agrees to them: on the command line, or now. All digests are shown.
    async fn to(
        self,
        session: &Session,
        offer: Offer,
        shown: String,
        found: &serde_json::Value,
    ) -> Result<Offer, Failure> {
        match self.said(&offer) {
            Some(Ok(())) => return Ok(offer),
            Some(Err(failure)) => return Err(failure),
            None => {}
        }
        if session.output.can_ask() {
            Output::stderr(&shown);
            let question = match &offer.projector {
                None => "Pin the model to the other file? [y/N] ",
                Some(_) => "Pin the model to the other file and the other projector? [y/N] ",
            };
            return if ask(question).await? { Ok(offer) } else { Err(Failure::Declined) };
        }
        session.output.result(found, |_| Ok(shown)).await?;
        Err(Failure::local("the model is another file, and nobody agreed to it")
            .with_hint(self.agreeing(&offer)))
    }

    /// What the command line says; `None` where it says nothing.
    fn said(&self, offer: &Offer) -> Option<Result<(), Failure>> {
        if self.yes {
            return Some(Ok(()));
        }
        let accept = self.accept.as_ref()?;
        Some(if *accept != offer.file {
            Err(Failure::local(format!("the digest is {}, not {accept}", offer.file)))
        } else if offer.projector.is_some() && self.accept_projector != offer.projector {
            Err(Failure::local("the projector changes, too, and nobody agreed to that one")
                .with_hint(self.agreeing(offer)))
        } else {
            Ok(())
        })
    }

    fn agreeing(&self, offer: &Offer) -> String {
        let projector = offer.projector.as_ref();
        let projector = projector.map(|digest| format!(" --accept-projector {digest}"));
        let projector = projector.unwrap_or_default();
        format!("`rbee-keeper {} --accept {}{projector}`", self.command, offer.file)
    }
}

async fn get(session: &Session, model: ModelArg) -> Result<(), Failure> {
    let target = place::shown(session, model).await?;
    let hive = target.hive_id.clone();
    let model = data(run(session, Operation::ModelGet(target)).await?);
    session.output.result(&model, |_| Ok(detail::model(&read(&model)?, &hive, now()))).await
}

/// Compares, on each hive that has it, shows both digests, and fails where they differ. Of several hives the
/// document is an array.
async fn verify(session: &Session, model: ModelArg) -> Result<(), Failure> {
    let targets = match place::owners(session, &model).await? {
        none if none.is_empty() => {
            vec![ModelTarget { hive_id: HiveAlias::localhost(), model: model.model }]
        }
        owners => owners,
    };
    let are_several = targets.len() > 1;
    let (mut all, mut shown, mut changed) = (Vec::new(), String::new(), None);
    let mut unverified = None;
    for target in targets {
        let hive = target.hive_id.clone();
        let ended = match run(session, Operation::ModelVerify(target)).await {
            Ok(ended) => ended,
            Err(failure) if are_several => {
                session.output.warn(&format!("hive {hive}: {failure}"));
                unverified.get_or_insert(failure);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let mut found = data(ended);
        let verification: Verification = read(&found)?;
        shown.push_str(&detail::verification(&verification, are_several.then_some(&hive)));
        if are_several && let Value::Object(fields) = &mut found {
            fields.insert("hive_id".to_owned(), hive.as_str().into());
        }
        all.push(found);
        if !verification.matches {
            changed.get_or_insert((hive, verification));
        }
    }
    let document = if are_several { Value::Array(all) } else { all.swap_remove(0) };
    session.output.result(&document, |_| Ok(shown)).await?;
    match changed {
        None => unverified.map_or(Ok(()), Err),
        Some((_, found)) if found.pinned == found.actual => Err(changed_projector(&found)),
        Some((hive, Verification { alias, .. })) => {
            let message = format!("the file of {alias} is not the one that was imported");
            Err(Failure::local(message).with_hint(format!(
                "`rbee-keeper model delete {alias}{}` and import a file that you trust",
                on(&hive)
            )))
        }
    }
}

/// The option that names a hive, where it needs to be named.
fn on(hive: &HiveAlias) -> String {
    if hive.is_localhost() { String::new() } else { format!(" --hive {hive}") }
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

    #[test]
    fn consent_is_to_each_digest_that_changes() {
        let (a, b) = (&*"a".repeat(64), &*"b".repeat(64));
        let digest = |text: &str| text.parse::<Sha256Digest>().unwrap();
        let consent = |accept: Option<&str>, projector: Option<&str>, yes| {
            let command = "model update m".to_owned();
            Consent::of(accept.map(digest), projector.map(digest), yes, command)
        };
        let (alone, both) = (Offer::of(a, None).unwrap(), Offer::of(a, Some(b)).unwrap());
        for (said, offer, agreed) in [
            (consent(None, None, false), &alone, None),
            (consent(Some(a), None, false), &alone, Some(true)),
            (consent(Some(b), None, false), &alone, Some(false)),
            (consent(Some(a), None, false), &both, Some(false)),
            (consent(Some(a), Some(a), false), &both, Some(false)),
            (consent(Some(a), Some(b), false), &both, Some(true)),
            (consent(None, None, true), &both, Some(true)),
        ] {
            let found = said.said(offer).map(|said| said.is_ok());
            assert_eq!(found, agreed, "{:?} {:?}", said.accept, said.accept_projector);
        }
        let hint = consent(Some(a), None, false).agreeing(&both);
        let command = format!("`rbee-keeper model update m --accept {a} --accept-projector {b}`");
        assert_eq!(hint, command);
    }

    fn args(file: &str, hive: &str) -> ImportArgs {
        let on = OnHive { hive: hive.parse().unwrap() };
        let file = Some(PathBuf::from(file));
        ImportArgs { file, alias: None, link: false, mmproj: None, from: None, on }
    }
}
