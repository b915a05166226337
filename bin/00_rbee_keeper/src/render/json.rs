//! What `--json` prints.

use serde::Serialize;
use serde_json::json;
use worker_contract::{ApiErrorBody, ErrorDetail};

/// One document, indented, with the line end of a text file.
pub(crate) fn document<T: Serialize + ?Sized>(value: &T) -> String {
    // Every value here is a tree of strings, numbers and lists, which always has a JSON form.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".to_owned());
    text.push('\n');
    text
}

/// A value on one line, without its end.
pub(crate) fn line<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// An error on one line, as an object of the API's shape: `{"error": {…}}`.
pub(crate) fn error(detail: &ErrorDetail) -> String {
    let body = ApiErrorBody { error: detail.clone() };
    format!("{}\n", line(&body))
}

/// A warning on one line: `{"warning": {"message": …}}`.
pub(crate) fn warning(message: &str) -> String {
    format!("{}\n", line(&json!({ "warning": { "message": message } })))
}

#[cfg(test)]
mod tests {
    use worker_contract::ErrorKind;

    use super::*;

    #[test]
    fn an_empty_list_is_an_empty_array() {
        assert_eq!(document(&Vec::<u8>::new()), "[]\n");
    }

    #[test]
    fn an_error_has_the_shape_of_the_api() {
        let detail = ErrorDetail {
            message: "there is no model \"x\"".to_owned(),
            kind: ErrorKind::InvalidRequestError,
            param: None,
            code: Some("model_not_found".to_owned()),
            hint: Some("rbee-keeper model list".to_owned()),
        };
        insta::assert_snapshot!(error(&detail), @r#"{"error":{"message":"there is no model \"x\"","type":"invalid_request_error","param":null,"code":"model_not_found","hint":"rbee-keeper model list"}}"#);
    }
}
