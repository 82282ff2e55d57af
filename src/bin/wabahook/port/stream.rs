//! The bytes of a client's connection, with two deadlines that hyper does not have: the head of a request must be
//! whole a while after its first byte, and a client must take what is written to it.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::connections::ClientConnection;

/// How long a client may go without reading its response.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// A stream that fails when a deadline passes.
pub(super) struct TimedStream<S> {
    stream: S,
    connection: Arc<ClientConnection>,
    head_timeout: Duration,
    /// While a head has begun and is not whole.
    head: Option<PendingHead>,
    /// While the client takes nothing.
    write: Option<Pin<Box<Sleep>>>,
}

/// The head of a request, from its first byte.
struct PendingHead {
    /// How many requests the connection had before.
    requests: u64,
    deadline: Pin<Box<Sleep>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(
        stream: S,
        connection: Arc<ClientConnection>,
        head_timeout: Duration,
    ) -> TimedStream<S> {
        TimedStream { stream, connection, head_timeout, head: None, write: None }
    }

    /// `pending`, or an error once the client took nothing for too long.
    fn stalled<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let sleep = self.write.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
        sleep.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let requests = this.connection.requests();
        this.head = this.head.take().filter(|head| head.requests == requests);
        let has_read = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() > before;
        if has_read && this.head.is_none() && !this.connection.is_in_request() {
            let deadline = Box::pin(tokio::time::sleep(this.head_timeout));
            this.head = Some(PendingHead { requests, deadline });
        }
        match &mut this.head {
            Some(head) if read.is_pending() => {
                head.deadline.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        if written.is_pending() {
            return this.stalled(context);
        }
        this.write = None;
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        if written.is_pending() {
            return this.stalled(context);
        }
        this.write = None;
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        if flushed.is_pending() {
            return this.stalled(context);
        }
        this.write = None;
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
