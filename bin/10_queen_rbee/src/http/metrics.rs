//! `GET /metrics`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::hive_client::HiveClients;
use crate::metrics::Sample;
use crate::relay::Relay;

/// What ends a page of OpenMetrics.
const END: &str = "# EOF\n";

/// What Prometheus reads: the queen's figures, and those of the hive in her process, which has no other page.
pub(super) async fn metrics(
    State(relay): State<Relay>,
    State(hives): State<HiveClients>,
) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let own = Sample::of(relay.metrics(), relay.dispatcher()).text();
    let page = match hives.inner_metrics().await {
        Some(inner) => joined(own, &inner),
        None => own,
    };
    ([(CONTENT_TYPE, kind)], page)
}

/// Two pages as one. No family is on both: the names of each program begin with its own.
fn joined(mut page: String, more: &str) -> String {
    page.truncate(page.strip_suffix(END).map_or(page.len(), str::len));
    page + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pages_are_one_with_one_end() {
        let joined = joined("# TYPE a gauge\na 1\n# EOF\n".into(), "# TYPE b gauge\nb 2\n# EOF\n");
        assert_eq!(joined, "# TYPE a gauge\na 1\n# TYPE b gauge\nb 2\n# EOF\n");
    }
}
