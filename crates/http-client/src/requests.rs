//! Clients of reqwest.

use crate::Trust;

/// A reqwest client that trusts as told, asks no proxy and follows no redirect. Bounds are the caller's.
///
/// Every reqwest client is begun here: one without a named TLS provider ends the program when it is built.
#[expect(clippy::disallowed_methods, reason = "the one place that begins with the bare builder")]
pub fn builder(trust: Trust) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trust.config())
        .https_only(matches!(trust, Trust::Pinned(_)))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
}
