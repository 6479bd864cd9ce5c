//! The queen's HTTP surface through a real socket, over scripted hives.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod bodies;
mod hives;
mod infer;
mod leaving;
mod models;
mod openai;
mod operations;
mod rig;
mod routes;
