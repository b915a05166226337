//! `POST /v1/embeddings` and `/v1/rerank`: answers that are numbers, and never streamed.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use daemon_http::{ApiError, ApiJson, CallerExt, apart};
use worker_contract::{RequestId, Usage};

use super::inference::{Route, model_of, unfinished, with_route};
use super::{Handlers, describe};
use crate::attached::Endpoint;
use crate::dialect::openai::{
    Body, Embeddings, FieldNames, Rerank, check_dimensions, embeddings, ranking, read_embeddings,
    read_rerank,
};
use crate::relay::{Answer, Part};

/// How many numbers take so long to write that it is done apart from the threads that carry requests.
const MANY_NUMBERS: usize = 32 * 1024;

pub(super) async fn embed(
    State(handlers): State<Handlers>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Body>,
) -> Result<Response, ApiError> {
    let original = handlers.original(Endpoint::Embeddings, &body);
    let model = model_of(&body);
    let understood = handlers.counted(model.as_deref(), read_embeddings(body, request_id));
    let Embeddings { model, request, inputs, encoding, dimensions } = understood?;
    let asking = handlers.counted(Some(&model), handlers.asking(&headers, &caller))?;
    let answer = handlers.begin(&model, request, original, asking)?;
    let found = collect(&handlers, answer, inputs, |part| match part {
        Part::Embedding { index, vector } => Some((index, vector)),
        _ => None,
    });
    let Found { items, usage, route } =
        found.await.map_err(|error| FieldNames::of("input").reword(error))?;
    for vector in &items {
        check_dimensions(dimensions, vector)?;
    }
    let numbers: usize = items.iter().map(Vec::len).sum();
    let write = move || Json(embeddings(&model, &items, encoding, usage)).into_response();
    let answer = if numbers < MANY_NUMBERS { write() } else { apart(write).await? };
    Ok(with_route(answer, route))
}

pub(super) async fn rerank(
    State(handlers): State<Handlers>,
    Extension(request_id): Extension<RequestId>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<Body>,
) -> Result<Response, ApiError> {
    let original = handlers.original(Endpoint::Rerank, &body);
    let model = model_of(&body);
    let understood = handlers.counted(model.as_deref(), read_rerank(body, request_id));
    let Rerank { model, request, documents, top_n, returned } = understood?;
    let asking = handlers.counted(Some(&model), handlers.asking(&headers, &caller))?;
    let answer = handlers.begin(&model, request, original, asking)?;
    let found = collect(&handlers, answer, documents, |part| match part {
        Part::Score { index, score } => Some((index, score)),
        _ => None,
    });
    let Found { items, usage, route } =
        found.await.map_err(|error| FieldNames::of("documents").reword(error))?;
    let answer = ranking(&model, &items, top_n, returned.as_deref(), usage);
    Ok(with_route(Json(answer).into_response(), route))
}

/// The items of an answer in their order, and what is known besides.
struct Found<T> {
    items: Vec<T>,
    usage: Usage,
    route: Option<Route>,
}

/// Reads an answer of `count` items to its end.
async fn collect<T: Clone>(
    handlers: &Handlers,
    mut answer: Box<Answer>,
    count: usize,
    item: impl Fn(Part) -> Option<(u32, T)>,
) -> Result<Found<T>, ApiError> {
    let (mut items, mut route): (Vec<Option<T>>, _) = (vec![None; count], None);
    while let Some(part) = answer.next().await {
        match part.map_err(|failure| describe(failure, &handlers.registry))? {
            Part::Started { worker_id, why } | Part::GoesOn { worker_id, why } => {
                route = Some((worker_id, why.reason));
            }
            Part::Done { usage, .. } => {
                // The relay lets no answer be done that is not complete.
                let items = items.into_iter().collect::<Option<_>>().ok_or_else(unfinished)?;
                return Ok(Found { items, usage, route });
            }
            part => {
                if let Some((index, value)) = item(part)
                    && let Some(place) = items.get_mut(index as usize)
                {
                    *place = Some(value);
                }
            }
        }
    }
    Err(unfinished())
}
