//! What waits to be sent: data in one lane, reports on commands in another, with one bell for whoever sends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::wire::CommandReport;
use tokio::sync::Notify;

use crate::buffer::Buffer;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::parcel::Parcel;

/// Shared by those who measure and obey, and the uplink. Locks are held for lookups only.
#[derive(Debug)]
pub(crate) struct Lanes {
    buffer: Mutex<Buffer>,
    outbox: Mutex<Outbox>,
    /// Rung when something was added. One listener: the session.
    bell: Notify,
    metrics: Metrics,
}

impl Lanes {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { buffer: Mutex::default(), outbox: Mutex::default(), bell: Notify::new(), metrics }
    }

    pub(crate) fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn data(&self, parcels: Vec<Parcel>) {
        if parcels.is_empty() {
            return;
        }
        let lost: u64 = {
            let mut buffer = self.buffer();
            parcels.into_iter().map(|parcel| buffer.push(parcel)).sum()
        };
        self.metrics.ticks_lost.inc_by(lost);
        self.measure();
        self.bell.notify_one();
    }

    pub(crate) fn report(&self, report: CommandReport) {
        self.outbox().put(report);
        self.bell.notify_one();
    }

    /// Everything before `end` is durable elsewhere.
    pub(crate) fn release(&self, end: crate::buffer::Position) {
        if let Some(last) = self.buffer().release(end) {
            self.metrics.acknowledged_sequence.set(i64::try_from(last.0).unwrap_or(i64::MAX));
        }
        self.measure();
    }

    /// Cancel safe: yes.
    pub(crate) async fn changed(&self) {
        self.bell.notified().await;
    }

    fn measure(&self) {
        let fill = self.buffer().fill();
        self.metrics.buffer_ticks.set(i64::try_from(fill.ticks).unwrap_or(i64::MAX));
        self.metrics.buffer_bytes.set(i64::try_from(fill.bytes).unwrap_or(i64::MAX));
    }
}
