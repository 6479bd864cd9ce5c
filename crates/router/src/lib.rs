//! The request path: from a body that names a model to the bytes of a worker's answer.
//!
//! A request is scanned once, never built; a worker with a free slot is chosen and leased, or waited for; the body goes
//! to it through its hive, and the answer comes back as it arrives. Whether a worker must be started first is
//! `placement`'s business, which one is best is `scheduler`'s. HTTP paths, authentication and error statuses are
//! `http-api`'s.
//!
//! The commit point is the first byte of the worker's answer. Before it, any failure moves the request to another worker
//! and the client sees nothing of it; after it, the answer ends complete or with an explicit error. An answer of
//! `/v1/infer` is gone on with by another worker of the same model instead, from the text that was delivered.
//!
//! Invariants:
//! - a request is sent at most [`MAX_ATTEMPTS`] times; what no worker saw of it is no attempt;
//! - all requests together are sent again a fifth of the time at most, what was on a worker that died apart;
//! - the bytes of one answer come from one worker, or from a second one that goes on exactly behind the first; an event
//!   stream counts as complete only with its terminator;
//! - one request has exactly one `request_ended` event, whichever way it ends;
//! - the lease lives in the answer's body, so a slot is freed exactly once, however the answer ends;
//! - dropping the answer drops the connection to the hive, which cancels the generation;
//! - every wait has a bound, and an error of its own.

mod answer;
mod attempt;
mod backend;
mod budget;
mod chunk;
mod completion;
mod continuable;
mod desk;
mod ending;
mod engine;
mod error;
mod frames;
mod infer;
mod job;
mod relay;
mod route;
mod scan;
mod seam;
mod terminator;
mod usage;

pub use answer::{Answer, AnswerBody, BodyError};
pub use backend::names;
pub use continuable::Continuable;
pub use error::RouteError;
pub use frames::continued;
pub use infer::infer;
pub use job::{Job, Payload, Terms, Waiting};
pub use route::{MAX_ATTEMPTS, Parts, Router, Settings};
pub use scan::{Scan, ScanError, scan, with_model};
pub use scheduler::Priority;
