//! What to send next on one stream: batches while there are credits, the schema before the batch that needs it.
//!
//! A value without IO. It reads the buffer and never releases from it: an acknowledgement says up to where the owner may.

use std::collections::VecDeque;

use model::id::{Incarnation, Sequence};
use model::limit;
use proto::columns::Encoder;
use proto::convert::not_sent_to_wire;
use proto::wire::agent_message::Body;
use proto::wire::{self, Welcome};

use crate::buffer::{Buffer, Position};
use crate::parcel::Parcel;

/// The data side of one session.
#[derive(Debug)]
pub(crate) struct Flow {
    incarnation: Incarnation,
    credits: usize,
    batch_bytes_max: usize,
    encoder: Encoder,
    /// The schema the server knows of; none has the id 0.
    announced: u32,
    /// Messages that are made and not sent yet: schemas and their batch.
    ready: VecDeque<Body>,
    next_id: u64,
    /// The first parcel that is in no batch.
    next: Position,
    /// Batches without acknowledgement, with the position behind their last parcel.
    unacknowledged: VecDeque<(u64, Position)>,
}

/// The server acknowledged what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("batch {acknowledged} was acknowledged, and the last one sent is {sent}")]
pub(crate) struct NeverSent {
    acknowledged: u64,
    sent: u64,
}

impl Flow {
    /// Begins at the oldest parcel that is not acknowledged. A server that grants nothing gets nothing.
    pub(crate) fn new(incarnation: Incarnation, welcome: &Welcome, buffer: &Buffer) -> Self {
        let bytes = usize::try_from(welcome.batch_bytes_max).unwrap_or(usize::MAX);
        Self {
            incarnation,
            credits: usize::try_from(welcome.credits).unwrap_or(usize::MAX),
            batch_bytes_max: if bytes == 0 {
                limit::BATCH_BYTES_MAX
            } else {
                bytes.min(limit::BATCH_BYTES_MAX)
            },
            encoder: Encoder::default(),
            announced: 0,
            ready: VecDeque::new(),
            next_id: 1,
            next: buffer.front(),
            unacknowledged: VecDeque::new(),
        }
    }

    /// The next message, if the server may have one.
    pub(crate) fn next(&mut self, buffer: &Buffer) -> Option<Body> {
        if self.ready.is_empty() && self.unacknowledged.len() < self.credits {
            self.prepare(buffer);
        }
        self.ready.pop_front()
    }

    /// Whether [`Self::next`] has something.
    pub(crate) fn has_next(&self, buffer: &Buffer) -> bool {
        !self.ready.is_empty()
            || (self.unacknowledged.len() < self.credits && buffer.get(self.next).is_some())
    }

    /// Everything up to this batch is durable: answers up to where the buffer may be released.
    pub(crate) fn acknowledged(&mut self, batch_id: u64) -> Result<Option<Position>, NeverSent> {
        if batch_id >= self.next_id {
            return Err(NeverSent { acknowledged: batch_id, sent: self.next_id - 1 });
        }
        let mut end = None;
        while let Some((id, behind)) = self.unacknowledged.front()
            && *id <= batch_id
        {
            end = Some(*behind);
            self.unacknowledged.pop_front();
        }
        Ok(end)
    }

    /// Makes the next batch, and the schemas it needs.
    fn prepare(&mut self, buffer: &Buffer) {
        let Some((_, first)) = buffer.get(self.next) else { return };
        let mut batch = self.empty_batch(first.first);
        let mut bytes = 0;
        let mut later = Vec::new();
        while let Some((at, parcel)) = buffer.get(self.next) {
            bytes += parcel.wire_bytes_max();
            let accounted = batch.rows.len() + batch.dispositions.len();
            if accounted > 0 && (bytes > self.batch_bytes_max || accounted >= limit::BATCH_TICKS_MAX) {
                break;
            }
            if let Err(schemas) = self.add(&parcel, &mut batch) {
                later = schemas;
                break;
            }
            batch.last_sequence = parcel.last.0;
            self.next = at.next();
        }
        self.unacknowledged.push_back((batch.batch_id, self.next));
        self.ready.push_back(Body::Batch(batch));
        self.ready.extend(later.into_iter().map(Body::Schema));
    }

    fn empty_batch(&mut self, first: Sequence) -> wire::Batch {
        let batch_id = self.next_id;
        self.next_id += 1;
        let incarnation = self.incarnation.to_string();
        wire::Batch { batch_id, incarnation, first_sequence: first.0, ..wire::Batch::default() }
    }

    /// Adds a parcel. Refuses when its row needs a schema that retires the one of the rows before it: that schema must
    /// follow this batch, and the row comes in the next.
    fn add(&mut self, parcel: &Parcel, batch: &mut wire::Batch) -> Result<(), Vec<wire::Schema>> {
        if let Some(tick) = &parcel.tick {
            let (mut schemas, id, rows) = self.encoder.encode(std::slice::from_ref(tick));
            // The encoder repeats a schema without columns with every tick.
            schemas.retain(|schema| schema.id != self.announced || !schema.series.is_empty());
            self.announced = id;
            if !batch.rows.is_empty() && batch.schema_id != id {
                return Err(schemas);
            }
            self.ready.extend(schemas.into_iter().map(Body::Schema));
            batch.schema_id = id;
            batch.rows.extend(rows);
        }
        batch.dispositions.extend(parcel.not_sent.iter().map(not_sent_to_wire));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
