//! A look at each request before it goes on, without a task or an allocation of its own.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use futures::future::Either;
use tower::{Layer, Service};

use crate::ApiError;

/// Refuses what this function refuses.
#[derive(Debug, Clone)]
pub(crate) struct Check<F>(pub(crate) F);

/// A service behind a [`Check`].
#[derive(Debug, Clone)]
pub(crate) struct Checked<S, F> {
    inner: S,
    check: F,
}

impl<S, F: Clone> Layer<S> for Check<F> {
    type Service = Checked<S, F>;

    fn layer(&self, inner: S) -> Checked<S, F> {
        Checked { inner, check: self.0.clone() }
    }
}

impl<S, F> Service<Request> for Checked<S, F>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    F: Fn(&Request) -> Result<(), ApiError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (self.check)(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refused) => Either::Right(ready(Ok(refused.into_response()))),
        }
    }
}
