//! Medians, percentiles, tables.

/// The value below which `part` (0 to 1) of the values lie; 0 for none.
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ index ≤ last")]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(0.0)
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// A plain table.
pub(crate) fn table(title: &str, head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(head).add_rows(rows);
    format!("{title}\n\n{table}")
}

/// Whether an aim is reached, in a word.
pub(crate) fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}
