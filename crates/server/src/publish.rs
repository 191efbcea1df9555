//! Onto the bus: agents' data, session by session, and responses, in one line.
//!
//! `Ok` means durable. Trouble that passes is waited out here; meanwhile nothing is acknowledged, and credits hold the
//! agents back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backends::bus::{Bus, BusError, NewRecord};
use proto::record::{COMMAND_RESPONSES, MONITORING_DATA};
use runtime::{Backoff, Component};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, Pending};
use crate::measure::Measure;
use crate::records;
use crate::room::Room;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_CEILING: Duration = Duration::from_secs(5);
/// Responses lag behind what is published by milliseconds, unless reading is in trouble.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Responses published in one call.
const RESPONSES_AT_ONCE: usize = 512;

/// The way onto the bus. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    bus: Arc<dyn Bus>,
    /// For what waits to be published.
    pub(crate) room: Room,
    /// Trouble of many streams is told once.
    interrupted: Arc<AtomicBool>,
    health: Component,
    measure: Measure,
}

impl Publisher {
    pub(crate) fn new(bus: Arc<dyn Bus>, room: Room, health: Component, measure: Measure) -> Self {
        Self { bus, room, interrupted: Arc::default(), health, measure }
    }

    /// Returns when the records of `batches` batches are durable, or when trying again will not help.
    ///
    /// Calls of several sessions run side by side, so that one commit of the bus serves many.
    pub(crate) async fn data(&self, records: Vec<NewRecord>, batches: u64) -> Result<(), BusError> {
        let begun = Instant::now();
        let count = records.len() as u64;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
        let mut troubled = false;
        while let Err(error) = self.bus.publish(MONITORING_DATA, records.clone()).await {
            self.trouble(&error, &mut troubled);
            if !error.is_transient() {
                return Err(error);
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        self.fine(troubled);
        self.measure.publish_seconds.observe(begun.elapsed().as_secs_f64());
        self.measure.records.inc_by(count);
        self.measure.batches.inc_by(batches);
        Ok(())
    }

    /// Publishes reports as they come, until `stop`. Judged anew before each try: a final state may have come meanwhile.
    pub(crate) async fn responses(self, hub: Arc<Hub>, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
        let mut troubled = false;
        let mut pending = Vec::new();
        loop {
            if pending.is_empty() {
                pending = hub.take_reports(RESPONSES_AT_ONCE);
            }
            if pending.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = hub.reported.notified() => continue,
                }
            }
            match self.respond(&hub, &mut pending).await {
                Ok(()) => {
                    self.fine(std::mem::take(&mut troubled));
                    backoff.reset();
                }
                Err(error) => {
                    self.trouble(&error, &mut troubled);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(backoff.next_delay()) => {}
                    }
                }
            }
        }
    }

    /// One turn over `pending`, which is empty afterwards unless it has to be tried again.
    async fn respond(&self, hub: &Hub, pending: &mut Vec<Pending>) -> Result<(), BusError> {
        if pending.iter().any(|pending| pending.report.state.is_final()) {
            self.read_responses(hub).await?;
        }
        let judged = hub.judge(std::mem::take(pending));
        let responses = judged.iter().filter_map(|judged| judged.response.as_ref());
        let records: Vec<NewRecord> = responses.map(records::of_response).collect();
        if !records.is_empty()
            && let Err(error) = self.bus.publish(COMMAND_RESPONSES, records).await
        {
            *pending = hub.undurable(judged);
            return Err(error);
        }
        hub.durable(&judged);
        Ok(())
    }

    /// Waits until everything that is on `command-responses` now has been taken in. An outcome may be there already: told to
    /// another server before the agent came here, or by a publish of ours that was said to have failed.
    async fn read_responses(&self, hub: &Hub) -> Result<(), BusError> {
        let extents = self.bus.extents(COMMAND_RESPONSES).await?;
        let mut reached = hub.responses.subscribe();
        match timeout(READ_WITHIN, reached.wait_for(|reached| reached.covers(&extents))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(BusError::Unavailable {
                reason: format!("{COMMAND_RESPONSES} was not read to its end within {READ_WITHIN:?}"),
            }),
        }
    }

    fn trouble(&self, error: &BusError, troubled: &mut bool) {
        *troubled = true;
        if !self.interrupted.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "publishing is interrupted");
        }
        self.health.degraded(error.to_string());
    }

    fn fine(&self, was_troubled: bool) {
        if was_troubled && self.interrupted.swap(false, Ordering::Relaxed) {
            tracing::info!("publishing goes on");
            self.health.ok();
        }
    }
}
