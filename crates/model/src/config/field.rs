//! What a threshold or a condition looks at: one of the eight fields, or every series of one name.

use std::fmt;

use crate::limit::ID_BYTES_MAX;
use crate::sample::{SeriesKey, SystemMetrics, Tick};

use super::fault::unknown;

/// The name of a value in a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An index into [`SystemMetrics::NAMES`].
    Metric(usize),
    /// All series with this name, whatever their attributes.
    Series(String),
}

/// A text that is neither one of the eight nor the name of a series.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}, or the name of a series such as system.filesystem.utilization",
    unknown("field", given, &SystemMetrics::NAMES)
)]
pub struct UnknownField {
    given: String,
}

impl Field {
    /// A series name is told by its dot; which series there are depends on the machine, so none is unknown.
    pub fn parse(text: &str) -> Result<Self, UnknownField> {
        if let Some(index) = SystemMetrics::NAMES.iter().position(|name| *name == text) {
            return Ok(Self::Metric(index));
        }
        let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_'));
        if text.contains('.') && letters && text.len() <= ID_BYTES_MAX {
            return Ok(Self::Series(text.to_owned()));
        }
        Err(UnknownField { given: text.to_owned() })
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Metric(index) => SystemMetrics::NAMES[*index],
            Self::Series(name) => name,
        }
    }

    pub fn is_percent(&self) -> bool {
        matches!(self, Self::Metric(index) if SystemMetrics::NAMES[*index].ends_with("_percent"))
    }

    /// The values of this field in `tick`: none when it was not collected, several for a series name.
    pub fn values<'a>(&'a self, tick: &'a Tick) -> impl Iterator<Item = (Option<&'a SeriesKey>, f64)> {
        let (metric, series) = match self {
            Self::Metric(index) => (tick.metrics.values()[*index], None),
            Self::Series(name) => (None, Some(name)),
        };
        let samples = series.into_iter().flat_map(|name| {
            tick.series.iter().filter(move |sample| sample.key.name == *name).map(|s| (Some(&s.key), s.value))
        });
        metric.map(|value| (None, value)).into_iter().chain(samples)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
