//! Logs: to stderr, one line each, as text or JSON. `WATCHFLOOR_LOG` takes tracing's filter syntax.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// The environment variable that overrides the filter.
pub const FILTER_VARIABLE: &str = "WATCHFLOOR_LOG";

/// Starts logging for the process. A second call changes nothing.
pub fn init(format: Format, default_filter: &str) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default_filter));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(true);
    let started = match format {
        Format::Text => lines.compact().try_init(),
        Format::Json => lines.json().try_init(),
    };
    // Only tests start it twice; the first subscriber stays.
    drop(started);
}
