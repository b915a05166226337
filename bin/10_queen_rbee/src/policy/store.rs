//! The policies that were set by command, in SQLite.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use narration::with_causes;
use rbee_operations::ModelPolicy;
use rusqlite::Connection;
use sqlite_file::{Layout, OpenError};
use worker_contract::ModelAlias;

const LAYOUT: Layout = Layout { version: 1, tables: TABLE };
const TABLE: &str = "
    CREATE TABLE model_policies (
        model  TEXT PRIMARY KEY,
        policy TEXT NOT NULL  -- JSON
    ) WITHOUT ROWID;
";

/// Policies cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file fails.
    #[error("cannot use the policies in {path}{}", sqlite_file::advice(.source, "none"))]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a later version of rbee.
    #[error(
        "the policies in {path} have version {found}, but this rbee knows versions up to {known}{advice}",
        known = LAYOUT.version,
        advice = sqlite_file::advice_too_new(.path, LAYOUT.version)
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// There are too many.
    #[error(
        "{most} models have a policy that was set, and that is the most: reset one that is not needed \
         (rbee-keeper model policy shows them all, rbee-keeper model policy MODEL --reset forgets one)"
    )]
    TooMany {
        /// How many there may be.
        most: usize,
    },
    /// Two fields of a policy contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl PolicyError {
    /// The failure and its cause without the machine's paths: those are for who operates it.
    #[must_use]
    pub fn for_clients(&self) -> String {
        let whole = with_causes(self);
        match self {
            Self::File { path, .. } | Self::TooNew { path, .. } => {
                whole.replace(&*path.to_string_lossy(), "…")
            }
            Self::TooMany { .. } | Self::Contradiction(_) => whole,
        }
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Store {
    /// `None` as long as there was no room to open it.
    connection: Option<Connection>,
    path: PathBuf,
}

impl Store {
    /// Opens the file, and reads what is in it. That needs no room on the disk: only what is set is refused without.
    pub(super) fn open(
        path: &Path,
    ) -> Result<(Self, BTreeMap<ModelAlias, ModelPolicy>), PolicyError> {
        let failed = |source| PolicyError::File { path: path.to_owned(), source };
        let (connection, policies) = match sqlite_file::open(path, LAYOUT) {
            Ok(connection) => {
                let policies = read(&connection).map_err(failed)?;
                (Some(connection), policies)
            }
            Err(error) if error.is_want_of_room() => {
                let reason = unusable(path, error);
                tracing::error!(%reason, "policies of models can be read, but not set");
                let looked = sqlite_file::look(path, LAYOUT).map_err(|e| unusable(path, e))?;
                let policies = looked.map_or_else(|| Ok(BTreeMap::new()), |past| read(&past));
                (None, policies.map_err(failed)?)
            }
            Err(error) => return Err(unusable(path, error)),
        };
        Ok((Self { connection, path: path.to_owned() }, policies))
    }

    /// Keeps a policy.
    pub(super) fn put(
        &mut self,
        model: &ModelAlias,
        policy: &ModelPolicy,
    ) -> Result<(), PolicyError> {
        // A policy is plain data.
        let json = serde_json::to_string(policy).unwrap_or_default();
        let sql = "INSERT OR REPLACE INTO model_policies (model, policy) VALUES (?1, ?2)";
        self.run(sql, &[&model.as_str(), &json.as_str()])
    }

    /// Forgets a policy.
    pub(super) fn remove(&mut self, model: &ModelAlias) -> Result<(), PolicyError> {
        self.run("DELETE FROM model_policies WHERE model = ?1", &[&model.as_str()])
    }

    fn run(&mut self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<(), PolicyError> {
        let Self { connection, path } = self;
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(sqlite_file::open(path, LAYOUT).map_err(|e| unusable(path, e))?),
        };
        let failed = |source| PolicyError::File { path: path.clone(), source };
        connection.execute(sql, values).map(|_| ()).map_err(failed)
    }
}

fn unusable(path: &Path, error: OpenError) -> PolicyError {
    let path = path.to_owned();
    match error {
        OpenError::Open(source) | OpenError::Use(source) => PolicyError::File { path, source },
        OpenError::TooNew { found } => PolicyError::TooNew { path, found },
    }
}

/// All policies. A row that cannot be understood is left out, and told.
fn read(connection: &Connection) -> rusqlite::Result<BTreeMap<ModelAlias, ModelPolicy>> {
    let mut select = connection.prepare("SELECT model, policy FROM model_policies")?;
    let rows =
        select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut policies = BTreeMap::new();
    for row in rows {
        let (model, json) = row?;
        match (model.parse::<ModelAlias>(), serde_json::from_str::<ModelPolicy>(&json)) {
            (Ok(name), Ok(policy)) => {
                policies.insert(name, policy);
            }
            (name, policy) => {
                let reason = policy.err().map(|error| error.to_string());
                let reason = reason.or(name.err().map(|error| error.to_string()));
                tracing::warn!(
                    model,
                    reason,
                    "a kept policy cannot be understood and does not count"
                );
            }
        }
    }
    Ok(policies)
}
