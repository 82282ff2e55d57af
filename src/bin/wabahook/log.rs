//! Logging to stderr: the `tracing` events of wabahook, up to a level. Events of other crates are left out,
//! because those crates do not know which of their values are secret (I9).

use std::fmt;

use clap::ValueEnum;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::timestamp::rfc3339;
use wabahook::clock::{Clock, SystemClock};

/// What to log.
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

/// Starts logging; a second call changes nothing.
pub(crate) fn start(level: LogLevel) {
    let filter = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = layer()
        .with_writer(std::io::stderr)
        .fmt_fields(DefaultFields::new())
        .event_format(LogLine(SystemClock::new()));
    let subscriber = tracing_subscriber::registry()
        .with(Targets::new().with_target("wabahook", filter))
        .with(lines);
    // Tests may have set one before.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// One line for each event: `wabahook: 2026-01-31T12:00:00.000Z WARN the message field=value`. The fields of its
/// spans come last.
struct LogLine(SystemClock);

impl<S, N> FormatEvent<S, N> for LogLine
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
        let (time, level) = (rfc3339(self.0.wall_ms()), event.metadata().level());
        write!(writer, "wabahook: {time} {level} ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            if let Some(fields) = fields.filter(|fields| !fields.fields.is_empty()) {
                write!(writer, " {fields}")?;
            }
        }
        writeln!(writer)
    }
}
