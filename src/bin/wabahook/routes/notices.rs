//! `GET /notices`: a stream of JSON lines about the caller's own deliveries and subscriptions and about
//! the engine as a whole, for as long as the caller listens. An account gets only its own notices, and of
//! the engine nothing that names this machine (I9). Each listener has a bounded ring (I10), and one that
//! went away is noticed within [`KEEP_ALIVE`]. A stream ends with the key that opened it: nothing is sent once
//! that is not valid any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use hyper::body::Frame;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use wabahook::clock::{Clock, SystemClock};
use wabahook::{Engine, Notice, Notices, SubscriptionId};

use crate::caller::Caller;
use crate::host::{HostRef, HostState};
use crate::http_error::RouteResult;
use crate::json::{NoticeJson, TimestampJson};

/// How long without a notice until an empty line is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many lines may wait for a slow listener, in addition to its ring.
const LINES_MAX: usize = 16;

/// `GET /notices`.
pub(crate) async fn stream(host: HostRef, caller: Caller, request: Request) -> RouteResult {
    let bounds = caller.scope().map(|account| host.engine.account_usage(account).bounds);
    let most = bounds.map_or(0, |bounds| bounds.notice_listeners_max);
    let permit = host.shared.listeners.admit(&caller, ("notice_listeners_max", most))?;
    let (sender, lines) = channel(LINES_MAX);
    let notices = host.engine.notices();
    let mut parts = request.into_parts().0;
    // Its connection may end before the stream does.
    parts.extensions.clear();
    tokio::spawn(async move {
        listen(&host, (&caller, &parts), &notices, &sender).await;
        drop(permit);
    });
    let headers =
        [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(LineBody(lines))).into_response())
}

/// Sends lines until the listener goes away, its key is not valid any more, or the host stops.
async fn listen(
    host: &HostState,
    (caller, parts): (&Caller, &Parts),
    notices: &Notices,
    to: &Sender<Bytes>,
) {
    let is_valid = || host.shared.caller(host.engine.accounts(), parts).is_ok();
    let (clock, mut notice_count) = (SystemClock::new(), host.shared.notice_count.subscribe());
    // Sent at once, so that the caller knows that it misses nothing from now on.
    let mut line = Some(Bytes::from_static(b"\n"));
    loop {
        if let Some(line) = line.take()
            && (!is_valid() || to.send(line).await.is_err())
        {
            return;
        }
        line = match notices.try_next() {
            Some(notice) => line_of(&host.engine, caller, &notice, clock.wall_ms()),
            None if !host.is_serving() => return,
            None => match tokio::time::timeout(KEEP_ALIVE, notice_count.changed()).await {
                Ok(Ok(())) => None,
                Ok(Err(_)) => return,
                Err(_) => Some(Bytes::from_static(b"\n")),
            },
        };
    }
}

/// The line of a notice; `None` where it is not the caller's.
fn line_of(engine: &Engine, caller: &Caller, notice: &Notice, wall_ms: u64) -> Option<Bytes> {
    let (at, kind) = (TimestampJson(wall_ms), notice.kind().to_owned());
    let mut line = NoticeJson { at, kind, ..NoticeJson::default() };
    let subscription = match notice {
        Notice::DeadLettered { event, subscription, reason } => {
            line.event_id = Some(event.to_string());
            line.reason = Some(reason.to_string());
            Some(subscription)
        }
        Notice::Disabled { subscription, reason } => {
            line.reason = Some(reason.to_string());
            Some(subscription)
        }
        Notice::DeadLettersDropped { account, letters } if caller.sees(account) => {
            line.count = Some(*letters);
            None
        }
        // Their account is not known any more; `/stats` counts them.
        Notice::Cancelled { .. } | Notice::Held { .. } => return None,
        Notice::Lagged(count) => {
            // Those of all accounts.
            line.count = caller.scope().is_none().then_some(*count);
            None
        }
        Notice::BoundReached { bound } => {
            line.reason = Some(bound.to_string());
            None
        }
        // Their texts may name paths of this machine.
        Notice::Stalled { .. }
        | Notice::Resumed
        | Notice::Unreplicated { .. }
        | Notice::NotOwner
        | Notice::Poisoned { .. } => None,
        // Only the operator's log on stderr has these.
        _ => return None,
    };
    if let Some(SubscriptionId(id)) = subscription {
        let registered = engine.subscription(SubscriptionId(*id));
        registered.filter(|registered| caller.sees(&registered.account))?;
        line.subscription = Some(*id);
    }
    let mut bytes = serde_json::to_vec(&line).ok()?;
    bytes.push(b'\n');
    Some(bytes.into())
}

/// A response body that sends lines as they come.
pub(crate) struct LineBody(pub(crate) Receiver<Bytes>);

impl hyper::body::Body for LineBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use wabahook::store::Memory;
    use wabahook::{Account, Config, Reason, Subscription};

    fn engine() -> Engine {
        let config = Config::new("memory")
            .store(Arc::new(Memory::default()))
            .account(Account::new("acme"))
            .account(Account::new("beta"));
        let engine = Engine::open(config).unwrap();
        for account in ["acme", "beta"] {
            let to = Subscription::to("https://crm.example/hook").unwrap();
            engine.subscribe(to.account(account).name("crm")).unwrap();
        }
        engine
    }

    #[test]
    fn an_account_gets_its_own_notices_and_no_paths() {
        let engine = engine();
        let disabled =
            |id| Notice::Disabled { subscription: SubscriptionId(id), reason: Reason::Status(410) };
        let id_of = |name: &str| engine.accounts().named(name).unwrap().id().to_owned();
        let sent = |account: &str, notice: &Notice| {
            let line = line_of(&engine, &Caller::of_account(id_of(account), "test"), notice, 0);
            line.map(|line| String::from_utf8(line.to_vec()).unwrap())
        };
        let line = sent("acme", &disabled(1)).unwrap();
        assert_eq!(
            line,
            "{\"at\":\"1970-01-01T00:00:00.000Z\",\"kind\":\"disabled\",\"subscription\":1,\
             \"reason\":\"status:410\"}\n"
        );
        assert_eq!(sent("acme", &disabled(2)), None);
        assert!(sent("beta", &disabled(2)).is_some());
        assert_eq!(sent("acme", &disabled(3)), None);
        let dropped = Notice::DeadLettersDropped { account: id_of("acme"), letters: 3 };
        assert!(sent("acme", &dropped).unwrap().contains("\"count\":3"));
        assert_eq!(sent("beta", &dropped), None);
        assert!(
            !sent("acme", &Notice::Lagged(42)).unwrap().contains("42"),
            "not how many of others"
        );
        let stalled = sent("acme", &Notice::Stalled { why: "/private/path".into() }).unwrap();
        assert!(stalled.contains("\"stalled\"") && !stalled.contains("private"), "{stalled}");
    }
}
