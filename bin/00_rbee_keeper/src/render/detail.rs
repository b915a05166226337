//! One thing in full: a name and a value on each line.

use rbee_operations::{AttachedWorker, JobSummary};
use worker_contract::{HiveAlias, ModelEntry, SupervisedWorker};

use super::{Style, printable, table, unit};
use crate::view;

/// A worker.
pub(crate) fn worker(worker: &SupervisedWorker, now: u64) -> String {
    let (name, detail) = table::supervised(worker);
    let state = if detail.is_empty() { name.to_owned() } else { format!("{name} ({detail})") };
    let mut lines = vec![
        ("worker", worker.worker_id.to_string()),
        ("hive", worker.hive_id.to_string()),
        ("model", worker.model.to_string()),
        ("device", worker.device.to_string()),
        ("state", state),
        ("address", worker.address.clone()),
        ("pid", worker.pid.to_string()),
        ("started", format!("{} ago", unit::age(worker.started_at, now))),
    ];
    match &worker.restarts {
        Some(_) if worker.is_given_up() => {
            let advice = format!("rbee-keeper worker restart {}", worker.worker_id);
            lines.push(("try again", advice));
        }
        Some(restarts) if !restarts.waiting => {
            let reason = restarts.reason.lines().next().unwrap_or_default();
            lines.push(("restarts", format!("{}, the last one after: {reason}", restarts.count)));
        }
        _ => {}
    }
    pairs(&lines)
}

/// A model of a server of somebody else.
pub(crate) fn attached(worker: &AttachedWorker) -> String {
    let state = match &worker.reason {
        Some(reason) => format!("{} ({reason})", worker.state),
        None => worker.state.clone(),
    };
    pairs(&[
        ("worker", worker.worker_id.to_string()),
        ("server", format!("{} ({})", worker.server, worker.engine)),
        ("model", worker.model.to_string()),
        ("called there", table::in_a_line(&worker.original)),
        ("state", state),
        ("slots", worker.slots.to_string()),
        ("url", worker.url.clone()),
    ])
}

/// A model.
pub(crate) fn model(model: &ModelEntry, hive: &HiveAlias, now: u64) -> String {
    let gguf = &model.gguf;
    let unnamed = || "-".to_owned();
    let mut lines = vec![
        ("model", model.alias.to_string()),
        ("hive", hive.to_string()),
        ("name", gguf.name.clone().unwrap_or_else(unnamed)),
        ("architecture", gguf.architecture.clone()),
        ("kind", gguf.kind.map_or_else(unnamed, |kind| kind.as_str().to_owned())),
        ("parameters", unit::parameters(gguf.parameters)),
        ("quantization", gguf.quantization.clone()),
        ("context", format!("{} tokens", gguf.context_length)),
        ("chat template", if gguf.has_chat_template { "yes" } else { "no" }.to_owned()),
        ("license", gguf.license.clone().unwrap_or_else(unnamed)),
        ("size", unit::file_size(gguf.size_bytes)),
        ("sha256", model.sha256.to_string()),
        ("source", model.source.clone()),
    ];
    if let Some(projector) = &model.projector {
        lines.push(("sees images", format!("yes, with {}", projector.source)));
        lines.push(("projector size", unit::file_size(projector.size_bytes)));
        lines.push(("projector sha256", projector.sha256.to_string()));
    }
    lines.push(("added", format!("{} ago", unit::age(model.added_at, now))));
    pairs(&lines)
}

/// What came out of comparing a model's file with its pinned digest.
/// On which hive, where it was done on several.
pub(crate) fn verification(found: &view::Verification, on: Option<&HiveAlias>) -> String {
    if found.matches {
        let on = on.map(|hive| format!(" on {hive}")).unwrap_or_default();
        return format!("{} is unchanged{on}: sha256 {}\n", found.alias, found.pinned);
    }
    let mut lines = vec![("model", found.alias.clone())];
    lines.extend(on.map(|hive| ("hive", hive.to_string())));
    lines
        .extend([("pinned sha256", found.pinned.clone()), ("actual sha256", found.actual.clone())]);
    if let Some(projector) = &found.projector {
        lines.push(("pinned projector", projector.pinned.clone()));
        lines.push(("actual projector", projector.actual.clone()));
    }
    pairs(&lines)
}

/// What a model's source has, beside what the model is pinned to.
pub(crate) fn update(found: &view::Update) -> String {
    if !found.changed {
        let model = format!("{} is what its source has: sha256 {}\n", found.alias, found.pinned);
        let Some(offered) = found.other_projector() else { return model };
        let pinned = found.projector.as_ref().map_or("", |projector| &projector.pinned);
        return format!(
            "{model}its projector is another one there: sha256 {offered}, pinned is {pinned}\n\
             to take it: rbee-keeper model mmproj {} auto\n",
            found.alias
        );
    }
    let mut lines = vec![
        ("model", found.alias.clone()),
        ("source", found.source.clone()),
        ("pinned sha256", found.pinned.clone()),
        ("offered sha256", found.offered.clone().unwrap_or_default()),
    ];
    if let Some(projector) = &found.projector {
        lines.push(("pinned projector", projector.pinned.clone()));
        lines.push(("offered projector", projector.offered.clone().unwrap_or_default()));
    }
    pairs(&lines)
}

/// A hive with all that it has.
pub(crate) fn hive(hive: &view::Hive, now: u64, style: Style) -> String {
    let mut lines = vec![
        ("hive", hive.hive_id.clone()),
        ("state", hive.liveness.clone().unwrap_or_else(|| "alive".to_owned())),
        ("version", hive.version.clone()),
        ("address", hive.address.clone().unwrap_or_else(|| "in the queen".to_owned())),
    ];
    if let Some(rival) = &hive.rival {
        let text = format!("{rival} has the same name and is refused: give it --alias NAME");
        lines.push(("another hive", text));
    }
    if let Some(trouble) = &hive.trouble {
        let effect = if hive.is_gone() { "" } else { "no worker can be started: " };
        lines.push(("trouble", format!("{effect}{trouble}")));
    }
    if let Some(found) = &hive.found {
        lines.push(("by SSH", found.summary.clone()));
    }
    let mut text = pairs(&lines);
    if let Some(log) = hive.found.as_ref().and_then(|found| found.log.as_ref()) {
        text.push_str("\nits log ends with:\n");
        text.push_str(&printable(log));
    }
    let mut section = |table: String| {
        text.push('\n');
        text.push_str(&table);
    };
    section(table::devices(&hive.devices, style));
    if !hive.catalog.is_empty() {
        section(table::models(&hive.catalog, None, now, style));
    }
    if !hive.workers.is_empty() {
        section(table::workers(&hive.workers, false, now, style));
    }
    text
}

/// A job.
pub(crate) fn job(job: &JobSummary) -> String {
    let mut lines = vec![
        ("job", job.job_id.to_string()),
        ("operation", job.operation.clone()),
        ("state", job.state.as_str().to_owned()),
        ("caller", job.caller.clone()),
        ("created", job.created_at.clone()),
    ];
    if let Some(ended) = &job.ended_at {
        lines.push(("ended", ended.clone()));
    }
    if let Some(error) = &job.error {
        lines.push(("error", error.clone()));
    }
    lines.push(("detail", job.detail.to_string()));
    pairs(&lines)
}

/// Names and values, the values in one column.
pub(crate) fn pairs(lines: &[(&str, String)]) -> String {
    let widest = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |text, (name, value)| {
        text + &format!("{name:widest$}  {}\n", printable(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_projector_alone_is_another_one_is_said_with_the_command_that_takes_it() {
        let projector = |offered: &str| {
            let (pinned, offered) = ("aa".to_owned(), Some(offered.to_owned()));
            Some(view::OfferedProjector { pinned, offered })
        };
        let found = |projector| view::Update {
            alias: "m".into(),
            source: "hf:o/r".into(),
            pinned: "11".into(),
            offered: Some("11".into()),
            projector,
            changed: false,
        };
        let same = "m is what its source has: sha256 11\n";
        for nothing_new in [None, projector("aa")] {
            assert_eq!(update(&found(nothing_new)), same);
        }
        let told = update(&found(projector("bb")));
        assert!(told.starts_with(same), "{told}");
        for words in ["sha256 bb, pinned is aa", "rbee-keeper model mmproj m auto"] {
            assert!(told.contains(words), "{words} is not in {told}");
        }
    }
}
