//! Connections that are kept open between requests.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, Uri, header,
    uri::{Authority, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use tokio::{runtime::Handle, time::sleep};
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::{
    Connector,
    link::{Link, Outgoing},
    wire::{Broken, Preface},
};

const ONCE: &str = "an exchange is not polled after it was ready";

/// How many times unused connections are looked through before one of them has been unused for too long.
const ROUNDS: u32 = 10;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No connection could be opened, so nothing was sent.
    #[error("could not connect")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke, or what came back is not HTTP.
    #[error("the connection failed")]
    Broke(#[source] Broken),
}

impl ExchangeError {
    /// Whether there was no connection.
    #[must_use]
    pub const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }
}

/// HTTP/1.1 connections to any number of peers. Each is driven by the task that waits for its answer, so that a piece of it
/// takes one wake-up from socket to socket. Clones share them.
pub struct Pool<B: Outgoing>(Arc<Shared<B>>);

struct Shared<B: Outgoing> {
    connector: Connector,
    keep: Duration,
    idle: Mutex<Idle<B>>,
    /// The task that closes what is not used; it ends by itself.
    sweeping: TaskTracker,
}

/// Whom a connection leads to, and whether through TLS. Clones are the same peer.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Address>);

#[derive(Debug)]
struct Address {
    uri: Uri,
    is_tls: bool,
    authority: Authority,
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        // As it is written: a name in other letters has connections of its own.
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.is_tls == other.0.is_tls && self.0.authority.as_str() == other.0.authority.as_str())
    }
}

impl Peer {
    /// Whoever is at a URI, of which scheme and authority count; none if it has no authority.
    #[must_use]
    pub fn of(uri: Uri) -> Option<Self> {
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority()?.clone();
        Some(Self(Arc::new(Address { uri, is_tls, authority })))
    }
}

/// What `Host` says of a peer: neither who asks (RFC 9110, 7.2) nor the port that goes without saying.
fn host(peer: &Uri) -> Option<HeaderValue> {
    let usual = if peer.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let name = peer.host()?;
    let host = match peer.port_u16() {
        Some(port) if port != usual => HeaderValue::try_from(format!("{name}:{port}")),
        _ => HeaderValue::from_str(name),
    };
    host.ok()
}

/// Connections to one peer, and since which round each is unused.
type Unused<B> = VecDeque<(u64, Box<Link<B>>)>;

struct Idle<B: Outgoing> {
    /// Peers with their connections, the longest unused first. There are few, so they are looked through.
    links: Vec<(Peer, Unused<B>)>,
    /// Whether a task closes what is not used.
    is_swept: bool,
    /// How many times it has looked: requests are spared the clock.
    round: u64,
}

impl<B: Outgoing> Idle<B> {
    fn of(&mut self, peer: &Peer) -> Option<&mut Unused<B>> {
        self.links.iter_mut().find_map(|(of, links)| (of == peer).then_some(links))
    }
}

impl<B: Outgoing> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Outgoing> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("peers", &self.0.idle().links.len()).finish_non_exhaustive()
    }
}

impl<B: Outgoing> Pool<B> {
    /// Opens connections as they are needed and keeps each for `keep` after its last answer. With zero each request has one of
    /// its own.
    #[must_use]
    pub fn new(connector: Connector, keep: Duration) -> Self {
        let idle = Mutex::new(Idle { links: Vec::new(), is_swept: false, round: 0 });
        Self(Arc::new(Shared { connector, keep, idle, sweeping: TaskTracker::new() }))
    }

    /// Sends a request to where its URI says.
    ///
    /// # Errors
    /// [`ExchangeError`]; dropping the future closes the connection.
    pub async fn request(&self, request: Request<B>) -> Result<Response<Received<B>>, ExchangeError> {
        let (mut head, body) = request.into_parts();
        if let Some(host) = host(&head.uri) {
            head.headers.entry(header::HOST).or_insert(host);
        }
        let preface = Preface::new(head.method, &head.uri, &head.headers);
        let peer =
            Peer::of(head.uri).ok_or_else(|| ExchangeError::Connect("the URI names no host".into()))?;
        self.open(&peer).await?.send(&preface, None, body).await
    }

    /// A connection for the next request to a peer: one that is kept, or a new one.
    ///
    /// # Errors
    /// [`ExchangeError::Connect`].
    pub async fn open(&self, peer: &Peer) -> Result<Open<B>, ExchangeError> {
        let link = match self.0.take(peer) {
            Some(link) => link,
            None => self.0.connect(peer).await?,
        };
        Ok(Open(Received { link: Some(link), pool: Arc::downgrade(&self.0), peer: peer.clone() }))
    }
}

/// A connection on which nothing is under way. Dropping it keeps it for another request.
#[derive(Debug)]
pub struct Open<B: Outgoing>(Received<B>);

impl<B: Outgoing> Open<B> {
    /// Sends a request. The preface goes as it is, `Host` included, and behind it a header of this request's own.
    #[must_use]
    pub fn send(
        mut self,
        preface: &Preface,
        own: Option<(&HeaderName, &HeaderValue)>,
        body: B,
    ) -> Exchange<B> {
        if let Some(link) = &mut self.0.link {
            link.begin(preface, own, body);
        }
        Exchange(Some(self.0))
    }
}

/// A request under way: the head of its answer, or why there is none. Dropping it closes the connection.
#[derive(Debug)]
pub struct Exchange<B: Outgoing>(Option<Received<B>>);

impl<B: Outgoing> Future for Exchange<B> {
    type Output = Result<Response<Received<B>>, ExchangeError>;

    /// # Panics
    /// If it is polled after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = &mut self.get_mut().0;
        let link = received.as_mut().and_then(|received| received.link.as_mut());
        let head = ready!(link.expect(ONCE).poll_head(cx)).map_err(ExchangeError::Broke);
        let received = received.take().expect(ONCE);
        Poll::Ready(head.map(|head| Response::from_parts(head, received)))
    }
}

impl<B: Outgoing> Shared<B> {
    fn idle(&self) -> MutexGuard<'_, Idle<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, peer: &Peer) -> Result<Box<Link<B>>, ExchangeError> {
        let io = self.connector.clone().call(peer.0.uri.clone()).await.map_err(ExchangeError::Connect)?;
        Ok(Box::new(Link::new(io.into())))
    }

    /// The connection that was used last and is open, as far as anybody knows here.
    fn take(&self, peer: &Peer) -> Option<Box<Link<B>>> {
        loop {
            let mut idle = self.idle();
            let round = idle.round;
            let (since, mut link) = idle.of(peer)?.pop_back()?;
            drop(idle);
            // One that was used a moment ago need not be asked for its end once more.
            if link.is_free() && (since == round || link.is_quiet()) {
                return Some(link);
            }
        }
    }

    fn put(self: &Arc<Self>, peer: &Peer, link: Box<Link<B>>) {
        // An answer may be dropped anywhere, but only a runtime closes what is not used.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut idle = self.idle();
        let kept = (idle.round, link);
        match idle.of(peer) {
            Some(links) => links.push_back(kept),
            None => idle.links.push((peer.clone(), VecDeque::from([kept]))),
        }
        if !idle.is_swept {
            idle.is_swept = true;
            self.sweeping.spawn_on(sweep(Arc::downgrade(self), self.keep), &runtime);
        }
    }

    /// Closes what was not used, and says whether anything is left.
    fn sweep(&self) -> bool {
        let mut unused = Vec::new();
        let mut idle = self.idle();
        idle.round += 1;
        let round = idle.round;
        idle.links.retain_mut(|(_, links)| {
            let young = links.iter().position(|(since, _)| since + u64::from(ROUNDS) > round);
            unused.extend(links.drain(..young.unwrap_or(links.len())));
            !links.is_empty()
        });
        idle.is_swept = !idle.links.is_empty();
        idle.is_swept
    }
}

/// Closes unused connections while there are any.
async fn sweep<B: Outgoing>(pool: Weak<Shared<B>>, keep: Duration) {
    loop {
        // So none is older than a tenth more when it is used.
        sleep(keep / ROUNDS).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

/// The body of an answer. At its end the connection is kept for the next request; dropped before, it is closed, which tells
/// the peer that nobody waits any more.
pub struct Received<B: Outgoing> {
    /// None when it is given back.
    link: Option<Box<Link<B>>>,
    pool: Weak<Shared<B>>,
    peer: Peer,
}

impl<B: Outgoing> fmt::Debug for Received<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<B: Outgoing> Received<B> {
    fn give_back(&mut self) {
        let (Some(mut link), Some(pool)) = (self.link.take(), self.pool.upgrade()) else { return };
        if !pool.keep.is_zero() && link.is_free() {
            pool.put(&self.peer, link);
        }
    }
}

impl<B: Outgoing> Body for Received<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        let Some(link) = &mut this.link else { return Poll::Ready(None) };
        let piece = ready!(link.piece(cx));
        if piece.is_none() {
            this.give_back();
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.rest().is_over())
    }

    fn size_hint(&self) -> SizeHint {
        let exact = self.link.as_ref().map_or(Some(0), |link| link.rest().exact());
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<B: Outgoing> Drop for Received<B> {
    fn drop(&mut self) {
        // Whoever knows the length of an answer does not ask for its end.
        if self.is_end_stream() {
            self.give_back();
        }
    }
}
