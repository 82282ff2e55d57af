//! Deliveries with effectum, an embedded and durable job queue: one job per delivery. An event counts as
//! published when its jobs are added. It runs as it ships, because its database settings cannot be
//! changed, and with many callers, because it commits them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use effectum::{Job, JobRunner, Queue, RunningJob, Worker};
use reqwest::Client;
use tokio::runtime::Runtime;

use crate::receiver::{Receiver, now_ns};
use crate::{Outcome, Work, payload, signing};

const CALLERS: usize = 256;
const CONCURRENCY: u16 = 32;
/// How long it may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(20);
/// The endpoint comes before the payload.
const ENDPOINT_BYTES: usize = 4;

#[derive(Debug)]
struct Context {
    client: Client,
    urls: Vec<String>,
}

/// The runtime, the queue and its worker. They end on drop.
pub(crate) struct Running(Option<(Runtime, Arc<Queue>, Worker)>);

impl Drop for Running {
    fn drop(&mut self) {
        let Some((runtime, queue, worker)) = self.0.take() else { return };
        // Without closing it would go on writing to its directory, which is about to be removed.
        let closed = runtime.block_on(async {
            worker.unregister(Some(CLOSE_MAX)).await?;
            let closed = queue.close(CLOSE_MAX).await;
            // Its connections need a runtime to be there when they are dropped.
            drop(queue);
            closed
        });
        if let Err(error) = closed {
            eprintln!("effectum did not close: {error}");
        }
        runtime.shutdown_background();
    }
}

/// Publishes everything. Returns when it began.
pub(crate) fn run(work: &Work, receiver: &mut Receiver) -> Outcome<(u64, Running)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let context = Arc::new(Context { client: Client::new(), urls: work.urls.clone() });
    receiver.expect(work.events * work.urls.len())?;
    let (started_ns, queue, worker) = runtime.block_on(async {
        let queue = Arc::new(Queue::new(&work.directory.join("effectum.db")).await?);
        let job = JobRunner::builder("deliver", deliver).build();
        let worker = Worker::builder(&queue, context)
            .min_concurrency(CONCURRENCY / 2)
            .max_concurrency(CONCURRENCY)
            .jobs([job])
            .build()
            .await?;
        let payloads: Arc<Vec<_>> = Arc::new((0..work.events).map(payload).collect());
        let started_ns = now_ns();
        publish(&queue, payloads, work.urls.len()).await?;
        Outcome::Ok((started_ns, queue, worker))
    })?;
    Ok((started_ns, Running(Some((runtime, queue, worker)))))
}

async fn publish(queue: &Arc<Queue>, payloads: Arc<Vec<Vec<u8>>>, fan_out: usize) -> Outcome {
    let next = Arc::new(AtomicUsize::new(0));
    let callers = (0..CALLERS).map(|_| {
        let (queue, payloads, next) = (Arc::clone(queue), Arc::clone(&payloads), Arc::clone(&next));
        tokio::spawn(async move {
            while let Some(payload) = payloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                let jobs = (0..fan_out).map(|endpoint| job(endpoint, payload)).collect();
                queue.add_jobs(jobs).await?;
            }
            Ok::<(), effectum::Error>(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(())
}

fn job(endpoint: usize, payload: &[u8]) -> Job {
    let mut bytes = Vec::with_capacity(ENDPOINT_BYTES + payload.len());
    bytes.extend_from_slice(&(endpoint as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    Job::builder("deliver").payload(bytes).build()
}

async fn deliver(job: RunningJob, context: Arc<Context>) -> Result<(), String> {
    let (endpoint, payload) = job.payload.split_first_chunk().ok_or("no endpoint")?;
    let endpoint = u32::from_le_bytes(*endpoint) as usize;
    let (id, timestamp_s) = (job.id.to_string(), signing::now_s());
    let answer = context
        .client
        .post(&context.urls[endpoint])
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp_s)
        .header("webhook-signature", signing::signature(&id, timestamp_s, payload))
        .body(payload.to_vec())
        .send()
        .await
        .map_err(|error| error.to_string())?;
    answer.bytes().await.map(drop).map_err(|error| error.to_string())
}
