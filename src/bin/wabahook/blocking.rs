//! The threads for work that waits for a disk or computes for long. The requests of one account have at most a quarter
//! of them at once, and the others of that account wait their turn: no account keeps another's requests from a thread
//! (I4). It also gives each response its room in memory (`port::responses`).

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http_error::HttpError;
use crate::port::body_room::BodyHolder;
use crate::port::responses::ResponseRoom;

/// How many requests may wait for a disk at once.
pub(crate) const THREADS_MAX: usize = 16;
/// How many of these threads one account may have.
const THREADS_OF_ACCOUNT: usize = THREADS_MAX / 4;
/// Above so many accounts those without a request are forgotten.
const ACCOUNTS_KEPT: usize = 1_024;

tokio::task_local! {
    /// Whose request this task handles.
    static REQUEST: RequestTurn;
}

/// The turns of each account that has a request.
#[derive(Clone, Default)]
struct BlockingTurns(Arc<Mutex<HashMap<BodyHolder, Arc<Semaphore>>>>);

/// What the requests of all accounts share: threads, and memory for responses.
#[derive(Clone, Default)]
pub(crate) struct RequestRoom {
    turns: BlockingTurns,
    responses: ResponseRoom,
}

struct RequestTurn {
    turns: BlockingTurns,
    holder: OnceLock<BodyHolder>,
}

impl BlockingTurns {
    fn of(&self, holder: &BodyHolder) -> Arc<Semaphore> {
        let mut turns = self.0.lock();
        if turns.len() >= ACCOUNTS_KEPT {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        let new = || Arc::new(Semaphore::new(THREADS_OF_ACCOUNT));
        Arc::clone(turns.entry(holder.clone()).or_insert_with(new))
    }
}

/// Handles a request whose blocking work takes turns with the other requests of its account, and whose response has
/// room in memory.
pub(crate) async fn in_turn(
    State(room): State<RequestRoom>,
    request: Request,
    next: Next,
) -> Response {
    let handled = async {
        let response = next.run(request).await;
        room.responses.admit(holder().unwrap_or(BodyHolder::Account(String::new())), response).await
    };
    let turns = room.turns.clone();
    REQUEST.scope(RequestTurn { turns, holder: OnceLock::new() }, handled).await
}

/// The request of this task is one of this account, or of this network of strangers.
pub(crate) fn note_holder(holder: BodyHolder) {
    // Outside of a request there is nothing to note. The first one of a request counts.
    let _ = REQUEST.try_with(|request| request.holder.set(holder));
}

/// Whose request this task handles, where that is known.
pub(crate) fn holder() -> Option<BodyHolder> {
    REQUEST.try_with(|request| request.holder.get().cloned()).ok().flatten()
}

/// Runs work that may wait for a disk, or compute for long, on a blocking thread.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HttpError> {
    let turn = turn().await;
    let work = move || {
        let _turn = turn;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        let message = "the request failed inside the host; see its log";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })
}

/// Waits for a turn of those who sent this request.
async fn turn() -> Option<OwnedSemaphorePermit> {
    let own = REQUEST.try_with(|request| {
        let holder = request.holder.get()?;
        Some(request.turns.of(holder))
    });
    own.ok().flatten()?.acquire_owned().await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Runs work as a request of an account.
    async fn request<T: Send + 'static>(
        turns: BlockingTurns,
        account: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let handled = async {
            note_holder(BodyHolder::Account(account.to_owned()));
            off_thread(work).await.unwrap()
        };
        REQUEST.scope(RequestTurn { turns, holder: OnceLock::new() }, handled).await
    }

    #[test]
    fn one_account_leaves_threads_to_the_others() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(THREADS_MAX)
            .enable_all()
            .build()
            .unwrap();
        let turns = BlockingTurns::default();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let noisy: Vec<_> = (0..THREADS_MAX * 4)
            .map(|_| {
                let released = Arc::clone(&released);
                // The senders end when the neighbour was answered.
                let work = move || released.lock().recv().is_err();
                runtime.spawn(request(turns.clone(), "noisy", work))
            })
            .collect();
        let answered = runtime.block_on(async {
            let neighbour = request(turns.clone(), "quiet", || 7);
            tokio::time::timeout(Duration::from_secs(20), neighbour).await
        });
        drop(release);
        assert_eq!(answered, Ok(7), "the neighbour has a thread");
        runtime.block_on(async {
            for one in noisy {
                one.await.unwrap();
            }
        });
    }

    #[test]
    fn accounts_without_a_request_are_forgotten() {
        let turns = BlockingTurns::default();
        let account = |name: &str| BodyHolder::Account(name.to_owned());
        let kept = turns.of(&account("kept"));
        (0..ACCOUNTS_KEPT * 2).for_each(|n| drop(turns.of(&account(&n.to_string()))));
        assert!(turns.0.lock().len() <= ACCOUNTS_KEPT);
        assert!(Arc::ptr_eq(&kept, &turns.of(&account("kept"))));
    }
}
