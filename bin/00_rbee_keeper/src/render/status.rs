//! `rbee-keeper status`: all of rbee on one screen.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Style, for_people, table, unit};
use crate::view;

/// The screen; `now` in seconds since the Unix epoch.
pub(crate) fn screen(status: &view::Status, now: u64, style: Style) -> String {
    let mut text = headline(status);
    if let Some(reason) = &status.records_trouble {
        let _ = writeln!(
            text,
            "jobs and decisions are not recorded: {reason}; they are kept in memory until the queen can write to her disk"
        );
    }
    if status.hives.is_empty() {
        text.push_str("\nno hives: start one with `rbee-keeper hive start`\n");
        empty_servers(&mut text, status);
        return text;
    }
    section(&mut text, &table::hives(&status.hives, style));
    for hive in &status.hives {
        if let Some(trouble) = hive.trouble.as_ref().filter(|_| hive.could_not_be_started()) {
            let _ = writeln!(text, "\n{trouble}; the queen tries again every few seconds");
            continue;
        }
        if hive.has_never_reported() {
            let alias = &hive.hive_id;
            let why = format!("`rbee-keeper hive status {alias}` tells what is known of it");
            let _ = writeln!(text, "\non {alias}: it has not reported yet; {why}");
            continue;
        }
        if status.hives.len() > 1 {
            let _ = write!(text, "\non {}:", hive.hive_id);
        }
        section(&mut text, &table::devices(&hive.devices, style));
        if hive.catalog.is_empty() {
            text.push_str("\nno models: add one with `rbee-keeper model import FILE`\n");
        } else {
            section(&mut text, &table::models(&hive.catalog, None, now, style));
        }
    }
    if status.workers.is_empty() {
        text.push_str("\nno workers: one starts with the first request for a model\n");
    } else {
        section(&mut text, &table::live_workers(&status.workers, style));
    }
    empty_servers(&mut text, status);
    text
}

/// Attached servers that no row of a worker tells of.
fn empty_servers(text: &mut String, status: &view::Status) {
    if !status.attached_servers.is_empty() {
        text.push('\n');
    }
    for server in &status.attached_servers {
        let _ = writeln!(text, "{}", table::empty_server(server));
    }
}

fn headline(status: &view::Status) -> String {
    let mut text = format!("queen-rbee {} is running", status.version);
    if !status.address.is_empty() {
        let _ = write!(text, " at {}", status.address);
    }
    let _ = write!(text, ", up {}", unit::span(Duration::from_secs(status.uptime_s)));
    let features = for_people(&status.features);
    if !features.is_empty() {
        let _ = write!(text, ", with {}", features.join(", "));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::command::read;

    #[test]
    fn a_hive_that_has_never_reported_is_no_hive_without_models() {
        let status = json!({ "hives": [{
            "hive_id": "g2", "address": "", "version": "", "liveness": "gone", "last_seen_ms": null,
            "catalog": [], "workers": [], "devices": [],
        }]});
        let status: view::Status = read(&status).unwrap();
        let shown = screen(&status, 0, Style::default());
        assert!(
            shown.contains("on g2: it has not reported yet; `rbee-keeper hive status g2`"),
            "{shown}"
        );
        assert!(!shown.contains("no models"), "{shown}");
    }

    #[test]
    fn a_hive_that_could_not_be_started_is_not_to_be_started_by_hand() {
        let trouble = "the hive of this machine could not be started: database or disk is full";
        let status = json!({ "hives": [{
            "hive_id": "localhost", "address": null, "version": "", "liveness": "gone",
            "trouble": trouble, "catalog": [], "workers": [], "devices": [],
        }]});
        let status: view::Status = read(&status).unwrap();
        let shown = screen(&status, 0, Style::default());
        assert!(shown.contains(&format!("\n{trouble}; the queen tries again")), "{shown}");
        assert!(!shown.contains("hive start") && !shown.contains("not reported"), "{shown}");
    }

    #[test]
    fn a_fresh_queen_says_what_to_do_next() {
        let status = json!({
            "version": "0.1.0", "features": ["local-hive", "leaves-workers"], "uptime_s": 3, "jobs_running": 0,
            "address": "http://127.0.0.1:8500", "workers": [],
            "hives": [{
                "hive_id": "localhost", "address": null, "version": "0.1.0", "liveness": "alive",
                "last_seen_ms": 1400,
                "catalog": [], "workers": [],
                "devices": [{
                    "id": "CPU-0", "backend": "CPU", "name": "a processor",
                    "memory_total_bytes": 16_777_216_000_u64,
                    "memory_free_bytes": 8_388_608_000_u64,
                }],
            }],
        });
        let status: view::Status = read(&status).unwrap();
        insta::assert_snapshot!(screen(&status, 0, Style::default()), @r"
        queen-rbee 0.1.0 is running at http://127.0.0.1:8500, up 3s, with local-hive

        HIVE       STATE  SEEN    ADDRESS       DEVICES  MEMORY FREE  MODELS  WORKERS  VERSION
        localhost  alive  1s ago  in the queen  CPU-0    7.8 GiB      0       0        0.1.0

        DEVICE  BACKEND  MEMORY FREE  MEMORY    LOAD  NAME
        CPU-0   CPU      7.8 GiB      15.6 GiB  -     a processor

        no models: add one with `rbee-keeper model import FILE`

        no workers: one starts with the first request for a model
        ");
    }

    #[test]
    fn a_worker_that_has_not_reported_is_a_row_without_figures() {
        let status = json!({
            "hives": [{ "hive_id": "localhost", "liveness": "alive", "version": "0.1.0" }],
            "workers": [{
                "worker_id": "w-1", "hive_id": "localhost", "device": "CPU-0", "state": "ready",
                "model": { "name": "m", "context_length": 0 }, "slots": { "total": 0, "busy": 0 },
            }],
        });
        let status: view::Status = read(&status).unwrap();
        let shown = screen(&status, 0, Style::default());
        let row: Vec<_> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row[..7], ["w-1", "localhost", "m", "CPU-0", "ready", "-", "0"], "{shown}");
        assert!(!shown.contains("no workers"), "{shown}");
    }

    #[test]
    fn a_server_without_a_model_is_shown_whether_or_not_there_is_a_hive() {
        let hive = json!({ "hive_id": "localhost", "liveness": "alive", "version": "0.1.0" });
        for hives in [json!([]), json!([hive])] {
            let status = json!({ "hives": hives, "attached_servers": [{
                "server": "nas", "url": "http://nas:11434", "engine": "ollama", "state": "ready",
                "reason": "it lists\nno models",
            }]});
            let status: view::Status = read(&status).unwrap();
            let shown = screen(&status, 0, Style::default());
            let line = shown.lines().last().unwrap();
            assert!(line.starts_with("server nas at http://nas:11434 has no model"), "{shown}");
            assert!(line.contains("ready: it lists") && line.ends_with("no models"), "{shown}");
        }
    }

    #[test]
    fn a_queen_that_cannot_write_to_her_disk_says_so() {
        let status = json!({"version": "0.1.0", "records_trouble": "database or disk is full"});
        let status: view::Status = read(&status).unwrap();
        let text = screen(&status, 0, Style::default());
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("jobs and decisions are not recorded: database or disk is full;"));
    }
}
