//! The tables of the features.

use anyhow::{Context, Result};
use cucumber::gherkin::Step as GherkinStep;

/// One row, by the names of the columns.
pub(super) struct Row<'a> {
    header: &'a [String],
    cells: &'a [String],
}

impl<'a> Row<'a> {
    /// The cell of a column; empty when the column is not there.
    pub(super) fn get(&self, column: &str) -> &'a str {
        let index = self.header.iter().position(|name| name == column);
        index.and_then(|index| self.cells.get(index)).map_or("", String::as_str)
    }
}

/// The rows under the header of a step's table.
pub(super) fn rows(step: &GherkinStep) -> Result<impl Iterator<Item = Row<'_>>> {
    let table = step.table.as_ref().context("the step has no table")?;
    let (header, rows) = table.rows.split_first().context("the table is empty")?;
    ensure!(!rows.is_empty(), "the table has only a header");
    Ok(rows.iter().map(move |cells| Row { header, cells }))
}

/// Fails with all complaints at once, if there are any.
pub(super) fn no_complaints(complaints: &[String]) -> Result<()> {
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}
