//! Decides what of the library's `tracing` events reaches stderr: those of wabahook, up to a level.
//!
//! Leaves to others: what is told, and how loudly (the library). Invariant (I9): what other crates
//! tell is left out, because they do not know which of their values are secret.

use std::fmt;

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::moment::rfc3339;
use wabahook::clock::{Clock, System};

/// How much is told.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    /// Nothing
    Off,
    /// What keeps the engine from its work
    Error,
    /// And what somebody should look at
    Warn,
    /// And each dead letter and changed subscription
    Info,
    /// And each attempt and group
    Debug,
    /// Everything
    Trace,
}

/// Starts telling; a second call changes nothing.
pub(crate) fn start(level: Level) {
    let filter = match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let lines = layer()
        .with_writer(std::io::stderr)
        .fmt_fields(DefaultFields::new())
        .event_format(Line(System::new()));
    let subscriber = tracing_subscriber::registry()
        .with(Targets::new().with_target("wabahook", filter))
        .with(lines);
    // Whoever started one before, in tests, keeps it.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// One line an event: `wabahook: 2026-01-31T12:00:00.000Z WARN the message field=value`.
struct Line(System);

impl<S, N> FormatEvent<S, N> for Line
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let (moment, level) = (rfc3339(self.0.wall_ms()), event.metadata().level());
        write!(writer, "wabahook: {moment} {level} ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
