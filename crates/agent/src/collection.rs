//! The loop that measures: a tick, its collection on a blocking thread, the plugins, and off to the buffer.
//!
//! Collectors never hold up anything else: while one hangs, ticks are skipped, orders are obeyed and heartbeats flow.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::config::{AgentConfig, ConfigError};
use model::id::Sequence;
use model::metric::MetricName;
use model::pipeline::{Action, Counters, NoSandbox, Output, Pipeline};
use model::presence::Collection;
use runtime::{Clock, Component};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::collect::{CollectorSet, Host, Moment, Reading};
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::parcel::Ledger;
use crate::schedule::Schedule;

/// Between the reading that rates are counted from and the first tick.
const FIRST_TICK_AFTER: Duration = Duration::from_secs(1);
/// A collection under way when the agent stops may take this long to end.
const LAST_READING_WITHIN: Duration = Duration::from_millis(500);

/// What the loop can be told. The answer comes when it holds.
#[derive(Debug)]
pub(crate) enum Order {
    Configure { config: AgentConfig, done: oneshot::Sender<Result<(), ConfigError>> },
    Collect { on: bool, done: oneshot::Sender<()> },
}

/// The loop as others see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) collection: Collection,
    pub(crate) interval: Duration,
    pub(crate) metrics: BTreeSet<MetricName>,
    pub(crate) plugins: Vec<(String, Counters)>,
    /// Each collector's fault in the last collection, if it had one.
    pub(crate) collectors: Vec<(&'static str, Option<String>)>,
    pub(crate) sequence: Sequence,
}

/// The loop's state.
#[derive(Debug)]
pub(crate) struct Collecting {
    host: Host,
    clock: Clock,
    lanes: Arc<Lanes>,
    metrics: Metrics,
    health: Component,
    view: watch::Sender<View>,
    /// Away while a collection is under way.
    collectors: Option<CollectorSet>,
    under_way: Option<UnderWay>,
    /// Rates are to begin anew.
    forget: bool,
    schedule: Schedule,
    pipeline: Pipeline,
    ledger: Ledger,
}

#[derive(Debug)]
struct UnderWay {
    /// `None` for the reading that rates are counted from.
    sequence: Option<Sequence>,
    moment: Moment,
    began: Instant,
    task: JoinHandle<(CollectorSet, Reading)>,
}

impl Collecting {
    /// Fails where the config names a plugin that cannot be built.
    pub(crate) fn new(
        host: Host,
        config: &AgentConfig,
        collection: Collection,
        clock: Clock,
        lanes: Arc<Lanes>,
        metrics: Metrics,
        health: Component,
    ) -> Result<(Self, watch::Receiver<View>), ConfigError> {
        let pipeline = Pipeline::build(config, &NoSandbox)?;
        let (view, seen) = watch::channel(View {
            collection,
            interval: config.interval(),
            metrics: config.metrics().clone(),
            plugins: counters(&pipeline),
            collectors: Vec::new(),
            sequence: Sequence(0),
        });
        metrics.interval_seconds.set(config.interval().as_secs_f64());
        let loop_state = Self {
            collectors: Some(CollectorSet::new(host.clone(), config.metrics().iter().copied())),
            host,
            clock,
            lanes,
            metrics,
            health,
            view,
            under_way: None,
            forget: false,
            schedule: Schedule::new(config.interval(), clock.monotonic()),
            pipeline,
            ledger: Ledger::default(),
        };
        Ok((loop_state, seen))
    }

    /// Runs until `stop`; then everything collected is in the buffer.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>, stop: CancellationToken) {
        self.health.ok();
        self.begin();
        loop {
            let next = self.clock.instant(self.schedule.next());
            let alone = self.ledger.due().map(|due| self.clock.instant(due));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(order) = orders.recv() => self.obey(order),
                reading = ended(self.under_way.as_mut()) => self.take_reading(reading),
                () = tokio::time::sleep_until(next), if self.is_on() => self.tick(),
                () = sleep_until(alone) => {
                    let parcel = self.ledger.flush();
                    self.lanes.data(parcel.into_iter().collect());
                }
            }
        }
        self.finish().await;
    }

    fn is_on(&self) -> bool {
        self.view.borrow().collection == Collection::Collecting
    }

    /// Collection begins, at the start or after a pause: a first reading gives rates their beginning.
    fn begin(&mut self) {
        if !self.is_on() {
            return;
        }
        let interval = self.view.borrow().interval;
        self.schedule = Schedule::new(interval, self.clock.monotonic() + interval.min(FIRST_TICK_AFTER));
        self.forget = true;
        if self.under_way.is_none() {
            self.collect(None);
        }
    }

    fn obey(&mut self, order: Order) {
        // Whoever asked may be gone; the order holds.
        match order {
            Order::Configure { config, done } => {
                done.send(self.configure(&config)).ok();
            }
            Order::Collect { on, done } => {
                let was = self.is_on();
                let collection = if on { Collection::Collecting } else { Collection::Paused };
                self.view.send_modify(|view| view.collection = collection);
                match (was, on) {
                    (false, true) => self.begin(),
                    (true, false) => {
                        let output = self.pipeline.flush(self.clock.monotonic());
                        self.pass_on(output);
                    }
                    _ => {}
                }
                done.send(()).ok();
            }
        }
    }

    fn configure(&mut self, config: &AgentConfig) -> Result<(), ConfigError> {
        let now = self.clock.monotonic();
        let output = self.pipeline.reconfigure(config, &NoSandbox, now)?;
        self.pass_on(output);
        self.schedule.change(config.interval(), now);
        self.metrics.interval_seconds.set(config.interval().as_secs_f64());
        self.view.send_modify(|view| {
            view.interval = config.interval();
            view.metrics.clone_from(config.metrics());
            view.plugins = counters(&self.pipeline);
        });
        Ok(())
    }

    fn tick(&mut self) {
        self.schedule.advance(self.clock.monotonic());
        if let Some(under_way) = &self.under_way {
            let seconds = under_way.began.elapsed().as_secs();
            self.health.degraded(format!("a collection has not ended for {seconds} s; ticks are skipped"));
            return;
        }
        let sequence = self.view.borrow().sequence.next();
        self.view.send_modify(|view| view.sequence = sequence);
        self.metrics.ticks.inc();
        self.collect(Some(sequence));
    }

    fn collect(&mut self, sequence: Option<Sequence>) {
        let host = &self.host;
        let mut collectors = self.collectors.take().unwrap_or_else(|| CollectorSet::new(host.clone(), []));
        collectors.choose(self.view.borrow().metrics.iter().copied());
        if std::mem::take(&mut self.forget) {
            collectors.forget();
        }
        let moment = Moment::now();
        let task = tokio::task::spawn_blocking(move || {
            let reading = collectors.collect(moment);
            (collectors, reading)
        });
        self.under_way = Some(UnderWay { sequence, moment, began: Instant::now(), task });
    }

    /// A collection has ended.
    fn take_reading(&mut self, result: Result<(CollectorSet, Reading), JoinError>) {
        let Some(UnderWay { sequence, moment, began, .. }) = self.under_way.take() else { return };
        self.metrics.collect_seconds.observe(began.elapsed().as_secs_f64());
        let reading = match result {
            Ok((collectors, reading)) => {
                self.collectors = Some(collectors);
                reading
            }
            Err(error) => {
                // The set is gone with the panic; the next tick makes another.
                tracing::error!(%error, "a collector panicked");
                self.health.degraded("a collector panicked");
                Reading::default()
            }
        };
        let Some(sequence) = sequence else { return };
        self.show_faults(&reading);
        let now = self.clock.monotonic();
        let output = if reading.series.is_empty() && reading.metrics.values().iter().all(Option::is_none) {
            self.metrics.ticks_not_collected.inc();
            self.pipeline.not_collected(sequence)
        } else {
            self.pipeline.process(reading.into_tick(sequence, moment.wall), now)
        };
        self.pass_on(output);
        if !self.is_on() {
            let rest = self.pipeline.flush(now);
            self.pass_on(rest);
        }
    }

    /// Logs what changed, and shows all.
    fn show_faults(&mut self, reading: &Reading) {
        let fault_of =
            |name| reading.faults.iter().find(|fault| fault.collector == name).map(ToString::to_string);
        let collectors: Vec<_> =
            reading.runs.iter().map(|run| (run.collector, fault_of(run.collector))).collect();
        let before = self.view.borrow().collectors.clone();
        for (name, fault) in collectors.iter().filter(|now| !before.contains(now)) {
            match fault {
                Some(fault) => tracing::warn!(collector = name, fault, "a collector fails"),
                None if before.iter().any(|(known, _)| known == name) => {
                    tracing::info!(collector = name, "a collector works again");
                }
                None => {}
            }
        }
        let failing: Vec<&str> =
            collectors.iter().filter(|(_, fault)| fault.is_some()).map(|(name, _)| *name).collect();
        if failing.is_empty() {
            self.health.ok();
        } else {
            self.health.degraded(format!("failing: {}", failing.join(", ")));
        }
        self.view.send_modify(|view| view.collectors = collectors);
    }

    /// To the buffer, with the books kept.
    fn pass_on(&mut self, output: Output) {
        for stretch in output.dispositions.iter().filter(|stretch| stretch.action != Action::NotCollected) {
            let ticks = stretch.last.0 - stretch.first.0 + 1;
            self.metrics.ticks_dropped.with_label_values(&[&stretch.plugin]).inc_by(ticks);
        }
        self.view.send_modify(|view| view.plugins = counters(&self.pipeline));
        let parcels = self.ledger.pack(output, self.clock.monotonic());
        self.lanes.data(parcels);
    }

    /// The last reading, then all that plugins and ledger hold.
    async fn finish(mut self) {
        if self.under_way.is_some() {
            match tokio::time::timeout(LAST_READING_WITHIN, ended(self.under_way.as_mut())).await {
                Ok(result) => self.take_reading(result),
                Err(_) => {
                    if let Some(sequence) = self.under_way.take().and_then(|under_way| under_way.sequence) {
                        let output = self.pipeline.not_collected(sequence);
                        self.pass_on(output);
                    }
                }
            }
        }
        let output = self.pipeline.flush(self.clock.monotonic());
        self.pass_on(output);
        let parcel = self.ledger.flush();
        self.lanes.data(parcel.into_iter().collect());
    }
}

fn counters(pipeline: &Pipeline) -> Vec<(String, Counters)> {
    pipeline.counters().map(|(name, counters)| (name.to_owned(), counters)).collect()
}

/// Cancel safe: yes.
async fn ended(under_way: Option<&mut UnderWay>) -> Result<(CollectorSet, Reading), JoinError> {
    match under_way {
        Some(under_way) => (&mut under_way.task).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
