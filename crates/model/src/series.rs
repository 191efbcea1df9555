//! What the values of a series mean, told from its OpenTelemetry name.
//!
//! Plugins need it: a mean of a counter says nothing, and half a point of a ratio is 0.005. A name nobody knows is a
//! gauge, which is the harmless guess.

use crate::metric::CUMULATIVE;

/// How the values of one series behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeriesKind {
    /// A share of one: 0 to 1.
    Ratio,
    /// A share of a hundred: 0 to 100.
    Percent,
    /// A total since some start, which only grows until its source starts anew.
    Counter,
    /// Anything else: it goes up and down.
    Gauge,
}

impl SeriesKind {
    /// Our own counters are listed; those of others are told by the ending Prometheus asks for.
    pub fn of(name: &str) -> Self {
        if CUMULATIVE.contains(&name) || name.ends_with("_total") {
            return Self::Counter;
        }
        match name.rsplit('.').next().unwrap_or(name) {
            "utilization" | "ratio" => Self::Ratio,
            last if last == "percent" || last.ends_with("_percent") => Self::Percent,
            _ => Self::Gauge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_kind() {
        for (name, kind) in [
            ("system.cpu.utilization", SeriesKind::Ratio),
            ("system.disk.io", SeriesKind::Counter),
            ("jobs.done_total", SeriesKind::Counter),
            ("system.filesystem.usage", SeriesKind::Gauge),
            ("jobs.done_percent", SeriesKind::Percent),
            ("", SeriesKind::Gauge),
        ] {
            assert_eq!(SeriesKind::of(name), kind, "{name}");
        }
    }
}
