//! The bytes of a client's connection, with bounds that hyper does not have: the head of a request must be whole a while
//! after its first byte, hyper gets no more of a head than [`HEAD_BYTES_MAX`], and a client must take what is written
//! to it.

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

/// The longest head of a request.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a head is read at once.
const HEAD_PIECE_BYTES: usize = 4 * 1024;

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
    bytes: usize,
}

impl<S> TimedStream<S> {
    pub(super) fn new(
        stream: S,
        connection: Arc<ClientConnection>,
        head_timeout: Duration,
    ) -> TimedStream<S> {
        TimedStream { stream, connection, head_timeout, head: None, write: None }
    }

    /// The result of a write; in place of `pending`, an error once the client took nothing for too long.
    fn unless_stalled<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let sleep = self.write.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL_MAX)));
        sleep.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> TimedStream<S> {
    /// Reads a part of a head. hyper refuses a head that fills its buffer of [`HEAD_BYTES_MAX`], but would read far
    /// beyond it before.
    fn read_head(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let left = HEAD_BYTES_MAX.saturating_sub(self.head.as_ref().map_or(0, |head| head.bytes));
        let most = left.clamp(1, HEAD_PIECE_BYTES).min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.stream).poll_read(context, &mut piece);
        let count = piece.filled().len();
        buffer.advance(count);
        read.map_ok(|()| count)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let requests = this.connection.requests();
        this.head = this.head.take().filter(|head| head.requests == requests);
        if this.connection.is_in_request() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        match this.read_head(context, buffer) {
            Poll::Ready(Ok(count)) if count > 0 => {
                let timeout = this.head_timeout;
                let head = this.head.get_or_insert_with(|| PendingHead {
                    requests,
                    deadline: Box::pin(tokio::time::sleep(timeout)),
                    bytes: 0,
                });
                head.bytes += count;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(read) => Poll::Ready(read.map(drop)),
            Poll::Pending => match &mut this.head {
                Some(head) => {
                    head.deadline.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
                }
                None => Poll::Pending,
            },
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
        this.unless_stalled(context, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.unless_stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.unless_stalled(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
