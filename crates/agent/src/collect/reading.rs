//! What one collection yields, with the bounds on what may come from outside applied on the way in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use model::id::Sequence;
use model::limit::{ATTRIBUTE_BYTES_MAX, METADATA_BYTES_MAX, SERIES_PER_AGENT_MAX};
use model::sample::{Sample, SeriesKey, SystemMetrics, Tick, Timestamp};

use super::Fault;

/// The answer of all collectors at one moment. What could not be collected is not in it.
#[derive(Debug, Default)]
pub struct Reading {
    pub metrics: SystemMetrics,
    pub series: Vec<Sample>,
    /// The collectors that failed, and why.
    pub faults: Vec<Fault>,
    /// Each collector's yield and cost, in the order they ran.
    pub runs: Vec<Run>,
    /// How long the machine slept since the last reading, if it did.
    pub suspended: Option<Duration>,
    /// Devices whose counters began anew, so that they have no rate in this reading.
    pub resets: Vec<String>,
    /// Series past the limit, or with a name already taken: counted, not sent.
    pub left_out: usize,
}

/// One collector's part in a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub collector: &'static str,
    /// Fields of the eight and series it gave.
    pub samples: usize,
    pub elapsed: Duration,
}

impl Reading {
    /// Adds one value. A value that is no number, or past the limit, stays out.
    pub fn push(&mut self, name: &str, attributes: &[(&str, &str)], value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.series.len() >= SERIES_PER_AGENT_MAX {
            self.left_out += 1;
            return;
        }
        let key = attributes.iter().fold(SeriesKey::new(name), |key, (attribute, text)| {
            key.with(attribute, cut(text, ATTRIBUTE_BYTES_MAX))
        });
        // Only cutting can make two names one, and it is rare: no set of all keys is kept for it.
        let shortened = attributes.iter().any(|(_, text)| text.len() > ATTRIBUTE_BYTES_MAX);
        if shortened && self.series.iter().any(|sample| sample.key == key) {
            self.left_out += 1;
            return;
        }
        self.series.push(Sample { key, value });
    }

    /// Says that a device's counters began anew.
    pub(super) fn reset(&mut self, device: &str) {
        self.resets.push(cut(device, ATTRIBUTE_BYTES_MAX).to_owned());
    }

    /// Fields of the eight and series so far.
    pub(super) fn samples(&self) -> usize {
        self.metrics.values().iter().flatten().count() + self.series.len()
    }

    /// The reading as the thing that flows, with what was odd about it as metadata.
    pub fn into_tick(self, sequence: Sequence, at: Timestamp) -> Tick {
        let metadata = self.notes();
        let Self { metrics, series, .. } = self;
        Tick { first_sequence: sequence, sequence, at, metrics, series, metadata }
    }

    fn notes(&self) -> BTreeMap<String, String> {
        let mut notes = BTreeMap::new();
        let mut note =
            |key: &str, text: &str| notes.insert(key.to_owned(), cut(text, METADATA_BYTES_MAX).to_owned());
        if let Some(slept) = self.suspended {
            note("suspended_seconds", &slept.as_secs().to_string());
        }
        if !self.resets.is_empty() {
            note("counter_resets", &self.resets.join(","));
        }
        if self.left_out > 0 {
            note("series_left_out", &self.left_out.to_string());
        }
        if !self.faults.is_empty() {
            let mut text = String::new();
            for (index, fault) in self.faults.iter().enumerate() {
                let separator = if index == 0 { "" } else { "; " };
                write!(text, "{separator}{fault}").expect("a String takes every text");
            }
            note("collect_faults", &text);
        }
        notes
    }
}

/// At most `bytes` of `text`, ending between characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_past_the_limit_is_counted_and_not_sent() {
        let mut reading = Reading::default();
        for device in 0..SERIES_PER_AGENT_MAX + 3 {
            reading.push("system.disk.io", &[("device", &device.to_string())], 1.0);
        }
        assert_eq!((reading.series.len(), reading.left_out), (SERIES_PER_AGENT_MAX, 3));
        let tick = reading.into_tick(Sequence(7), Timestamp::default());
        assert_eq!(tick.metadata["series_left_out"], "3");
        assert_eq!((tick.first_sequence, tick.sequence), (Sequence(7), Sequence(7)));
    }

    #[test]
    fn a_long_attribute_is_cut_between_characters_and_never_taken_twice() {
        let mut reading = Reading::default();
        for end in ["a", "b"] {
            let mountpoint = format!("/{}{end}", "ä".repeat(ATTRIBUTE_BYTES_MAX));
            reading.push("system.filesystem.usage", &[("mountpoint", &mountpoint)], 1.0);
        }
        assert_eq!(reading.series[0].key.attributes["mountpoint"].len(), ATTRIBUTE_BYTES_MAX - 1);
        assert_eq!((reading.series.len(), reading.left_out), (1, 1));
    }

    #[test]
    fn what_is_no_number_stays_out() {
        let mut reading = Reading::default();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            reading.push("system.uptime", &[], value);
        }
        assert!(reading.series.is_empty());
    }

    #[test]
    fn what_was_odd_is_told_with_the_tick() {
        let reading = Reading {
            suspended: Some(Duration::from_millis(61_500)),
            resets: vec!["sda".to_owned(), "eth0".to_owned()],
            ..Reading::default()
        };
        let tick = reading.into_tick(Sequence(1), Timestamp::default());
        assert_eq!(tick.metadata["suspended_seconds"], "61");
        assert_eq!(tick.metadata["counter_resets"], "sda,eth0");
        assert_eq!(tick.metadata.len(), 2);
    }
}
