//! A tokio service that embeds the engine. It takes events over TCP, one per line, and answers `ok` when
//! an event is durable. Until then the sender keeps it.
//!
//! No task ever blocks a thread of the runtime: receipts are awaited, and calls that wait for the device
//! (opening, subscribing, closing) run where blocking is allowed.
//!
//! ```sh
//! cargo run --release --example tokio_service -- --seconds 10 --rate 20000 --data target
//! ```

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{Figures, Load, Outcome, Receiver, Upstream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;
use wabahook::{Engine, Error, Event, Notice, Receipt};

/// How many events of one connection may wait for the device before its reading pauses.
const OPEN_MAX: usize = 4_096;
/// How long to wait when the engine is busy: the time of a few groups.
const BUSY_WAIT: Duration = Duration::from_millis(10);
const CLOSE_MAX: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Outcome {
    let load = Load::from_arguments()?;
    let directory = Arc::new(support::directory()?);
    let receiver = Arc::new(Receiver::start()?);
    let (shared, url) = (Arc::clone(&directory), Arc::clone(&receiver));
    let engine = spawn_blocking(move || support::open(&shared, &url)).await??;
    let watching = tokio::spawn(watch(engine.clone()));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = Upstream::start(listener.local_addr()?, load);
    // A service would accept in a loop and spawn a task for each connection.
    let (stream, _) = listener.accept().await?;
    let (lines, answers) = stream.into_split();
    let (open, receipts) = mpsc::channel(OPEN_MAX);
    let answering = tokio::spawn(answer(receipts, answers));
    let figures = publish(&engine, lines, open).await?;
    answering.await??;

    let (confirmed, delivered) = spawn_blocking(move || {
        let confirmed = upstream.end()?;
        Outcome::Ok((confirmed, receiver.collect(load.events(), support::END_MAX)))
    })
    .await??;
    figures.print("tokio_service", delivered);
    watching.abort();
    spawn_blocking(move || engine.close(CLOSE_MAX)).await??;
    if confirmed == load.events() { Ok(()) } else { Err(format!("{confirmed} confirmed").into()) }
}

/// Publishes each line. The receipts go to [`answer`], in order. While it has too many, no line is read,
/// and TCP slows the sender down.
async fn publish(
    engine: &Engine,
    lines: OwnedReadHalf,
    open: mpsc::Sender<(String, Receipt)>,
) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let mut lines = BufReader::new(lines).lines();
    while let Some(line) = lines.next_line().await? {
        // Invalid lines and events end this connection, but not the next ones.
        let event = support::event(&line).ok_or("a line that tells of no event")?;
        let receipt = publish_when_not_busy(engine, event, &mut figures).await?;
        figures.published += 1;
        let id = line.split(' ').next().unwrap_or_default().to_owned();
        open.send((id, receipt)).await?;
        figures.is_ahead_by(OPEN_MAX - open.capacity());
    }
    Ok(figures)
}

/// `publish` never waits. If it gives the event back, only this task waits.
async fn publish_when_not_busy(
    engine: &Engine,
    mut event: Event,
    figures: &mut Figures,
) -> wabahook::Result<Receipt> {
    let mut ticks = tokio::time::interval(BUSY_WAIT);
    loop {
        match figures.time(|| engine.publish(event)) {
            Err(mut refused) if refused.is_busy() => match refused.events.pop() {
                Some(back) => event = back,
                None => return Err(refused.into()),
            },
            answer => return Ok(answer?),
        }
        ticks.tick().await;
    }
}

/// Answers each line when its event is durable. On `again` the sender repeats it, which its dedup key
/// makes safe, even if the first one was stored.
async fn answer(
    mut receipts: mpsc::Receiver<(String, Receipt)>,
    mut answers: OwnedWriteHalf,
) -> Outcome {
    while let Some((id, receipt)) = receipts.recv().await {
        let answer = match receipt.await {
            Ok(_) => format!("ok {id}\n"),
            Err(Error::Unknown { .. } | Error::Refused { .. }) => format!("again {id}\n"),
            Err(error) => return Err(error.into()),
        };
        answers.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// Prints notices. The engine wakes this task, which then reads without waiting.
async fn watch(engine: Engine) {
    let told = Arc::new(Notify::new());
    let notices = engine.notices();
    let wake = Arc::clone(&told);
    engine.on_notice(move || wake.notify_one());
    loop {
        while let Some(notice) = notices.try_next() {
            match notice {
                Notice::Stalled { why } => eprintln!("the device refuses: {why}"),
                other => eprintln!("{other:?}"),
            }
        }
        told.notified().await;
    }
}
