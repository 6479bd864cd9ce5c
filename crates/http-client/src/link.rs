//! One open connection and the exchange on it, driven by whoever waits for the answer.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, response::Parts};
use http_body::Body;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::{
    transport::Transport,
    wire::{self, Broken, Head, Preface, Rest, Upload},
};

/// What a request's body must be.
pub trait Outgoing:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static
{
}

impl<B> Outgoing for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static
{
}

/// How much is read at once at first, in bytes: many tokens, while thousands of streams are open.
const READ_LEAST: usize = 1000;

/// How much is read at once of what comes faster than it is read, in bytes.
const READ_MOST: usize = 64 * 1024;

/// An open connection.
pub(crate) struct Link<B: Outgoing> {
    io: Transport,
    /// Of the last request.
    method: Method,
    /// What came and was not handed on.
    came: BytesMut,
    /// How much is read at once.
    read: usize,
    /// What of the request is not written.
    upload: Option<Upload<B>>,
    /// Why it could not be written.
    unsent: Option<Broken>,
    /// Room for the next head.
    room: Vec<u8>,
    /// What of the answer is missing.
    rest: Rest,
    /// Whether the peer lets another request follow, and this one was sent whole.
    is_kept: bool,
}

impl<B: Outgoing> Link<B> {
    pub(crate) fn new(io: Transport) -> Self {
        let (came, room) = (BytesMut::new(), Vec::new());
        let (upload, unsent, rest) = (None, None, Rest::NONE);
        Self { io, method: Method::GET, came, read: READ_LEAST, upload, unsent, room, rest, is_kept: true }
    }

    /// Begins with a request. Until its answer has ended the connection is of no use to anybody else.
    pub(crate) fn begin(&mut self, preface: &Preface, own: Option<(&HeaderName, &HeaderValue)>, body: B) {
        (self.is_kept, self.unsent, self.method) = (false, None, preface.method().clone());
        self.upload = Some(Upload::new(std::mem::take(&mut self.room), preface, own, body));
    }

    /// Sends the request, and is ready with the head of the answer.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Parts, Broken>> {
        if self.upload.is_some() {
            match self.poll_upload(cx) {
                // The peer waits for the rest, so nobody waits for the peer.
                Poll::Ready(Err(error @ Broken::Body(_))) => return Poll::Ready(Err(error)),
                // A peer that refuses a request may close the connection on it, and its reason is on its way.
                Poll::Ready(Err(error)) => (self.unsent, self.upload) = (Some(error), None),
                _ => {}
            }
        }
        loop {
            if let Some(Head { parts, rest, is_kept }) = wire::head(&mut self.came, &self.method)? {
                (self.rest, self.is_kept) = (rest, is_kept && self.unsent.is_none());
                return Poll::Ready(Ok(parts));
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Err(self.unsent.take().unwrap_or(Broken::Closed))),
                Err(error) => return Poll::Ready(Err(self.unsent.take().unwrap_or(error))),
            }
        }
    }

    /// The next piece of the answer; none at its end.
    pub(crate) fn piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if self.upload.is_some()
            && let Poll::Ready(Err(error)) = self.poll_upload(cx)
        {
            (self.upload, self.is_kept) = (None, false);
            // Whoever ends a request early refuses it, and says why; but what was not asked whole is not answered whole.
            if matches!(error, Broken::Body(_)) {
                return Poll::Ready(Some(Err(self.gone(error))));
            }
        }
        loop {
            match self.rest.piece(&mut self.came) {
                Ok(None) if self.rest.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Err(error) => return Poll::Ready(Some(Err(self.gone(error)))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) if matches!(self.rest, Rest::UntilClosed) => {
                    self.rest = Rest::NONE;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(self.gone(Broken::Closed)))),
                Err(error) => return Poll::Ready(Some(Err(self.gone(error)))),
            }
        }
    }

    /// Nothing more is expected of it.
    fn gone(&mut self, why: Broken) -> Broken {
        (self.rest, self.is_kept) = (Rest::NONE, false);
        why
    }

    /// What of the answer is missing.
    pub(crate) const fn rest(&self) -> &Rest {
        &self.rest
    }

    /// Whether the next request may be sent. From here on nobody is woken by it.
    pub(crate) fn is_free(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        // What comes unasked belongs to no answer, and a peer that closes wants nothing more.
        self.is_kept
            && self.upload.is_none()
            && self.rest.is_over()
            && self.came.is_empty()
            && self.poll_read(cx).is_pending()
    }

    /// Whether the peer neither sent anything nor closed it, as the system knows it now: what [`Link::is_free`] is told may be
    /// older.
    pub(crate) fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(upload) = &mut self.upload else { return Poll::Ready(Ok(())) };
        let more = loop {
            let more = upload.poll_more(cx)?;
            if more != Poll::Ready(true) {
                break more;
            }
            if ready!(poll_write_buf(Pin::new(&mut self.io), cx, upload))? == 0 {
                return Poll::Ready(Err(Broken::Io(std::io::ErrorKind::WriteZero.into())));
            }
        };
        // TLS may hold what it took. That does not wait for more of the body.
        ready!(tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.io), cx))?;
        ready!(more);
        self.room = self.upload.take().map(Upload::into_buffer).unwrap_or_default();
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        // Pieces that were handed on may still be held; where they are not, this is the same room again.
        if self.came.capacity() - self.came.len() < self.read / 4 {
            self.came.reserve(self.read);
        }
        let room = self.came.capacity() - self.came.len();
        let length = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.came))?;
        self.read = if length == room { (self.read * 2).min(READ_MOST) } else { READ_LEAST };
        Poll::Ready(Ok(length))
    }
}
