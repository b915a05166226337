//! Whether a worker would be started, without starting it.

use job_server::{JobContext, JobError, Outcome};
use narration::with_causes;
use rbee_operations::{FitReport, LARGER_THAN_DEVICE, WorkerFit};

use super::super::{outcome, unless_cancelled};
use super::{Wanted, needs, plan, refusal};
use crate::hive::Parts;

/// Says what a worker would take, and whether there is room for it when those that are named are gone.
pub(in super::super) async fn fit(
    parts: &Parts,
    request: WorkerFit,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let WorkerFit { start, without } = request;
    let (plan, _held) = plan(parts, Wanted::of(parts, start), job).await?;
    let (model, device) = (&plan.model, plan.device);
    let needs = match unless_cancelled(job, needs(parts, &plan)).await? {
        Ok(needs) => needs,
        Err(error) => {
            let reason = with_causes(&error);
            tracing::debug!(%model, reason, "what a model needs is not known");
            let told = format!("Nobody knows what {model} takes on {device}");
            return Ok(outcome(told, &FitReport::unknown()));
        }
    };
    let leaving: Vec<_> = without.iter().filter_map(|id| parts.supervisor.plan_of(id)).collect();
    let reading = parts.devices.reading().await;
    let refused = parts.reservations.would_refuse(&needs, &plan.digest, &leaving, &reading);
    let message = match &refused {
        None => format!("{model} fits on {device}"),
        Some(refused) => refused.to_string(),
    };
    let refused = refused.map(|error| refusal(parts, &error, &without));
    let needs = Some(parts.reservations.counted_all(&needs));
    let report = FitReport {
        needs,
        fits: refused.is_none(),
        larger_than_device: refused.as_ref().is_some_and(|it| it.code == LARGER_THAN_DEVICE),
        hint: refused.as_ref().and_then(|refused| refused.hint.clone()),
        reason: refused.map(|refused| refused.message),
    };
    Ok(outcome(message, &report))
}
