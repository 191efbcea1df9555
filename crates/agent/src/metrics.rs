//! The agent's own numbers for Prometheus. Made once per process; an agent that is rebuilt goes on counting.

use model::command::{CommandState, CommandType};
use model::id::{AgentId, Incarnation};
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Clones share the numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) ticks: IntCounter,
    pub(crate) ticks_not_collected: IntCounter,
    pub(crate) ticks_lost: IntCounter,
    pub(crate) ticks_dropped: IntCounterVec,
    pub(crate) collect_seconds: Histogram,
    pub(crate) interval_seconds: Gauge,
    pub(crate) buffer_ticks: IntGauge,
    pub(crate) buffer_bytes: IntGauge,
    pub(crate) batches_sent: IntCounter,
    pub(crate) batches_acknowledged: IntCounter,
    pub(crate) acknowledged_sequence: IntGauge,
    pub(crate) sessions: IntCounter,
    pub(crate) connected: IntGauge,
    commands: IntCounterVec,
    info: IntGaugeVec,
}

/// A collection costs a hundred microseconds, and a hung one a hundred milliseconds.
const COLLECT_BUCKETS: [f64; 8] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3];

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("watchfloor_agent_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(format!("watchfloor_agent_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("watchfloor_agent_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let info = IntGaugeVec::new(
            Opts::new("watchfloor_agent_info", "Always 1: which agent this is, and which run of it."),
            &["agent_id", "incarnation", "version"],
        )?;
        registry.register(Box::new(info.clone()))?;
        let collect_seconds = Histogram::with_opts(
            HistogramOpts::new("watchfloor_agent_collect_duration_seconds", "Time one collection took.")
                .buckets(COLLECT_BUCKETS.to_vec()),
        )?;
        registry.register(Box::new(collect_seconds.clone()))?;
        let interval_seconds =
            Gauge::new("watchfloor_agent_interval_seconds", "Configured time between two collections.")?;
        registry.register(Box::new(interval_seconds.clone()))?;
        Ok(Self {
            ticks: counter("ticks_total", "Collection ticks.")?,
            ticks_not_collected: counter("ticks_not_collected_total", "Ticks that came without any data.")?,
            ticks_lost: counter("ticks_lost_total", "Ticks evicted from a full buffer.")?,
            ticks_dropped: counters(
                "ticks_dropped_total",
                "Ticks a plugin dropped or merged into another.",
                &["plugin"],
            )?,
            collect_seconds,
            interval_seconds,
            buffer_ticks: gauge("buffer_ticks", "Ticks collected and not acknowledged.")?,
            buffer_bytes: gauge("buffer_bytes", "Memory of ticks collected and not acknowledged.")?,
            batches_sent: counter("batches_sent_total", "Batches sent, repeated ones included.")?,
            batches_acknowledged: counter("batches_acknowledged_total", "Acknowledgements received.")?,
            acknowledged_sequence: gauge(
                "acknowledged_sequence",
                "The tick of this incarnation up to which all is durable on the bus.",
            )?,
            sessions: counter("sessions_total", "Sessions a server welcomed.")?,
            connected: gauge("connected", "1 while a server holds a session of this agent.")?,
            commands: counters("commands_total", "Commands by type and final state.", &["type", "state"])?,
            info,
        })
    }

    /// A run of the agent begins; inside `up` one follows another in this process.
    pub(crate) fn begun(&self, agent: &AgentId, incarnation: &Incarnation) {
        self.info.reset();
        let version = env!("CARGO_PKG_VERSION");
        self.info.with_label_values(&[agent.as_str(), incarnation.as_str(), version]).set(1);
        self.acknowledged_sequence.set(0);
    }

    pub(crate) fn command_ended(&self, kind: CommandType, state: CommandState) {
        self.commands.with_label_values(&[kind.label(), state.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_prometheus_conventions() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.command_ended(CommandType::Stop, CommandState::Succeeded);
        metrics.begun(&AgentId::new("a").unwrap(), &Incarnation::new("i").unwrap());
        metrics.ticks_dropped.with_label_values(&["filter"]).inc();
        for family in registry.gather() {
            let (name, is_counter) =
                (family.name(), family.get_field_type() == prometheus::proto::MetricType::COUNTER);
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            assert!(name.starts_with("watchfloor_agent_") && family.help().ends_with('.'), "{name}");
        }
    }

    #[test]
    fn a_second_set_in_one_registry_is_refused() {
        let registry = Registry::new();
        Metrics::register(&registry).unwrap();
        assert!(Metrics::register(&registry).is_err());
    }
}
