//! What a script of rules says of the present places.

use std::fmt::Write as _;

use super::{Style, printable, table};
use crate::view::{RulesReport, RulesTest};

/// The report, model by model.
pub(crate) fn report(report: &RulesTest, style: Style) -> String {
    let mut text = String::new();
    if report.models.is_empty() {
        text.push_str("the script can be understood; there is no model to try it on\n");
    }
    for model in &report.models {
        if !text.is_empty() {
            text.push('\n');
        }
        one(&mut text, model, style);
    }
    printable(&text)
}

fn one(text: &mut String, report: &RulesReport, style: Style) {
    let _ = writeln!(text, "{}, {}", report.model, report.priority);
    if !report.places.is_empty() {
        text.push_str(&table::places(&report.places, style));
    }
    if let Some(error) = &report.error {
        let _ = writeln!(text, "the script failed, so the built-in policy decides: {error}");
    }
    let _ = writeln!(text, "with the script:    {}", report.with_script);
    let _ = writeln!(text, "without the script: {}", report.without_script);
}
