//! The memory of responses that their clients have not read yet. A client may read slowly, or not at all for a while,
//! and its response waits in memory. So large responses have a room, as bodies have, of which one account gets half.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

use super::body_room::{BodyHolder, BodyRoom, BodyShare, WhenFull};
use crate::http_error::HttpError;

/// All responses together.
const ROOM_BYTES: usize = 256 * 1024 * 1024;
/// What is handed to the connection at once. A response that is no longer than this takes no room.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub(crate) struct ResponseRoom(BodyRoom);

impl Default for ResponseRoom {
    fn default() -> ResponseRoom {
        ResponseRoom(BodyRoom::new(ROOM_BYTES, ROOM_BYTES / 2, WhenFull::Refuse))
    }
}

/// A response body that gives its room back when all of it was handed to the connection.
struct RoomedBody {
    rest: Bytes,
    _share: BodyShare,
}

impl ResponseRoom {
    /// The response, or a refusal where there is no room for it. A stream has no length and takes none.
    pub(crate) async fn admit(&self, holder: BodyHolder, response: Response) -> Response {
        let length = response.body().size_hint().exact().unwrap_or(0);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length <= PIECE_BYTES {
            return response;
        }
        let mut share = self.0.open(holder);
        if !share.grow_to(length) {
            let message =
                "the client has too many large responses that it did not read; ask for fewer items";
            return HttpError::busy(message).into_response();
        }
        let (parts, body) = response.into_parts();
        // All of it is there already, so nothing is waited for or copied.
        let rest = to_bytes(body, length).await.unwrap_or_default();
        Response::from_parts(parts, Body::new(RoomedBody { rest, _share: share }))
    }
}

impl HttpBody for RoomedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rest = &mut self.get_mut().rest;
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Poll::Ready((!piece.is_empty()).then_some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn large(bytes: usize) -> Response {
        vec![b'x'; bytes].into_response()
    }

    fn account(name: &str) -> BodyHolder {
        BodyHolder::Account(name.to_owned())
    }

    #[tokio::test]
    async fn one_account_leaves_room_to_the_others() {
        let room = ResponseRoom(BodyRoom::new(800_000, 400_000, WhenFull::Refuse));
        let unread = room.admit(account("noisy"), large(300_000)).await;
        let refused = room.admit(account("noisy"), large(300_000)).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let quiet = room.admit(account("quiet"), large(300_000)).await;
        assert_eq!(quiet.status(), StatusCode::OK);
        assert_eq!(quiet.body().size_hint().exact(), Some(300_000));
        assert_eq!(to_bytes(quiet.into_body(), 300_000).await.unwrap(), vec![b'x'; 300_000]);
        let small = room.admit(account("noisy"), large(PIECE_BYTES)).await;
        assert_eq!(small.status(), StatusCode::OK, "takes no room");
        drop(unread);
        assert_eq!(room.admit(account("noisy"), large(300_000)).await.status(), StatusCode::OK);
    }
}
