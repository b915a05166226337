//! `GET /v1/models[/{id}]`: the answers.

use serde::Serialize;
use worker_contract::ModelAlias;

/// A model, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model {
    id: ModelAlias,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// All models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

impl Model {
    /// A model that was `created` at a time in seconds since the Unix epoch.
    #[must_use]
    pub fn new(id: ModelAlias, created: u64) -> Self {
        Self { id, object: "model", created, owned_by: "rbee" }
    }
}

impl ModelList {
    /// The list of some models.
    #[must_use]
    pub fn new(data: Vec<Model>) -> Self {
        Self { object: "list", data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_listed_as_the_api_lists_them() {
        let list = ModelList::new(vec![Model::new("smollm2-135m".parse().unwrap(), 1_700_000_000)]);
        insta::assert_json_snapshot!(list, @r#"
        {
          "object": "list",
          "data": [
            {
              "id": "smollm2-135m",
              "object": "model",
              "created": 1700000000,
              "owned_by": "rbee"
            }
          ]
        }
        "#);
    }
}
