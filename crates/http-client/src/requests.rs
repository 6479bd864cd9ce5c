//! Clients of reqwest.

use reqwest::redirect;

use crate::Trust;

/// A reqwest client that trusts as told, asks no proxy and follows no redirect. Bounds are the caller's.
///
/// Every reqwest client is begun here: one without a named TLS provider ends the program when it is built.
#[expect(clippy::disallowed_methods, reason = "the one place that begins with the bare builder")]
pub fn builder(trust: Trust) -> reqwest::ClientBuilder {
    let redirects = if planted::bug("follows-redirects") {
        redirect::Policy::limited(3)
    } else {
        redirect::Policy::none()
    };
    let begun = reqwest::Client::builder();
    let begun = if planted::bug("asks-a-proxy") { begun } else { begun.no_proxy() };
    begun
        .tls_backend_preconfigured(trust.config())
        .https_only(matches!(trust, Trust::Pinned(_)))
        .redirect(redirects)
        .tcp_nodelay(true)
}
