//! The queen's HTTP surface: paths, authentication, bodies in and out, and which error gets which status.
//!
//! It decides nothing. `POST /v1/infer` and the OpenAI routes hand their bodies to `router`, the rest asks `hive-manager`,
//! `registry-ram`, `model-provisioner` and `journal`. `docs/queen-api.md` describes it for those who call it.
//!
//! Invariants:
//! - every route and method but `/healthz` and `/readyz` is behind one check of the token;
//! - every error is a JSON body with a code, on the OpenAI routes in OpenAI's shape, and every answer has the name of its
//!   request in its head;
//! - a handler that panics answers 500, and only its own request;
//! - an event stream that failed ends with an error event and without `[DONE]`.

mod auth;
mod body;
mod error;
mod hives;
mod infer;
mod models;
mod named;
mod openai;
mod operations;
mod request_id;
mod state;
mod surface;
mod terms;
mod workers;

pub use openai::ClientBody;
pub use state::{Api, Limits, Parts, ROUTES, StopOrder};
pub use surface::{Surface, SurfaceBody};
