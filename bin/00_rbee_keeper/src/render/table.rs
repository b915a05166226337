//! Lists as tables: no borders, so that `awk` and a narrow terminal both can read them.

use std::fmt::Display;

use access_tokens::TokenInfo;
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table};
use jiff::Timestamp;
use rbee_operations::{AttachedServer, AttachedWorker, DiscoveredHive, JobSummary, SshHost};
use worker_contract::{
    Device, DeviceLoad, ModelEntry, ModelKind, SupervisedState, SupervisedWorker,
};

use super::{Style, printable, unit};
use crate::view;

/// The room between two columns.
const GAP: u16 = 2;
/// How much of a reason a table shows, in characters.
const REASON: usize = 48;

/// Hives, one a row.
pub(crate) fn hives(hives: &[view::Hive], style: Style) -> String {
    let mut table = Rows::new(
        &[
            "HIVE",
            "STATE",
            "SEEN",
            "ADDRESS",
            "DEVICES",
            "MEMORY FREE",
            "MODELS",
            "WORKERS",
            "VERSION",
        ],
        &["VERSION", "MEMORY FREE", "MODELS", "WORKERS", "ADDRESS", "SEEN"],
        style,
    );
    for hive in hives {
        let devices = hive.devices.iter().map(|d| d.id.to_string()).collect::<Vec<_>>().join(" ");
        let rival = hive.rival.as_ref().map(|at| format!("name also used at {at}"));
        let trouble = rival.or_else(|| hive.trouble.clone()).unwrap_or_default();
        table.row([
            plain(&hive.hive_id),
            state(hive.liveness.as_deref().unwrap_or("alive"), &trouble),
            plain(seen(hive)),
            plain(match hive.address.as_deref() {
                None => "in the queen",
                Some("") => "-",
                Some(address) => address,
            }),
            plain(&devices),
            plain(memory(&hive.devices)),
            plain(hive.catalog.len()),
            plain(hive.workers.len()),
            plain(if hive.version.is_empty() { "-" } else { &hive.version }),
        ]);
    }
    table.text()
}

/// How long ago a hive reported.
fn seen(hive: &view::Hive) -> String {
    match hive.last_seen_ms {
        Some(ms) if !hive.version.is_empty() => {
            format!("{} ago", unit::span(std::time::Duration::from_secs(ms / 1000)))
        }
        _ => "never".to_owned(),
    }
}

/// The memory of a hive's devices, each kind by itself.
fn memory(devices: &[Device]) -> String {
    let free = devices.iter().map(|device| unit::memory(device.memory_free_bytes));
    let free: Vec<String> = free.collect();
    if free.is_empty() { "-".to_owned() } else { free.join(" ") }
}

/// Hives that announce themselves, one a row, and how one joins.
pub(crate) fn discovered(hives: &[DiscoveredHive], style: Style) -> String {
    let mut table = Rows::new(&["HIVE", "URL", "VERSION", "STATE"], &["VERSION"], style);
    for hive in hives {
        table.row([
            plain(&hive.hive_id),
            plain(&hive.url),
            plain(&hive.version),
            plain(if hive.is_known { "joined" } else { "not joined" }),
        ]);
    }
    let mut text = table.text();
    if let Some(hive) = hives.iter().find(|hive| !hive.is_known) {
        let DiscoveredHive { hive_id, url, .. } = hive;
        text.push_str(&printable(&format!(
            "\nto join: rbee-keeper hive add {hive_id} --url {url} --secret-file FILE\n\
             its secret is on its console, and on its machine in data/secrets/local.token of its RBEE_HOME\n"
        )));
    }
    text
}

/// Hosts of `~/.ssh/config`, one a row.
pub(crate) fn ssh_hosts(hosts: &[SshHost], style: Style) -> String {
    let mut table =
        Rows::new(&["HOST", "ADDRESS", "USER", "PORT", "HIVE"], &["PORT", "USER"], style);
    for host in hosts {
        table.row([
            plain(&host.alias),
            plain(&host.host),
            plain(host.user.as_deref().unwrap_or("-")),
            plain(host.port.map_or("-".to_owned(), |port| port.to_string())),
            plain(host.hive_id.as_ref().map_or("-", |hive| hive.as_str())),
        ]);
    }
    table.text()
}

/// The devices of a hive, one a row.
pub(crate) fn devices(devices: &[Device], style: Style) -> String {
    let mut table = Rows::new(
        &["DEVICE", "BACKEND", "MEMORY FREE", "MEMORY", "LOAD", "NAME"],
        &["NAME", "BACKEND", "LOAD"],
        style,
    );
    for device in devices {
        table.row([
            plain(device.id),
            plain(&device.backend),
            plain(unit::memory(device.memory_free_bytes)),
            plain(unit::memory(device.memory_total_bytes)),
            plain(load(device)),
            plain(&device.name),
        ]);
    }
    table.text()
}

/// How busy a device is: `37 %, 61 °C, 143 W`.
fn load(device: &Device) -> String {
    if device.is_gone {
        return "gone".to_owned();
    }
    let DeviceLoad { busy_percent, temperature_c, power_w } = device.load;
    let parts = [
        busy_percent.map(|percent| format!("{percent} %")),
        temperature_c.map(|degrees| format!("{degrees} °C")),
        power_w.map(|watts| format!("{watts} W")),
    ];
    let told: Vec<String> = parts.into_iter().flatten().collect();
    if told.is_empty() { "-".to_owned() } else { told.join(", ") }
}

/// The workers of a hive, or of several, one a row; `now` in seconds since the Unix epoch.
pub(crate) fn workers(
    workers: &[SupervisedWorker],
    with_hives: bool,
    now: u64,
    style: Style,
) -> String {
    let mut table = Rows::new(
        &["WORKER", "HIVE", "MODEL", "DEVICE", "STATE", "ADDRESS", "PID", "AGE"],
        &["PID", "AGE", "ADDRESS"],
        style,
    );
    table.shows("HIVE", with_hives);
    for worker in workers {
        let (name, detail) = supervised(worker);
        table.row([
            plain(&worker.worker_id),
            plain(&worker.hive_id),
            plain(&worker.model),
            plain(worker.device),
            state(name, &detail),
            plain(&worker.address),
            plain(worker.pid),
            plain(unit::age(worker.started_at, now)),
        ]);
    }
    table.text()
}

/// Models of servers of others, one a row.
pub(crate) fn attached(workers: &[AttachedWorker], style: Style) -> String {
    let mut table = Rows::new(
        &["WORKER", "MODEL", "SERVER", "STATE", "SLOTS", "URL", "CALLED THERE"],
        &["CALLED THERE", "SLOTS", "URL"],
        style,
    );
    for worker in workers {
        table.row([
            plain(&worker.worker_id),
            plain(&worker.model),
            plain(format!("{} ({})", worker.server, worker.engine)),
            state(&worker.state, worker.reason.as_deref().unwrap_or("")),
            plain(worker.slots),
            plain(&worker.url),
            plain(&worker.original),
        ]);
    }
    table.text()
}

/// A server of others without a model, in a sentence.
pub(crate) fn empty_server(server: &AttachedServer) -> String {
    let AttachedServer { server, url, engine: _, state, reason } = server;
    let reason = in_a_line(reason);
    format!("server {server} at {url} has no model for the pool, {state}: {reason}")
}

/// The workers of all hives as the queen sees them, one a row.
pub(crate) fn live_workers(workers: &[view::Worker], style: Style) -> String {
    let mut table = Rows::new(
        &["WORKER", "HIVE", "MODEL", "DEVICE", "STATE", "SLOTS", "QUEUE", "KV", "TOK/S"],
        &["KV", "QUEUE", "HIVE", "TOK/S"],
        style,
    );
    for worker in workers {
        // What has ended says nothing more, of which its silence tells less.
        let is_over = matches!(worker.state.as_str(), "failed" | "draining");
        let silent = worker.liveness.as_deref().filter(|liveness| *liveness != "alive" && !is_over);
        let slots = match worker.slots.total {
            // It has not reported yet.
            0 => "-".to_owned(),
            total => format!("{}/{total}", worker.slots.busy),
        };
        let kv = match worker.kv_cache.capacity_tokens {
            0 => "-".to_owned(),
            capacity => {
                format!("{}%", u64::from(worker.kv_cache.used_tokens) * 100 / u64::from(capacity))
            }
        };
        table.row([
            plain(&worker.worker_id),
            plain(&worker.hive_id),
            plain(&worker.model.name),
            match &worker.server {
                Some(server) => plain(&server.engine),
                None => plain(worker.device),
            },
            state(silent.unwrap_or(&worker.state), worker.reason.as_deref().unwrap_or("")),
            plain(slots),
            plain(worker.queued),
            plain(kv),
            // A server of somebody else tells no speed.
            plain(match worker.server {
                Some(_) => "-".to_owned(),
                None => format!("{:.1}", worker.tokens_per_second),
            }),
        ]);
    }
    table.text()
}

/// Models, one a row; where they are of several hives, with the name of each one's.
pub(crate) fn models(
    models: &[ModelEntry],
    hives: Option<&[String]>,
    now: u64,
    style: Style,
) -> String {
    let mut table = Rows::new(
        &[
            "MODEL",
            "HIVE",
            "KIND",
            "ARCHITECTURE",
            "PARAMETERS",
            "QUANT",
            "CONTEXT",
            "SIZE",
            "ADDED",
        ],
        &["ARCHITECTURE", "ADDED", "CONTEXT", "PARAMETERS"],
        style,
    );
    table.shows("HIVE", hives.is_some());
    let makes_no_text = |kind| kind != ModelKind::Generative;
    table.shows("KIND", models.iter().any(|model| model.gguf.kind.is_some_and(makes_no_text)));
    let mut hives = hives.unwrap_or_default().iter();
    for model in models {
        table.row([
            plain(&model.alias),
            plain(hives.next().map_or("", String::as_str)),
            plain(model.gguf.kind.map_or("-", ModelKind::as_str)),
            plain(&model.gguf.architecture),
            plain(unit::parameters(model.gguf.parameters)),
            plain(&model.gguf.quantization),
            plain(model.gguf.context_length),
            plain(size(model)),
            plain(format!("{} ago", unit::age(model.added_at, now))),
        ]);
    }
    table.text()
}

/// The size of a model's file; that of what it sees images with stands after a plus.
fn size(model: &ModelEntry) -> String {
    let own = unit::file_size(model.gguf.size_bytes);
    model.projector.as_ref().map_or(own.clone(), |projector| {
        format!("{own} + {} sight", unit::file_size(projector.size_bytes))
    })
}

/// Downloads that run, and what unfinished ones have left, one a row.
pub(crate) fn downloads(
    running: &[view::RunningDownload],
    left: &[view::Garbage],
    with_hives: bool,
    now: u64,
    style: Style,
) -> String {
    let headers = ["WHAT", "HIVE", "STATE", "THERE", "OF", "CHANGED", "FILE"];
    let mut table = Rows::new(&headers, &["FILE", "OF", "CHANGED"], style);
    table.shows("HIVE", with_hives);
    for download in running {
        table.row([
            plain(&download.reference),
            plain(&download.hive_id),
            state("running", ""),
            plain(unit::file_size(download.bytes)),
            plain(download.total.map_or("-".to_owned(), unit::file_size)),
            plain("-"),
            plain("-"),
        ]);
    }
    for file in left {
        let changed = file.changed_at.map(|then| format!("{} ago", unit::age(then, now)));
        table.row([
            plain(file.what.as_deref().unwrap_or("no model's file")),
            plain(&file.hive_id),
            state("left", ""),
            plain(unit::file_size(file.bytes)),
            plain(file.total.map_or("-".to_owned(), unit::file_size)),
            plain(changed.as_deref().unwrap_or("-")),
            plain(&file.name),
        ]);
    }
    table.text()
}

/// Models' policies, one a row.
pub(crate) fn policies(policies: &[view::Policy], style: Style) -> String {
    let head = ["MODEL", "MIN", "MAX", "PINNED", "IDLE", "HIVE", "DEVICE", "CONTEXT", "SLOTS"];
    let mut table = Rows::new(&head, &["SLOTS", "CONTEXT", "DEVICE"], style);
    let or_dash = |text: Option<String>| plain(text.as_deref().unwrap_or("-"));
    for policy in policies {
        let idle = policy.idle_ttl_s.map_or("stays".to_owned(), |seconds| format!("{seconds} s"));
        table.row([
            plain(&policy.model),
            plain(policy.min.to_string()),
            plain(policy.max.to_string()),
            plain(if policy.pin { "yes" } else { "no" }),
            plain(idle),
            or_dash(policy.hive.clone()),
            or_dash(policy.device.clone()),
            or_dash(policy.ctx_size.map(|tokens| tokens.to_string())),
            or_dash(policy.slots.map(|slots| slots.to_string())),
        ]);
    }
    table.text()
}

/// Jobs, one a row.
pub(crate) fn jobs(jobs: &[JobSummary], now: Timestamp, style: Style) -> String {
    let mut table = Rows::new(
        &["JOB", "OPERATION", "STATE", "CREATED", "TOOK", "CALLER"],
        &["CALLER", "TOOK"],
        style,
    );
    for job in jobs {
        let created: Option<Timestamp> = job.created_at.parse().ok();
        let ended: Option<Timestamp> = job.ended_at.as_ref().and_then(|t| t.parse().ok());
        let took = created.zip(ended).map_or("-".to_owned(), |(from, to)| between(from, to));
        table.row([
            plain(short_job_id(job.job_id.as_str())),
            plain(&job.operation),
            state(job.state.as_str(), ""),
            plain(ago(&job.created_at, now)),
            plain(took),
            plain(&job.caller),
        ]);
    }
    table.text()
}

/// What a script says of places, one a row.
pub(crate) fn places(places: &[view::JudgedPlace], style: Style) -> String {
    let headers = ["WORKER", "HIVE", "DEVICE", "ALLOWED", "EXPECTED", "SCORE"];
    let mut table = Rows::new(&headers, &["DEVICE"], style);
    for place in places {
        table.row([
            plain(place.worker_id.clone().unwrap_or_else(|| "(to be started)".to_owned())),
            plain(&place.hive_id),
            plain(place.device.clone().unwrap_or_else(|| "-".to_owned())),
            plain(if place.allowed { "yes" } else { "no" }),
            plain(format!("{} ms", place.expected_ms)),
            plain(format!("{:+} ms", place.extra_ms)),
        ]);
    }
    table.text()
}

/// Tokens, one a row.
pub(crate) fn tokens(tokens: &[TokenInfo], now: Timestamp, style: Style) -> String {
    let mut table =
        Rows::new(&["TOKEN", "NAME", "FINGERPRINT", "CREATED"], &["FINGERPRINT"], style);
    for token in tokens {
        table.row([
            plain(&token.id),
            plain(&token.name),
            plain(&token.fingerprint),
            plain(ago(&token.created_at, now)),
        ]);
    }
    table.text()
}

/// The part of a job's id that lists show and commands accept: the first group of a UUID.
pub(crate) fn short_job_id(id: &str) -> &str {
    id.split('-').next().unwrap_or(id)
}

/// The state's name, and what a person wants to know besides.
pub(crate) fn supervised(worker: &SupervisedWorker) -> (&'static str, String) {
    match &worker.state {
        SupervisedState::Starting { .. } if worker.is_between_processes() => {
            let reason = worker.restarts.as_ref().map(|restarts| restarts.reason.clone());
            ("restarting", reason.unwrap_or_default())
        }
        SupervisedState::Starting { progress } => ("starting", format!("{:.0}%", progress * 100.0)),
        SupervisedState::Ready => ("ready", String::new()),
        SupervisedState::Stopping => ("stopping", String::new()),
        SupervisedState::Failed { reason } => ("failed", reason.clone()),
    }
}

/// How long ago a moment was that is written in RFC 3339.
fn ago(moment: &str, now: Timestamp) -> String {
    moment.parse().map_or_else(|_| "-".to_owned(), |then| format!("{} ago", between(then, now)))
}

fn between(from: Timestamp, to: Timestamp) -> String {
    unit::span(to.duration_since(from).unsigned_abs())
}

/// A table that is being filled.
struct Rows {
    table: Table,
    /// The columns that a narrow terminal can do without, the first one to go first.
    spare: Vec<usize>,
    /// The columns that say nothing.
    hidden: Vec<usize>,
    style: Style,
}

impl Rows {
    /// A table with these columns, of which `spare` are left out where there is no room for all.
    fn new(headers: &[&str], spare: &[&str], style: Style) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING).force_no_tty().set_header(headers.iter().map(Cell::new));
        table.set_content_arrangement(ContentArrangement::Disabled);
        if style.color {
            table.enforce_styling();
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let place = |name: &&str| headers.iter().position(|header| header == name);
        Self { table, spare: spare.iter().filter_map(place).collect(), hidden: Vec::new(), style }
    }

    /// Whether a column is shown at all.
    fn shows(&mut self, header: &str, is_shown: bool) {
        let mut headers = self.table.header().into_iter().flat_map(|row| row.cell_iter());
        let place = headers.position(|cell| cell.content() == header);
        self.hidden.extend(place.filter(|_| !is_shown));
    }

    fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.table.add_row(cells);
    }

    fn text(mut self) -> String {
        for &hidden in &self.hidden {
            if let Some(column) = self.table.column_mut(hidden) {
                column.set_constraint(ColumnConstraint::Hidden);
            }
        }
        if let Some(width) = self.style.width {
            self.fit(width);
        }
        let mut text = self.table.trim_fmt();
        text.push('\n');
        text
    }

    /// Leaves out columns until the rest fits; what does not fit even then is wrapped.
    fn fit(&mut self, width: u16) {
        let mut widths = self.table.column_max_content_widths();
        for &hidden in &self.hidden {
            if let Some(width) = widths.get_mut(hidden) {
                *width = 0;
            }
        }
        let mut needed: u16 = widths.iter().map(|width| width.saturating_add(GAP)).sum();
        for &column in &self.spare {
            if needed <= width.saturating_add(GAP) {
                return;
            }
            if let Some(column) = self.table.column_mut(column) {
                column.set_constraint(ColumnConstraint::Hidden);
            }
            needed = needed.saturating_sub(widths[column].saturating_add(GAP));
        }
        if needed > width.saturating_add(GAP) {
            self.table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
    }
}

fn plain(value: impl Display) -> Cell {
    Cell::new(in_a_line(&value.to_string()))
}

/// The text with nothing in it that would break a line, or steer the terminal.
pub(super) fn in_a_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], "\u{fffd}")
}

fn state(name: &str, detail: &str) -> Cell {
    let text = match brief(detail) {
        detail if detail.is_empty() => name.to_owned(),
        detail => format!("{name} ({detail})"),
    };
    let cell = plain(text);
    match name {
        "ready" | "alive" | "live" | "running" | "succeeded" => cell.fg(Color::Green),
        "starting" | "restarting" | "loading" | "queued" | "stopping" | "draining" | "suspect" => {
            cell.fg(Color::Yellow)
        }
        "failed" | "gone" | "dead" => cell.fg(Color::Red),
        _ => cell,
    }
}

/// The first line of a reason, as much of it as a table has room for.
fn brief(detail: &str) -> String {
    let line = detail.lines().next().unwrap_or_default();
    match line.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
