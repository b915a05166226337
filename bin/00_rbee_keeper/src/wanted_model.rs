//! The model that a command is about: by its name in a catalog, or by where it comes from.

use std::str::FromStr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rbee_operations::{ModelDownload, ModelRef, Operation, ProjectorChoice};
use serde::Deserialize;
use worker_contract::{HiveAlias, ModelAlias, ModelEntry};

use crate::command::read;
use crate::failure::Failure;
use crate::job_run;
use crate::queen_client::Queen;
use crate::session::Session;
use crate::view::Status;

/// A name or a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WantedModel {
    Named(ModelAlias),
    From(ModelRef),
}

impl FromStr for WantedModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ModelRef::is_meant_by(text) {
            return text.parse().map(Self::From).map_err(|error| format!("{error}"));
        }
        text.parse().map(Self::Named).map_err(|error| format!("{error}"))
    }
}

/// A model that is to answer: one of those, or one that a server of somebody else has, by its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AnsweringModel {
    Wanted(WantedModel),
    AtServer(String),
}

/// The longest name of a model at a server, in bytes.
const MAX_NAME: usize = 512;

impl FromStr for AnsweringModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let can_be_elsewhere = !ModelRef::is_meant_by(text) && (1..=MAX_NAME).contains(&text.len());
        match text.parse() {
            Ok(wanted) => Ok(Self::Wanted(wanted)),
            Err(_) if can_be_elsewhere => Ok(Self::AtServer(text.to_owned())),
            Err(error) => Err(error),
        }
    }
}

impl AnsweringModel {
    /// Its name at the queen, who knows what servers call it.
    pub(crate) async fn alias(
        self,
        session: &Session,
        queen: &Queen,
    ) -> Result<ModelAlias, Failure> {
        match self {
            Self::Wanted(wanted) => wanted.alias(session, queen, None).await,
            Self::AtServer(name) => {
                let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
                let model: Known = read(&queen.get(&format!("/v1/models/{name}")).await?)?;
                Ok(model.id)
            }
        }
    }
}

/// What the queen says of a model.
#[derive(Debug, Deserialize)]
struct Known {
    id: ModelAlias,
}

impl WantedModel {
    /// Whether it is named by where it comes from.
    pub(crate) fn is_reference(&self) -> bool {
        matches!(self, Self::From(_))
    }

    /// Its name in a catalog: what is in none is downloaded to the hive first. `on` is the only hive
    /// that counts, or, without one, any serves and `localhost` gets what is missing.
    pub(crate) async fn alias(
        self,
        session: &Session,
        queen: &Queen,
        on: Option<&HiveAlias>,
    ) -> Result<ModelAlias, Failure> {
        let reference = match self {
            Self::Named(alias) => return Ok(alias),
            Self::From(reference) => reference,
        };
        let status: Status = read(&queen.get("/v1/status").await?)?;
        if let Some(known) = known(&status, &reference, on) {
            return Ok(known);
        }
        let hive_id = on.cloned().unwrap_or_else(HiveAlias::localhost);
        let projector = ProjectorChoice::Usual;
        let download = ModelDownload { hive_id, reference, alias: None, projector };
        let ended = job_run::run(session, queen, &Operation::ModelDownload(download)).await?;
        let model: ModelEntry = read(&ended.data.unwrap_or_default())?;
        session.output.note(&format!("it is called {} from here on", model.alias));
        Ok(model.alias)
    }
}

/// The name of a model that came from there.
fn known(status: &Status, reference: &ModelRef, on: Option<&HiveAlias>) -> Option<ModelAlias> {
    let counts = |hive: &str| on.is_none_or(|on| on.as_str() == hive);
    let hives = status.hives.iter().filter(|hive| counts(&hive.hive_id));
    let mut models = hives.flat_map(|hive| &hive.catalog);
    models.find(|model| reference.covers(&model.source)).map(|model| model.alias.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_a_models_name_at_a_server_is_taken_to_answer_and_wrong_references_are_not() {
        let long = "x".repeat(512);
        for name in ["org/Model-8B", "a b", "ä", &format!("/{}", &long[1..])] {
            let expected = AnsweringModel::AtServer(name.to_owned());
            assert_eq!(name.parse(), Ok(expected), "{name}");
            assert!(name.parse::<WantedModel>().is_err(), "{name}");
        }
        for name in ["smollm2", "hf:o/r"] {
            let expected = name.parse().map(AnsweringModel::Wanted);
            assert_eq!(name.parse(), expected, "{name}");
        }
        for bad in ["", "hf:", &format!("/{long}")] {
            assert!(bad.parse::<AnsweringModel>().is_err(), "{bad}");
        }
    }
}
