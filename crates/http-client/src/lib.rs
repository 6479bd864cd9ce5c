//! Connections out: how every process of the fleet reaches another one, or a hub.
//!
//! It says whom a connection may trust ([`Trust`]) and gives that to both HTTP clients in use: a [`Pool`] of connections,
//! where bodies are relayed, and a `builder` for reqwest, where calls are made. A hive's certificate is self-made and new with each
//! launch, so nobody vouches for it: it is compared with the fingerprint that came by another way, and the handshake proves
//! that whoever shows it has its key. Names and dates in it mean nothing.
//!
//! The pool speaks HTTP/1.1 itself, over httparse. hyper's client has a task's worth of channels between the two ends of each
//! connection and room for 32 requests, as it must for whoever sends from one task and reads in another. Here one task does both:
//! without them a relayed request costs an eighth less, and an open stream two thirds of the memory.
//!
//! The key decision: a client is made for one pin ([`PerPin`]) and knows no other. So connections that were opened for one
//! certificate are never used for another, even at the same address.
//!
//! Invariants:
//! - with a pin, nothing is sent before the certificate was the pinned one, and plain HTTP is refused;
//! - without one, only public certificates count, or none at all; a hive is never reached over a certificate that was not pinned;
//! - no environment proxy and no redirect is followed, nothing is decompressed;
//! - what could be cut into answers in two ways is none, and a connection with anything behind its answer is not used again.

mod connector;
mod link;
mod per_pin;
mod pool;
#[cfg(feature = "reqwest")]
mod requests;
mod transport;
mod trust;
mod wire;

pub use connector::Connector;
pub use link::Outgoing;
pub use per_pin::PerPin;
pub use pool::{Exchange, ExchangeError, Open, Peer, Pool, Received};
#[cfg(feature = "reqwest")]
pub use requests::builder;
pub use trust::{Trust, WrongCertificate, wrong_certificate};
pub use wire::{Broken, Preface};
