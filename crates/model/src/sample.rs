//! What agents collect: [`Tick`]s, made of the eight seed metrics and any number of series.

use std::collections::BTreeMap;
use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::Sequence;

/// A wall-clock instant, Unix milliseconds. For showing and storing; durations are measured on monotonic clocks.
///
/// As JSON: RFC 3339 UTC with milliseconds. Reading also takes Unix seconds, whole or fractional, because people type
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// 0000-01-01T00:00:00Z.
const YEAR_0_MS: i64 = -62_167_219_200_000;
/// 9999-12-30T22:00:00Z: the last whole second that every time zone can show, and jiff's last one.
const YEAR_9999_MS: i64 = 253_402_207_200_000;

impl Timestamp {
    /// Outside the years 0 to 9999, all that RFC 3339 can write, the nearest instant is taken: a wrong clock is shown, not
    /// fatal, and whoever reads what we wrote can.
    pub fn from_unix_ms(ms: i64) -> Self {
        Self(ms.clamp(YEAR_0_MS, YEAR_9999_MS))
    }

    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self::from_unix_ms(seconds.saturating_mul(1_000))
    }

    pub fn unix_ms(self) -> i64 {
        self.0
    }

    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// `self + duration`, stopping at the far end of time.
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self::from_unix_ms(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// `self - duration`, stopping at the near end of time.
    pub fn minus(self, duration: std::time::Duration) -> Self {
        Self::from_unix_ms(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How much later `self` is; zero when it is not.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return Some(Self::from_unix_ms(at.as_millisecond()));
        }
        let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite())?;
        Some(Self::from_unix_ms((seconds * 1_000.0) as i64))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        write!(f, "{}", at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time such as \"2026-01-31T12:00:00Z\", or Unix seconds")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Timestamp, E> {
                Ok(Timestamp::from_unix_seconds(seconds))
            }
            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Timestamp, E> {
                Ok(Timestamp::from_unix_seconds(i64::try_from(seconds).unwrap_or(i64::MAX)))
            }
            fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Timestamp, E> {
                Ok(Timestamp::from_unix_ms((seconds * 1_000.0) as i64))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The eight metrics of the seed documents, meaning exactly what psutil 7 means by them.
///
/// `*_percent` are 0 to 100; `*_mb` are 1 048 576 bytes; the last four are MB per second over the tick's own measured
/// interval. What was not collected, or has no rate yet, is `None` and stays out of the JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SystemMetrics {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_total_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_write_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_in_mb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_out_mb: Option<f64>,
}

impl SystemMetrics {
    /// The names of the eight, in wire order.
    pub const NAMES: [&str; 8] = [
        "cpu_percent",
        "memory_percent",
        "memory_used_mb",
        "memory_total_mb",
        "disk_read_mb",
        "disk_write_mb",
        "net_in_mb",
        "net_out_mb",
    ];

    /// The values, in the order of [`Self::NAMES`].
    pub fn values(&self) -> [Option<f64>; 8] {
        [
            self.cpu_percent,
            self.memory_percent,
            self.memory_used_mb,
            self.memory_total_mb,
            self.disk_read_mb,
            self.disk_write_mb,
            self.net_in_mb,
            self.net_out_mb,
        ]
    }

    /// The inverse of [`Self::values`].
    pub fn from_values(values: [Option<f64>; 8]) -> Self {
        let [
            cpu_percent,
            memory_percent,
            memory_used_mb,
            memory_total_mb,
            disk_read_mb,
            disk_write_mb,
            net_in_mb,
            net_out_mb,
        ] = values;
        Self {
            cpu_percent,
            memory_percent,
            memory_used_mb,
            memory_total_mb,
            disk_read_mb,
            disk_write_mb,
            net_in_mb,
            net_out_mb,
        }
    }

    pub fn named(&self) -> impl Iterator<Item = (&'static str, Option<f64>)> {
        Self::NAMES.into_iter().zip(self.values())
    }
}

/// What a series is called: an OpenTelemetry metric name and its attributes, e.g. `system.cpu.utilization` with
/// `cpu=0, state=user`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesKey {
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl SeriesKey {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), attributes: BTreeMap::new() }
    }

    #[must_use]
    pub fn with(mut self, attribute: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(attribute.to_owned(), value.into());
        self
    }
}

/// `system.cpu.utilization{cpu="0",state="user"}`, as Prometheus writes it.
impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.attributes.is_empty() {
            return Ok(());
        }
        for (index, (key, value)) in self.attributes.iter().enumerate() {
            write!(f, "{}{key}={value:?}", if index == 0 { '{' } else { ',' })?;
        }
        f.write_str("}")
    }
}

/// One value of one series at the time of its tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    #[serde(flatten)]
    pub key: SeriesKey,
    pub value: f64,
}

/// Everything one collection yields, and what plugins turn it into.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tick {
    /// The first tick this one speaks for: itself, unless plugins merged several.
    pub first_sequence: Sequence,
    pub sequence: Sequence,
    pub at: Timestamp,
    pub metrics: SystemMetrics,
    pub series: Vec<Sample>,
    /// What plugins noted: `alerts`, `alert_count`, `cpu_percent_max`, ...
    pub metadata: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_rfc_3339_with_milliseconds_and_reads_back() {
        let at = Timestamp::from_unix_ms(1_767_225_600_042);
        assert_eq!(at.to_string(), "2026-01-01T00:00:00.042Z");
        assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
    }

    #[test]
    fn a_timestamp_of_a_clock_that_is_wholly_wrong_still_reads_back() {
        for (ms, text) in [(i64::MIN, "0000-01-01T00:00:00.000Z"), (i64::MAX, "9999-12-30T22:00:00.000Z")] {
            let at = Timestamp::from_unix_ms(ms);
            assert_eq!(at.to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(at));
        }
    }

    #[test]
    fn a_timestamp_reads_unix_seconds_as_number_or_text() {
        let at = Timestamp::from_unix_seconds(1_767_225_600);
        for json in ["1767225600", "1767225600.0", "\"1767225600\"", "\"2026-01-01T01:00:00+01:00\""] {
            assert_eq!(serde_json::from_str::<Timestamp>(json).ok(), Some(at), "{json}");
        }
    }

    #[test]
    fn what_was_not_collected_is_absent_from_the_json() {
        let metrics = SystemMetrics { cpu_percent: Some(0.0), ..SystemMetrics::default() };
        assert_eq!(serde_json::to_string(&metrics).unwrap(), r#"{"cpu_percent":0.0}"#);
    }
}
