//! Decides what `GET /notices` streams: what happens to the caller's own deliveries and
//! subscriptions, and to the engine as a whole, as lines of JSON for as long as the caller listens.
//!
//! Leaves to others: what is told at all (`wabahook::Notice`). Invariants: an account is told of its own
//! alone, and of the engine without what names this machine (I9); at most [`LISTENERS_MAX`] listen, each
//! with a bounded ring of its own (I10), and one that went away is noticed within [`KEEP_ALIVE`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use wabahook::clock::{Clock, System};
use wabahook::{Engine, Notice, Notices, SubscriptionId};

use crate::host::{Caller, Host};
use crate::moment::rfc3339;
use crate::refusal::Refusal;

/// How many may listen at once.
pub(crate) const LISTENERS_MAX: usize = 64;
/// After how long without a notice an empty line is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many lines may wait for a slow listener beside its ring.
const LINES_MAX: usize = 16;

/// One line.
#[derive(Serialize)]
struct Line {
    at: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

/// `GET /notices`.
pub(crate) async fn stream(
    State(host): State<Arc<Host>>,
    Caller(account): Caller,
) -> Result<Response, Refusal> {
    let Ok(place) = Arc::clone(&host.listeners).try_acquire_owned() else {
        return Err(Refusal::busy("too many listen to the notices; try again later"));
    };
    let (sender, lines) = channel(LINES_MAX);
    let notices = host.engine.notices();
    tokio::spawn(async move {
        listen(&host, &account, &notices, &sender).await;
        drop(place);
    });
    let headers =
        [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::new(Lines(lines))).into_response())
}

/// Sends lines until the listener goes away or the host stops.
async fn listen(host: &Host, account: &str, notices: &Notices, to: &Sender<Bytes>) {
    let (clock, mut told) = (System::new(), host.told.subscribe());
    // Answered at once, so that the caller knows that nothing is missed from here on.
    let mut line = Some(Bytes::from_static(b"\n"));
    loop {
        if let Some(line) = line.take()
            && to.send(line).await.is_err()
        {
            return;
        }
        line = match notices.try_next() {
            Some(notice) => shown(&host.engine, account, &notice, clock.wall_ms()),
            None if !host.is_serving() => return,
            None => match tokio::time::timeout(KEEP_ALIVE, told.changed()).await {
                Ok(Ok(())) => None,
                Ok(Err(_)) => return,
                Err(_) => Some(Bytes::from_static(b"\n")),
            },
        };
    }
}

/// The line of a notice; `None` where it is not the account's.
fn shown(engine: &Engine, account: &str, notice: &Notice, wall_ms: u64) -> Option<Bytes> {
    let mut line = Line {
        at: rfc3339(wall_ms),
        kind: notice.kind(),
        subscription: None,
        event_id: None,
        reason: None,
        count: None,
    };
    let subscription = match notice {
        Notice::Died { event, subscription, reason } => {
            line.event_id = Some(event.to_string());
            line.reason = Some(reason.to_string());
            Some(subscription)
        }
        Notice::Disabled { subscription, reason } => {
            line.reason = Some(reason.to_string());
            Some(subscription)
        }
        // Whose they were is not known any more, so nobody is told; `/stats` counts them.
        Notice::Cancelled { .. } | Notice::Held { .. } => return None,
        Notice::Lagged(count) => {
            line.count = Some(*count);
            None
        }
        Notice::StuckBudgetSpent { stuck } => {
            line.count = Some(*stuck as u64);
            None
        }
        // Their texts may name paths of this machine.
        Notice::Stalled { .. } | Notice::Resumed | Notice::Poisoned { .. } => None,
        // The operator's, on stderr.
        _ => return None,
    };
    if let Some(SubscriptionId(id)) = subscription {
        let known = engine.subscription(SubscriptionId(*id));
        known.filter(|known| known.account == account)?;
        line.subscription = Some(*id);
    }
    let mut bytes = serde_json::to_vec(&line).ok()?;
    bytes.push(b'\n');
    Some(bytes.into())
}

/// A body of lines that come as they happen.
struct Lines(Receiver<Bytes>);

impl hyper::body::Body for Lines {
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
    fn an_account_is_told_of_its_own_and_of_the_engine_without_paths() {
        let engine = engine();
        let disabled =
            |id| Notice::Disabled { subscription: SubscriptionId(id), reason: Reason::Status(410) };
        let told = |account: &str, notice: &Notice| {
            let line = shown(&engine, account, notice, 0);
            line.map(|line| String::from_utf8(line.to_vec()).unwrap())
        };
        let line = told("acme", &disabled(1)).unwrap();
        assert_eq!(
            line,
            "{\"at\":\"1970-01-01T00:00:00.000Z\",\"kind\":\"disabled\",\"subscription\":1,\
             \"reason\":\"status:410\"}\n"
        );
        assert_eq!(told("acme", &disabled(2)), None);
        assert!(told("beta", &disabled(2)).is_some());
        assert_eq!(told("acme", &disabled(3)), None);
        let stalled = told("acme", &Notice::Stalled { why: "/private/path".into() }).unwrap();
        assert!(stalled.contains("\"stalled\"") && !stalled.contains("private"), "{stalled}");
    }
}
