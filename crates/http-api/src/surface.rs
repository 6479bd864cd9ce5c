//! The one door: every request is named, let in or not, and brought to whoever answers it.
//!
//! Most requests are for completions. They go straight to `router`, the rest through axum's routes.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::Response,
};
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

    async fn answer(self, mut request: Request<Incoming>) -> Response<SurfaceBody> {
        let id = request_id::of(request.headers());
        let named = id.clone();
        let is_openai = auth::is_openai(request.uri().path());
        let mut response = match auth::check(self.api.parts.token.as_ref(), &request) {
            Err(refused) => refused.map(SurfaceBody::Other),
            Ok(()) => {
                let completion = openai::completion(request.uri().path());
                let answering = async {
                    match completion {
                        Some(path) if request.method() == Method::POST => {
                            openai::forward(self.api, path, id, request).await
                        }
                        Some(_) => {
                            let (method, uri) = (request.method().clone(), request.uri().clone());
                            let mut response = state::wrong_method(method, uri).await;
                            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
                            response.map(SurfaceBody::Other)
                        }
                        None => {
                            request.extensions_mut().insert(id);
                            self.routed(request).await
                        }
                    }
                };
                match AssertUnwindSafe(answering).catch_unwind().await {
                    Ok(response) => response,
                    // The panic's own text may hold a part of a prompt, so it is not shown.
                    Err(_) => error::panicked(is_openai).map(SurfaceBody::Other),
                }
            }
        };
        request_id::put(response.headers_mut(), &named);
        response
    }

    async fn routed(mut self, request: Request<Incoming>) -> Response<SurfaceBody> {
        match self.routes.call(request.map(Body::new)).await {
            Ok(response) => response.map(SurfaceBody::Other),
            Err(never) => match never {},
        }
    }
}

impl Service<Request<Incoming>> for Surface {
    type Response = Response<SurfaceBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request).map(Ok))
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
