//! What analysis counts about itself, for Prometheus.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Clones share the numbers.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    bad: IntCounterVec,
    /// New to the history.
    pub(crate) stored: IntCounter,
    /// Known by agent, incarnation and sequence: delivered at least once, kept exactly once.
    pub(crate) repeated: IntCounter,
    /// Older than what its run has already lost to a limit.
    pub(crate) late: IntCounter,
    /// Left because the window passed.
    pub(crate) expired: IntCounter,
    /// Left because memory was short.
    pub(crate) evicted: IntCounter,
    pub(crate) records: IntGauge,
    pub(crate) bytes: IntGauge,
    /// Missed by readers of the live tail that were too slow.
    pub(crate) tail_lost: IntCounter,
}

impl Counters {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let bad = IntCounterVec::new(
            Opts::new("watchfloor_analysis_bad_records_total", "Records that could not be read, by topic"),
            &["topic"],
        )?;
        registry.register(Box::new(bad.clone()))?;
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("watchfloor_history_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("watchfloor_history_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            bad,
            stored: counter("stored_total", "Records taken into the history")?,
            repeated: counter("repeated_total", "Records delivered again and not taken twice")?,
            late: counter("late_total", "Records older than what their run already lost")?,
            expired: counter("expired_total", "Records that left because the window passed")?,
            evicted: counter("evicted_total", "Records that left because memory was short")?,
            records: gauge("records", "Records in the history")?,
            bytes: gauge("bytes", "Memory of the history")?,
            tail_lost: counter("tail_lost_total", "Records that slow readers of the live tail missed")?,
        })
    }

    /// The count of records of `topic` that could not be read.
    pub(crate) fn bad(&self, topic: &'static str) -> IntCounter {
        self.bad.with_label_values(&[topic])
    }
}
