//! One open connection and the exchange on it, driven by whoever waits for the answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{Builder, Connection, SendRequest},
    },
};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What a connection speaks through.
pub(crate) type Transport = MaybeHttpsStream<TokioIo<TcpStream>>;

/// What a request's body must be.
pub trait Outgoing:
    Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static
{
}

impl<B> Outgoing for B where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static
{
}

/// How much is read at once, in bytes: many tokens, while thousands of streams are open.
const READ_BUFFER: usize = 2048;

/// An open connection.
pub(crate) struct Link<B: Outgoing> {
    sender: SendRequest<B>,
    /// None once it has ended.
    connection: Option<Connection<Transport, B>>,
    alarm: Arc<Alarm>,
    /// The alarm once more, as what a connection wakes.
    waker: Waker,
}

impl<B: Outgoing> Link<B> {
    pub(crate) async fn open(io: Transport) -> hyper::Result<Self> {
        let (sender, connection) =
            Builder::new().read_buf_exact_size(Some(READ_BUFFER)).handshake(io).await?;
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(Arc::clone(&alarm));
        Ok(Self { sender, connection: Some(connection), alarm, waker })
    }

    /// Sends a request and waits for the head of its answer. Dropping this leaves a connection that nobody may use any more.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let Self { connection, alarm, waker, .. } = self;
        std::future::poll_fn(|cx| {
            alarm.while_driven(cx, || {
                poll(connection, waker);
                answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })
        })
        .await
    }

    /// The next piece of an answer on this connection.
    pub(crate) fn piece(
        &mut self,
        incoming: &mut Incoming,
        cx: &Context<'_>,
    ) -> Poll<Option<hyper::Result<http_body::Frame<bytes::Bytes>>>> {
        let Self { connection, alarm, waker, .. } = self;
        let mut ask = || Pin::new(&mut *incoming).poll_frame(&mut Context::from_waker(Waker::noop()));
        alarm.while_driven(cx, || {
            let there = ask();
            if there.is_ready() {
                return there;
            }
            poll(connection, waker);
            ask()
        })
    }

    /// Whether the next request may be sent. From here on nobody is woken by it.
    pub(crate) fn is_free(&mut self) -> bool {
        poll(&mut self.connection, Waker::noop());
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Lets a connection write and read. One that has ended is dropped, which tells its exchange.
fn poll<B: Outgoing>(connection: &mut Option<Connection<Transport, B>>, waker: &Waker) {
    if let Some(open) = connection
        && Pin::new(open).poll(&mut Context::from_waker(waker)).is_ready()
    {
        // What broke it was told to the exchange, if there is one.
        *connection = None;
    }
}

/// Wakes the task that drives a connection. What the two ends of a connection within a process tell each other while
/// they are driven needs no task to be woken: whoever drives them looks again.
#[derive(Debug, Default)]
struct Alarm {
    task: AtomicWaker,
    state: AtomicU8,
}

const IDLE: u8 = 0;
const DRIVEN: u8 = 1;
const AGAIN: u8 = 2;

impl Alarm {
    /// Asks until there is an answer, or nothing happens any more; then an alarm wakes the task.
    fn while_driven<T>(&self, cx: &Context<'_>, mut ask: impl FnMut() -> Poll<T>) -> Poll<T> {
        self.task.register(cx.waker());
        loop {
            self.state.store(DRIVEN, Ordering::Release);
            let answer = ask();
            if answer.is_ready() {
                self.state.store(IDLE, Ordering::Release);
                return answer;
            }
            if self.state.compare_exchange(DRIVEN, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Poll::Pending;
            }
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let seen = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state != IDLE).then_some(AGAIN));
        if seen.is_err() {
            self.task.wake();
        }
    }
}
