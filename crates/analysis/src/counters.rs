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
        let (counter, gauge) = (counters(registry, "history"), gauges(registry, "history"));
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

/// What the archive counts. Clones share the numbers.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveCounters {
    pub(crate) blocks: IntGauge,
    pub(crate) bytes: IntGauge,
    pub(crate) commits: IntCounter,
    pub(crate) failures: IntCounter,
    pub(crate) uncommitted: IntGauge,
    pub(crate) restored: IntCounter,
    /// Times the topic was followed anew, because something had been let go.
    pub(crate) read_again: IntCounter,
    pub(crate) missed: IntCounter,
    pub(crate) other_logs: IntCounter,
}

impl ArchiveCounters {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (counter, gauge) = (counters(registry, "archive"), gauges(registry, "archive"));
        Ok(Self {
            blocks: gauge("blocks", "Blocks in the archive")?,
            bytes: gauge("bytes", "Bytes of the blocks in the archive")?,
            commits: counter("commits_total", "Commits of the archive")?,
            failures: counter("failures_total", "Attempts to open or write the archive that failed")?,
            uncommitted: gauge(
                "uncommitted",
                "Records read from the bus that the archive does not cover yet",
            )?,
            restored: counter("restored_total", "Records read from the archive at the start")?,
            read_again: counter("read_again_total", "Times the topic was read again for the archive")?,
            missed: counter("missed_total", "Records that retention removed before they were read")?,
            other_logs: counter("other_logs_total", "Partitions whose log was not the one the archive knew")?,
        })
    }
}

fn counters(
    registry: &Registry,
    subject: &'static str,
) -> impl Fn(&str, &str) -> Result<IntCounter, prometheus::Error> {
    move |name, help| {
        let counter = IntCounter::new(format!("watchfloor_{subject}_{name}"), help)?;
        registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }
}

fn gauges(
    registry: &Registry,
    subject: &'static str,
) -> impl Fn(&str, &str) -> Result<IntGauge, prometheus::Error> {
    move |name, help| {
        let gauge = IntGauge::new(format!("watchfloor_{subject}_{name}"), help)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }
}
