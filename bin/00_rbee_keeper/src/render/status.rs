//! `rbee-keeper status`: all of rbee on one screen.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Style, table, unit};
use crate::view;

/// The screen; `now` in seconds since the Unix epoch.
pub(crate) fn screen(status: &view::Status, now: u64, style: Style) -> String {
    let mut text = headline(status);
    if status.hives.is_empty() {
        text.push_str("\nno hives: start one with `rbee-keeper hive start`\n");
        return text;
    }
    section(&mut text, &table::hives(&status.hives, style));
    for hive in &status.hives {
        if status.hives.len() > 1 {
            let _ = write!(text, "\non {}:", hive.hive_id);
        }
        section(&mut text, &table::devices(&hive.devices, style));
        if hive.catalog.is_empty() {
            text.push_str("\nno models: add one with `rbee-keeper model import FILE`\n");
        } else {
            section(&mut text, &table::models(&hive.catalog, now, style));
        }
    }
    if status.workers.is_empty() {
        text.push_str("\nno workers: one starts with the first request for a model\n");
    } else {
        section(&mut text, &table::live_workers(&status.workers, style));
    }
    text
}

fn headline(status: &view::Status) -> String {
    let mut text = format!("queen-rbee {} is running", status.version);
    if !status.address.is_empty() {
        let _ = write!(text, " at {}", status.address);
    }
    let _ = write!(text, ", up {}", unit::span(Duration::from_secs(status.uptime_s)));
    if !status.features.is_empty() {
        let _ = write!(text, ", with {}", status.features.join(", "));
    }
    if status.jobs_running > 0 {
        let jobs = usize::try_from(status.jobs_running).unwrap_or(usize::MAX);
        let _ = write!(text, ", {} running", unit::count(jobs, "job"));
    }
    text.push('\n');
    text
}

fn section(text: &mut String, table: &str) {
    text.push('\n');
    text.push_str(table);
}
