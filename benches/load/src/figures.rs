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

/// The median of the ratios of two series, round by round; `None` where the other is not there.
pub(crate) fn ratio(ours: Option<&Vec<f64>>, others: Option<&Vec<f64>>) -> Option<f64> {
    let ratios: Vec<f64> = ours?.iter().zip(others?).map(|(our, other)| our / other).collect();
    (!ratios.is_empty()).then(|| median(&ratios))
}

/// A ratio in a table.
pub(crate) fn shown(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// What became of an aim: at least so many times another one's figure.
pub(crate) fn aim(ratio: Option<f64>, least: f64, other: &str) -> String {
    let became = ratio.map_or("not measured", |ratio| verdict(ratio >= least));
    format!("{least} × {other} {became}")
}
