//! The accept loop that every process of the fleet serves HTTP with.
//!
//! It puts an [`axum::Router`], or any other service of hyper's, on a listener and adds what a stock server lacks: a time and a size bound for request
//! heads, a bound for idle connections and for clients that take nothing, a pause instead of a busy loop when file descriptors run out, and a shutdown that
//! ends by a deadline however many event streams are open. It knows nothing of routes and authentication; a transport
//! between socket and HTTP is put in with [`Server::transport`]. One is here, as the feature `tls`: a certificate that the
//! process makes itself and whose fingerprint it tells its clients.
//!
//! Invariants:
//! - a connection that sends no complete request head within [`Limits::head`] is closed, however slowly it drips;
//! - a connection whose client takes nothing of its answer for [`Limits::write`] is closed, and its answer dropped;
//! - [`Server::run`] returns at the latest `grace` after shutdown began, and no connection task outlives it.

mod awaited;
mod limits;
mod server;
mod stall;
#[cfg(feature = "tls")]
mod tls;

pub use limits::Limits;
pub use server::{Server, Shutdown, bind};
#[cfg(feature = "tls")]
pub use tls::{Identity, IdentityError};
