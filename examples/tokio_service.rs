//! Decides how a tokio service embeds the engine: it takes events over TCP, a line each, and answers
//! `ok` when an event is on the device.
//!
//! Leaves to others: the load it is tried with (`bed`). Invariant: no task ever holds a thread of the
//! runtime: receipts are awaited, and what waits for the device (opening, subscribing, closing) runs
//! where blocking is allowed. An event is answered `ok` only after its receipt said so; until then
//! whoever sent it keeps it.
//!
//! ```sh
//! cargo run --release --example tokio_service -- --seconds 10 --rate 20000 --data target
//! ```

mod bed;

use std::sync::Arc;
use std::time::Duration;

use bed::{Figures, Load, Outcome, Receiver, Upstream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;
use wabahook::{Engine, Error, Event, Notice, Receipt};

/// How many events of one connection may wait for the device before no more of its lines are read.
const OPEN_MAX: usize = 4_096;
/// How long to wait when the engine is busy: the time of a few groups.
const BUSY_WAIT: Duration = Duration::from_millis(10);
const CLOSE_MAX: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Outcome {
    let load = Load::from_arguments()?;
    let directory = Arc::new(bed::directory()?);
    let receiver = Arc::new(Receiver::start()?);
    let (shared, url) = (Arc::clone(&directory), Arc::clone(&receiver));
    let engine = spawn_blocking(move || bed::open(&shared, &url)).await??;
    let watching = tokio::spawn(watch(engine.clone()));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let upstream = Upstream::start(listener.local_addr()?, load);
    // A service would accept for ever and spawn a task for each connection.
    let (stream, _) = listener.accept().await?;
    let (lines, answers) = stream.into_split();
    let (open, receipts) = mpsc::channel(OPEN_MAX);
    let answering = tokio::spawn(answer(receipts, answers));
    let figures = publish(&engine, lines, open).await?;
    answering.await??;

    let (confirmed, delivered) = spawn_blocking(move || {
        let confirmed = upstream.end()?;
        Outcome::Ok((confirmed, receiver.collect(load.events(), bed::END_MAX)))
    })
    .await??;
    figures.print("tokio_service", delivered);
    watching.abort();
    spawn_blocking(move || engine.close(CLOSE_MAX)).await??;
    if confirmed == load.events() { Ok(()) } else { Err(format!("{confirmed} confirmed").into()) }
}

/// Publishes each line. The receipts go to [`answer`], in order; while that has too many, no line is
/// read, and TCP holds the sender back.
async fn publish(
    engine: &Engine,
    lines: OwnedReadHalf,
    open: mpsc::Sender<(String, Receipt)>,
) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let mut lines = BufReader::new(lines).lines();
    while let Some(line) = lines.next_line().await? {
        // Wrong lines and events end this connection; the next ones go on.
        let event = bed::event(&line).ok_or("a line that tells of no event")?;
        let receipt = publish_when_not_busy(engine, event, &mut figures).await?;
        figures.published += 1;
        let id = line.split(' ').next().unwrap_or_default().to_owned();
        open.send((id, receipt)).await?;
        figures.is_ahead_by(OPEN_MAX - open.capacity());
    }
    Ok(figures)
}

/// `publish` itself never waits. Where it gives the event back, this task does, and no other.
async fn publish_when_not_busy(
    engine: &Engine,
    mut event: Event,
    figures: &mut Figures,
) -> wabahook::Result<Receipt> {
    let mut ticks = tokio::time::interval(BUSY_WAIT);
    loop {
        match figures.time(|| engine.publish(event)) {
            Err(Error::Busy { mut events, reason }) => match events.pop() {
                Some(back) => event = back,
                None => return Err(Error::Busy { events, reason }),
            },
            answer => return answer,
        }
        ticks.tick().await;
    }
}

/// Answers each line when its event is on the device. On `again` the sender sends it once more: its
/// dedup key makes that safe, also where the first one was stored after all.
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

/// Tells what happened: the engine wakes this task, which then reads what there is without waiting.
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
