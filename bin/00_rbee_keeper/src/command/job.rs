//! `job …`

use rbee_operations::{JobEvent, JobList, JobSummary, MAX_LISTED_JOBS};
use serde_json::{Value, json};
use worker_contract::{JobId, RequestId};

use super::{read, request};
use crate::cli::JobCommand;
use crate::failure::Failure;
use crate::job_run::{self, Listener};
use crate::live::Live;
use crate::output::Output;
use crate::queen_client::Queen;
use crate::render::{decision, detail, json as rendered, printable, table};
use crate::session::Session;

/// The length of a whole job id.
const UUID: usize = 36;

pub(super) async fn job(session: &Session, command: JobCommand) -> Result<(), Failure> {
    let queen = session.queen().await?;
    let output = session.output;
    match command {
        JobCommand::List { limit, all } => list(output, &queen, limit.into(), all).await,
        JobCommand::Show { job, why: false } => {
            tell(output, &get(&queen, &job.job).await?, detail::job).await
        }
        JobCommand::Show { job, why: true } => match get(&queen, &job.job).await {
            Ok(summary) => show_why(output, &queen, &summary).await,
            Err(no_job) => show_request(output, &queen, &job.job, no_job).await,
        },
        JobCommand::Follow(job) => {
            let job = find(&queen, &job.job).await?;
            follow(output, &queen, &job).await
        }
        JobCommand::Cancel(job) => {
            let job = find(&queen, &job.job).await?;
            let summary = queen.jobs.cancel(&job).await.map_err(|e| queen.failure(e))?;
            tell(output, &summary, cancelled).await
        }
    }
}

/// Shows a job, and what was decided for it.
async fn show_why(output: Output, queen: &Queen, summary: &JobSummary) -> Result<(), Failure> {
    let decisions = request::decisions(queen, summary.job_id.as_str()).await?;
    if output.is_json() {
        return output.document(&json!({ "job": summary, "decisions": decisions })).await;
    }
    let job = detail::job(summary);
    output.text(format!("{job}\n{}", decision::list(&read::<Vec<_>>(&decisions)?))).await
}

/// Shows what was decided for a request that is no job: one that came over HTTP. Where there is nothing, either, there
/// is no such job.
async fn show_request(
    output: Output,
    queen: &Queen,
    id: &str,
    no_job: Failure,
) -> Result<(), Failure> {
    let Ok(request) = id.parse::<RequestId>() else { return Err(no_job) };
    let decisions = match request::decisions(queen, request.as_str()).await {
        Ok(Value::Array(decisions)) if !decisions.is_empty() => Value::Array(decisions),
        _ => return Err(no_job),
    };
    if output.is_json() {
        return output.document(&json!({ "job": null, "decisions": decisions })).await;
    }
    output.text(decision::list(&read::<Vec<_>>(&decisions)?)).await
}

async fn list(
    output: Output,
    queen: &Queen,
    limit: usize,
    with_looks: bool,
) -> Result<(), Failure> {
    let client = &queen.jobs;
    let listed =
        if with_looks { client.list_with_looks(limit).await } else { client.list(limit).await };
    let JobList { jobs, left_out } = listed.map_err(|e| queen.failure(e))?;
    if left_out > 0 {
        output.incomplete(&format!("{left_out} more jobs have ended before these: --limit"));
    }
    if output.is_json() {
        return output.document(&jobs).await;
    }
    if jobs.is_empty() {
        return output.text("no jobs\n").await;
    }
    output.text(table::jobs(&jobs, jiff::Timestamp::now(), output.style())).await
}

async fn tell(
    output: Output,
    summary: &JobSummary,
    text: impl FnOnce(&JobSummary) -> String,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(summary).await;
    }
    output.text(text(summary)).await
}

/// What cancelling came to: the job may have ended by itself before.
fn cancelled(summary: &JobSummary) -> String {
    let (job, state) = (table::short_job_id(summary.job_id.as_str()), summary.state.as_str());
    if summary.state.is_final() {
        format!("job {job} has ended: {state}\n")
    } else {
        format!("job {job} is being cancelled\n")
    }
}

/// Prints a job's events from its first one. With `--json` they are the items of one array, each
/// written when it comes.
async fn follow(output: Output, queen: &Queen, job: &JobId) -> Result<(), Failure> {
    let mut events = Events { output, written: 0, mid_line: false, live: Live::new(output) };
    let ended = job_run::listen(queen, queen.jobs.follow(job, None), &mut events).await;
    events.close().await?;
    ended.map(drop)
}

/// The events of a followed job, on stdout.
struct Events {
    output: Output,
    written: usize,
    /// Whether the last line is the beginning of an answer.
    mid_line: bool,
    live: Live,
}

impl Events {
    async fn close(&mut self) -> Result<(), Failure> {
        self.live.clear();
        match (self.output.is_json(), self.written) {
            (false, _) => Ok(()),
            (true, 0) => self.output.text("[]\n").await,
            (true, _) => self.output.text("\n]\n").await,
        }
    }
}

impl Listener for Events {
    async fn event(&mut self, event: &JobEvent) -> Result<(), Failure> {
        let text = if self.output.is_json() {
            let before = if self.written == 0 { "[\n" } else { ",\n" };
            format!("{before}{}", rendered::line(event))
        } else if event.progress().is_some() {
            self.live.show(event);
            return Ok(());
        } else if event.event == "error" {
            // The failure itself is told on stderr, once.
            return Ok(());
        } else if event.event == "token" {
            self.mid_line = !event.message.ends_with('\n');
            event.message.clone()
        } else {
            self.live.clear();
            let before = if std::mem::take(&mut self.mid_line) { "\n" } else { "" };
            format!("{before}{}\n", event.message)
        };
        self.written += 1;
        let shown = if self.output.stdout_is_terminal() { printable(&text) } else { text };
        self.output.text(shown).await
    }
}

/// The job whose id begins like this, as it is now.
async fn get(queen: &Queen, beginning: &str) -> Result<JobSummary, Failure> {
    let job = find(queen, beginning).await?;
    queen.jobs.get(&job).await.map_err(|e| queen.failure(e))
}

/// The id of the job whose id begins like this.
async fn find(queen: &Queen, beginning: &str) -> Result<JobId, Failure> {
    if beginning.len() >= UUID {
        return beginning.parse().map_err(|error| Failure::usage(format!("{error}")));
    }
    let list = queen.jobs.list_with_looks(MAX_LISTED_JOBS).await.map_err(|e| queen.failure(e))?;
    only_match(&list, beginning)
}

fn only_match(listed: &JobList, beginning: &str) -> Result<JobId, Failure> {
    let list = "`rbee-keeper job list --all` shows them all";
    let matching: Vec<&JobSummary> =
        listed.jobs.iter().filter(|job| job.job_id.as_str().starts_with(beginning)).collect();
    match matching.as_slice() {
        [] if listed.left_out > 0 => Err(Failure::local(format!(
            "none of the latest {MAX_LISTED_JOBS} ended jobs, and none that runs, begins with {beginning:?}; {} \
             earlier ones were not searched",
            listed.left_out
        ))
        .with_hint("an earlier job is found by its whole id")),
        [] => Err(Failure::local(format!("there is no job {beginning:?}")).with_hint(list)),
        [job] => Ok(job.job_id.clone()),
        several => Err(Failure::usage(format!("{} jobs begin with {beginning:?}", several.len()))
            .with_hint(list)),
    }
}

#[cfg(test)]
mod tests {
    use rbee_operations::JobState;

    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_where_it_is_the_only_one() {
        let jobs = vec![summary("aa11-1"), summary("aa22-1"), summary("bb33-1")];
        let jobs = JobList { jobs, left_out: 0 };
        assert_eq!(only_match(&jobs, "b").unwrap().as_str(), "bb33-1");
        assert_eq!(only_match(&jobs, "aa22-1").unwrap().as_str(), "aa22-1");
        assert_eq!(only_match(&jobs, "aa").unwrap_err().exit_code(), 2);
        assert_eq!(only_match(&jobs, "cc").unwrap_err().exit_code(), 1);
    }

    #[test]
    fn a_job_that_was_not_searched_for_is_not_said_to_be_none() {
        let mut list = JobList { jobs: vec![summary("aa11-1")], left_out: 0 };
        let told = only_match(&list, "cc").unwrap_err().to_string();
        assert_eq!(told, "there is no job \"cc\"");
        list.left_out = 7;
        let failure = only_match(&list, "cc").unwrap_err();
        assert_eq!(
            failure.to_string(),
            "none of the latest 10000 ended jobs, and none that runs, begins with \"cc\"; 7 earlier ones were not \
             searched"
        );
        assert!(failure.hint().unwrap().contains("whole id"), "{:?}", failure.hint());
        assert_eq!(only_match(&list, "aa").unwrap().as_str(), "aa11-1");
    }

    #[test]
    fn a_job_that_had_ended_is_not_said_to_be_cancelled() {
        let mut job = summary("aa11-1");
        assert_eq!(cancelled(&job), "job aa11 is being cancelled\n");
        job.state = JobState::Succeeded;
        assert_eq!(cancelled(&job), "job aa11 has ended: succeeded\n");
    }

    fn summary(id: &str) -> JobSummary {
        JobSummary {
            job_id: id.parse().unwrap(),
            operation: "infer".to_owned(),
            detail: serde_json::Value::Null,
            caller: "local".to_owned(),
            state: JobState::Running,
            created_at: String::new(),
            ended_at: None,
            error: None,
        }
    }
}
