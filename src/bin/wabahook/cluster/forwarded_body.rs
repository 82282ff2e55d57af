//! The body of an answer of another host. That host may stop in the middle of it, and its connection then stays open, so
//! the body ends with an error when it is given up.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::sleep;

/// How long the rest of a body may take after the request was given up: a host that hands its shard over in order still
/// sends what it has answered.
const REST_MAX: Duration = Duration::from_secs(1);

/// Ends when a request to another host is given up.
pub(super) type GivenUp = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(super) struct ForwardedBody {
    body: Body,
    given_up: GivenUp,
}

impl ForwardedBody {
    pub(super) fn new(body: Body, given_up: GivenUp) -> ForwardedBody {
        let given_up = async {
            given_up.await;
            sleep(REST_MAX).await;
        };
        ForwardedBody { body, given_up: Box::pin(given_up) }
    }
}

impl HttpBody for ForwardedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        self.given_up.as_mut().poll(context).map(|()| {
            self.body = Body::empty();
            Some(Err(Error::new("the host that answers went away")))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    // A host that stopped keeps its connection open: without the error the body would never end.
    #[tokio::test]
    async fn a_body_ends_with_an_error_when_it_is_given_up() {
        let (lines, receiver) = tokio::sync::mpsc::channel(2);
        let body = Body::new(crate::routes::LineBody(receiver));
        lines.send(Bytes::from_static(b"sent before\n")).await.unwrap();
        let mut body = Body::new(ForwardedBody::new(body, Box::pin(ready(()))));
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let first = next().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "sent before\n");
        let error = next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("went away"), "{error}");
    }

    #[tokio::test]
    async fn a_body_that_arrives_is_passed_on() {
        let body = Body::new(ForwardedBody::new(Body::from("whole"), Box::pin(pending())));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(axum::body::to_bytes(body, 9).await.unwrap(), "whole");
    }
}
