//! What a server counts of itself, as Prometheus metrics `watchfloor_server_*`.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// One value of each metric; clones count into the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub sessions: IntGauge,
    pub batches: IntCounter,
    pub records: IntCounter,
    pub publish_seconds: Histogram,
    /// What was not taken: by `reason`.
    pub refused: IntCounterVec,
    pub commands_delivered: IntCounter,
    /// Responses that are durable on the bus: by `state`.
    pub commands_responses: IntCounterVec,
    /// Records on `commands` or `command-responses` that nobody can read.
    pub malformed: IntCounterVec,
    pub registry_writes: IntCounterVec,
}

impl Measure {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("watchfloor_server_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let family = |name: &str, help: &str, label: &str| {
            let counters =
                IntCounterVec::new(Opts::new(format!("watchfloor_server_{name}"), help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let sessions = IntGauge::new("watchfloor_server_sessions", "Agents connected now.")?;
        registry.register(Box::new(sessions.clone()))?;
        let publish_seconds = Histogram::with_opts(HistogramOpts::new(
            "watchfloor_server_publish_seconds",
            "From the first try to publish agents' data until it was durable.",
        ))?;
        registry.register(Box::new(publish_seconds.clone()))?;
        Ok(Self {
            sessions,
            publish_seconds,
            batches: counter("batches_total", "Batches and StreamMetrics messages that became durable.")?,
            records: counter("records_published_total", "Records of agents' data that became durable.")?,
            refused: family("refused_total", "What was not taken from agents.", "reason")?,
            commands_delivered: counter("commands_delivered_total", "Commands sent down to agents.")?,
            commands_responses: family("commands_responses_total", "Responses published.", "state")?,
            malformed: family("malformed_records_total", "Records that could not be read.", "topic")?,
            registry_writes: family("registry_writes_total", "Inventory transactions.", "outcome")?,
        })
    }

    pub(crate) fn refuse(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}
