//! The monitor's numbers on `/metrics`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Clones share the numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) leading: IntGauge,
    pub(crate) agents: IntGaugeVec,
    pub(crate) transitions: IntCounterVec,
    pub(crate) unanswered: IntCounterVec,
    pub(crate) bad_records: IntCounter,
}

impl Metrics {
    /// Once per process: names are taken after that.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let agents = Opts::new("watchfloor_monitor_agents", "Agents by presence");
        let transitions =
            Opts::new("watchfloor_monitor_transitions_total", "Transitions published on agent-status");
        let unanswered =
            Opts::new("watchfloor_monitor_unanswered_commands_total", "Commands ended for want of an answer");
        let bad_records = "watchfloor_monitor_bad_records_total";
        let metrics = Self {
            leading: IntGauge::new(
                "watchfloor_monitor_leading",
                "Whether this monitor leads (1) or stands by (0)",
            )?,
            agents: IntGaugeVec::new(agents, &["status"])?,
            transitions: IntCounterVec::new(transitions, &["status"])?,
            unanswered: IntCounterVec::new(unanswered, &["state"])?,
            bad_records: IntCounter::new(bad_records, "Records and registry values that could not be read")?,
        };
        registry.register(Box::new(metrics.leading.clone()))?;
        registry.register(Box::new(metrics.agents.clone()))?;
        registry.register(Box::new(metrics.transitions.clone()))?;
        registry.register(Box::new(metrics.unanswered.clone()))?;
        registry.register(Box::new(metrics.bad_records.clone()))?;
        Ok(metrics)
    }
}
