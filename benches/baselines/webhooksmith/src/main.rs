//! Deliveries with webhooksmith, embedded, on SQLite. It prints `began NS` when it begins to publish, by
//! the monotonic clock that all processes share, and delivers until it is killed.
//!
//! Arguments: the database's path, how many events, `full` or `shipped`, and the endpoints' addresses.

use std::error::Error;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use webhooksmith::SqliteEngine;

/// The same as in the engine's own run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(deliver())
}

async fn deliver() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let path = given.next().ok_or("no path")?;
    let events: usize = given.next().ok_or("no number of events")?.parse()?;
    let durability = given.next().ok_or("no durability")?;
    let url = format!("sqlite:{path}?mode=rwc");
    let engine = SqliteEngine::builder().database_url(url).allow_insecure_urls().build().await?;
    engine.migrate().await?;
    if durability == "full" {
        sqlx::query("PRAGMA synchronous = FULL").execute(engine.pool()).await?;
    }
    for url in given {
        engine.register(&url, "the-secret-of-the-baselines-32-ch").await?;
    }
    let engine = Arc::new(engine);
    let delivering = Arc::clone(&engine);
    tokio::spawn(async move { delivering.run().await });
    let now = clock_gettime(ClockId::Monotonic);
    println!("began {}", now.tv_sec * 1_000_000_000 + now.tv_nsec);
    for number in 0..events {
        let text = "x".repeat(1_000 - number.to_string().len());
        engine
            .broadcast("message.received", serde_json::json!({"event": number, "text": text}))
            .await?;
    }
    std::future::pending().await
}
