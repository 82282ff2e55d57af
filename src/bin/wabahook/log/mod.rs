//! Logging to stderr: the `tracing` events of wabahook, up to a level, as text or as JSON. Events of other crates
//! are left out, because those crates do not know which of their values are secret (I9). A line that would repeat
//! within a minute is counted instead, and logged once more with the count.

mod flood;
mod line;

use std::io::Write;
use std::sync::OnceLock;

use clap::ValueEnum;
use parking_lot::Mutex;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use wabahook::clock::{Clock, SystemClock};

use self::flood::FloodGate;
use self::line::{Fields, Line};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogLevel {
    /// Nothing
    Off,
    /// What keeps the engine from working
    Error,
    /// And what an operator should look at
    Warn,
    /// And each dead letter and changed subscription
    Info,
    /// And each attempt and each group
    Debug,
    /// Everything
    Trace,
}

/// How to write a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// `wabahook: 2026-01-31T12:00:00.000Z WARN the message field=value`
    Text,
    /// One object on each line: `at`, `level`, `message` and the fields
    Json,
}

/// What was counted instead of logged.
static FLOOD: OnceLock<(Mutex<FloodGate>, LogFormat)> = OnceLock::new();

/// Starts logging; a second call changes nothing.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let filter = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::registry()
        .with(Targets::new().with_target("wabahook", filter))
        .with(LogLayer(SystemClock::new()));
    let _ = FLOOD.set((Mutex::default(), format));
    // Tests may have set one before.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Logs the lines that were counted for a minute. Called now and then, and at the end.
pub(crate) fn flush(everything: bool) {
    let Some((flood, format)) = FLOOD.get() else { return };
    let clock = SystemClock::new();
    let now_ms = if everything { u64::MAX } else { clock.wall_ms() };
    let due = flood.lock().due(now_ms);
    for mut line in due {
        line.wall_ms = clock.wall_ms();
        write(&line, *format);
    }
}

/// An error is ignored: if stderr is closed, there is no other place for the log.
fn write(line: &Line, format: LogFormat) {
    let text = match format {
        LogFormat::Text => line.text(),
        LogFormat::Json => line.json(),
    };
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes each event as a line.
struct LogLayer(SystemClock);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.append(of_span);
            }
        }
        let level = *event.metadata().level();
        let line = Line::new(self.0.wall_ms(), level, fields);
        let Some((flood, format)) = FLOOD.get() else { return };
        // Levels for details are logged in full.
        let is_detail = level > Level::INFO;
        if is_detail || flood.lock().admits(event.metadata().callsite(), &line) {
            write(&line, *format);
        }
    }
}
