//! What librdkafka says of itself: log lines, errors and statistics, to our logs, health and metrics.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use runtime::Component;
use tokio::sync::Notify;

use crate::bus::BusError;

/// Lines of all clients that get through in each span of time: an outage makes every client complain every second.
const LINES: u32 = 10;
const SPAN: Duration = Duration::from_secs(60);

/// Shared by all clients of one bus.
#[derive(Debug)]
pub(super) struct Telemetry {
    health: Option<Component>,
    /// No broker can be reached, as far as is known.
    away: AtomicBool,
    /// A broker has answered once.
    met: AtomicBool,
    /// Why a connection failed last: that all are down says nothing of it.
    cause: Mutex<String>,
    span_began: Mutex<Instant>,
    lines: AtomicU32,
    queue_messages: IntGauge,
    queue_bytes: IntGauge,
    brokers_up: IntGauge,
    errors: IntCounterVec,
}

impl Telemetry {
    pub(super) fn new(health: Option<Component>, registry: Option<&Registry>) -> Result<Self, BusError> {
        Self::register(health, registry)
            .map_err(|error| BusError::Store { reason: format!("the metrics of Kafka: {error}") })
    }

    fn register(health: Option<Component>, registry: Option<&Registry>) -> Result<Self, prometheus::Error> {
        let telemetry = Self {
            health,
            away: AtomicBool::new(false),
            met: AtomicBool::new(false),
            cause: Mutex::default(),
            span_began: Mutex::new(Instant::now()),
            lines: AtomicU32::new(0),
            queue_messages: IntGauge::new(
                "watchfloor_kafka_queue_records",
                "Records that wait for Kafka's acknowledgement.",
            )?,
            queue_bytes: IntGauge::new("watchfloor_kafka_queue_bytes", "Bytes of these records.")?,
            brokers_up: IntGauge::new(
                "watchfloor_kafka_brokers_up",
                "Brokers the producer is connected to.",
            )?,
            errors: IntCounterVec::new(
                Opts::new("watchfloor_kafka_errors_total", "Errors that librdkafka told, of all clients."),
                &["code"],
            )?,
        };
        if let Some(registry) = registry {
            registry.register(Box::new(telemetry.queue_messages.clone()))?;
            registry.register(Box::new(telemetry.queue_bytes.clone()))?;
            registry.register(Box::new(telemetry.brokers_up.clone()))?;
            registry.register(Box::new(telemetry.errors.clone()))?;
        }
        Ok(telemetry)
    }

    /// Whether no broker could be reached when last heard.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// A broker has answered.
    pub(super) fn answered(&self) {
        let returned = self.away.swap(false, Ordering::Relaxed);
        if returned {
            tracing::info!("kafka answers again");
        }
        let is_news = returned || !self.met.swap(true, Ordering::Relaxed);
        if let Some(health) = self.health.as_ref().filter(|_| is_news) {
            health.ok();
        }
    }

    fn error(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let label = code.map_or_else(|| "other".to_owned(), |code| format!("{code:?}"));
        self.errors.with_label_values(&[label.as_str()]).inc();
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = if cause.is_empty() { reason } else { cause.as_str() };
            if !self.away.swap(true, Ordering::Relaxed) {
                tracing::warn!(reason, "no kafka broker can be reached");
            }
            if let Some(health) = &self.health {
                health.degraded(format!("no Kafka broker can be reached: {reason}"));
            }
            return;
        }
        if is_connection(code) {
            reason.clone_into(&mut self.cause.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if !(self.is_away() && is_connection(code)) && self.may_speak() {
            tracing::warn!(%error, reason, "kafka reports an error");
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let serious = (level as i32) <= (RDKafkaLogLevel::Warning as i32);
        // CONFWARN tells of properties that one kind of client does not know; ours go to all kinds. FAIL comes as an error too.
        if !serious || matches!(facility, "CONFWARN" | "FAIL") {
            tracing::debug!(facility, line, "librdkafka");
        } else if self.may_speak() {
            tracing::warn!(facility, line, "librdkafka");
        }
    }

    fn stats(&self, statistics: &Statistics) {
        let up =
            statistics.brokers.values().filter(|broker| broker.nodeid >= 0 && broker.state == "UP").count();
        self.queue_messages.set(i64::try_from(statistics.msg_cnt).unwrap_or(i64::MAX));
        self.queue_bytes.set(i64::try_from(statistics.msg_size).unwrap_or(i64::MAX));
        self.brokers_up.set(i64::try_from(up).unwrap_or(i64::MAX));
        if up > 0 {
            self.answered();
        }
    }

    /// Counts one line; `false` when this span has had enough of them.
    fn may_speak(&self) -> bool {
        let mut began = self.span_began.lock().unwrap_or_else(PoisonError::into_inner);
        if began.elapsed() >= SPAN {
            *began = Instant::now();
            let suppressed = self.lines.swap(0, Ordering::Relaxed).saturating_sub(LINES);
            if suppressed > 0 {
                tracing::warn!(suppressed, "more lines of librdkafka were left out");
            }
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < LINES
    }
}

/// One of many connections that fail while all brokers are away, which is told once.
fn is_connection(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SSL
        )
    )
}

/// What one client tells.
#[derive(Debug)]
pub(super) struct Voice {
    telemetry: Arc<Telemetry>,
    /// A member of a group has got its share, which may be empty.
    pub(super) assigned: Arc<Notify>,
}

impl Voice {
    pub(super) fn new(telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, assigned: Arc::default() }
    }
}

impl ClientContext for Voice {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.telemetry.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.telemetry.stats(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.telemetry.error(&error, reason);
    }
}

impl ConsumerContext for Voice {
    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(share) => {
                tracing::debug!(partitions = share.count(), "a member of a group has got its share");
                self.assigned.notify_one();
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "a group could not be shared out"),
        }
    }
}
