//! The one door: every request is named, let in or not, and brought to whoever answers it.
//!
//! Most requests are for completions. They go straight to `router`, the rest through axum's routes.

use std::{
    convert::Infallible,
    future::{Future, ready},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use fleet::RequestId;
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, header};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use tower_service::Service as _;

use crate::{Api, auth, error, openai, openai::ClientBody, request_id, state};

/// What an accept loop serves. Clones are the same surface.
#[derive(Clone)]
pub struct Surface {
    api: Arc<Api>,
    routes: Router,
}

impl Surface {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        let routes = state::routes(Arc::clone(&api));
        Self { api, routes }
    }

    /// A request that is no completion.
    async fn routed(mut self, request: Request<Incoming>) -> Response<SurfaceBody> {
        match self.routes.call(request.map(Body::new)).await {
            Ok(response) => response.map(SurfaceBody::Other),
            Err(never) => match never {},
        }
    }
}

/// An answer to be.
type Answering = Pin<Box<dyn Future<Output = Result<Response<SurfaceBody>, Infallible>> + Send>>;

/// The answer with the request's name, whatever becomes of it.
fn named(
    id: RequestId,
    is_openai: bool,
    answering: impl Future<Output = Response<SurfaceBody>> + Send + 'static,
) -> Answering {
    Box::pin(AssertUnwindSafe(answering).catch_unwind().map(move |answer| {
        // The panic's own text may hold a part of a prompt, so it is not shown.
        let mut answer = answer.unwrap_or_else(|_| error::panicked(is_openai).map(SurfaceBody::Other));
        request_id::put(answer.headers_mut(), &id);
        Ok(answer)
    }))
}

impl Service<Request<Incoming>> for Surface {
    type Response = Response<SurfaceBody>;
    type Error = Infallible;
    type Future = Answering;

    /// Each kind of answer is a future of its own, so that none takes the room of another.
    fn call(&self, mut request: Request<Incoming>) -> Answering {
        let id = request_id::of(request.headers());
        let is_openai = auth::is_openai(request.uri().path());
        if let Err(refused) = auth::check(self.api.parts.token.as_ref(), &request) {
            return named(id, is_openai, ready(refused.map(SurfaceBody::Other)));
        }
        match openai::completion(request.uri().path()) {
            Some(path) if request.method() == Method::POST => {
                match openai::forward(Arc::clone(&self.api), path, id.clone(), request) {
                    Ok(answer) => named(id, is_openai, answer),
                    Err(fault) => named(id, is_openai, ready(fault.into_response().map(SurfaceBody::Other))),
                }
            }
            Some(_) => {
                let (method, uri) = (request.method().clone(), request.uri().clone());
                let refused = state::wrong_method(method, uri).map(|mut response| {
                    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                    response.map(SurfaceBody::Other)
                });
                named(id, is_openai, refused)
            }
            None => {
                request.extensions_mut().insert(id.clone());
                named(id, is_openai, self.clone().routed(request))
            }
        }
    }
}

/// The body of any answer.
pub enum SurfaceBody {
    /// A worker's answer, piece by piece.
    Answer(ClientBody),
    /// Anything else.
    Other(Body),
}

impl http_body::Body for SurfaceBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Answer(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Other(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Answer(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
        }
    }
}
