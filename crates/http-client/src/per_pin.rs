//! One client for each certificate.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet::TlsFingerprint;

use crate::Trust;

/// A client that nobody asked for this long goes when the next one is made. Every launch of a hive has a certificate of its
/// own, so old ones never come back.
const UNUSED: Duration = Duration::from_secs(600);

/// Clients, and with them their connections, apart by the certificate that they accept.
pub struct PerPin<T> {
    plain: T,
    make: Box<dyn Fn(Trust) -> T + Send + Sync>,
    pinned: Mutex<HashMap<TlsFingerprint, Used<T>>>,
}

struct Used<T> {
    client: T,
    at: Instant,
}

impl<T> fmt::Debug for PerPin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerPin").field("pins", &self.locked().len()).finish_non_exhaustive()
    }
}

impl<T> PerPin<T> {
    fn locked(&self) -> MutexGuard<'_, HashMap<TlsFingerprint, Used<T>>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> PerPin<T> {
    /// Makes clients as they are needed; the one for plain HTTP at once.
    pub fn new(make: impl Fn(Trust) -> T + Send + Sync + 'static) -> Self {
        Self { plain: make(Trust::Nobody), make: Box::new(make), pinned: Mutex::default() }
    }

    /// The client for this certificate, or the one for plain HTTP.
    pub fn of(&self, pin: Option<TlsFingerprint>) -> T {
        let Some(pin) = pin else { return self.plain.clone() };
        let now = Instant::now();
        let mut pinned = self.locked();
        if let Some(used) = pinned.get_mut(&pin) {
            used.at = now;
            return used.client.clone();
        }
        pinned.retain(|_, used| now.duration_since(used.at) < UNUSED);
        let client = (self.make)(Trust::Pinned(pin));
        pinned.insert(pin, Used { client: client.clone(), at: now });
        client
    }
}
