//! One record in little room: names of series are shared by all that mention them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::id::{AgentId, Incarnation, Sequence};
use model::sample::{Sample, SeriesKey, SystemMetrics, Timestamp};
use proto::record::{DataRecord, NotSent};

use super::SeriesFilter;

/// The names of a record's series, in its order. Ticks of one agent mostly share one.
pub(super) type Layout = Arc<[Arc<SeriesKey>]>;

/// A record as the history keeps it.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) at: Timestamp,
    /// When the bus got it: an agent's own clock may be wrong by years.
    pub(super) received: Timestamp,
    pub(super) incarnation: Arc<Incarnation>,
    pub(super) sequence: Sequence,
    pub(super) first_sequence: Option<Sequence>,
    pub(super) metrics: SystemMetrics,
    pub(super) layout: Layout,
    pub(super) values: Box<[f64]>,
    extra: Option<Box<Extra>>,
    /// What it takes, with what only it holds.
    pub(super) bytes: usize,
}

/// What most records do not have.
#[derive(Debug)]
struct Extra {
    metadata: BTreeMap<String, String>,
    not_sent: Vec<NotSent>,
}

/// A record of the history; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stored {
    pub(super) agent: Arc<AgentId>,
    pub(super) point: Arc<Point>,
}

/// A map entry, two reference counts and the allocator's rounding.
const OVERHEAD_BYTES: usize = 96;

impl Point {
    pub(super) fn new(
        record: DataRecord,
        received: Timestamp,
        incarnation: Arc<Incarnation>,
        names: &mut Names,
        last: Option<&Layout>,
    ) -> Self {
        let values: Box<[f64]> = record.series.iter().map(|sample| sample.value).collect();
        let (layout, own_layout_bytes) = names.layout(record.series, last);
        let extra = Extra { metadata: record.metadata, not_sent: record.not_sent };
        let bytes =
            OVERHEAD_BYTES + size_of::<Self>() + size_of_val(&*values) + own_layout_bytes + extra.bytes();
        Self {
            at: record.timestamp,
            received,
            incarnation,
            sequence: record.sequence,
            first_sequence: record.first_sequence,
            metrics: record.metrics,
            layout,
            values,
            extra: (extra.bytes() > 0).then(|| Box::new(extra)),
            bytes,
        }
    }

    /// Whether it holds a measurement, not only an account of what was not sent.
    pub(super) fn has_values(&self) -> bool {
        !self.values.is_empty() || self.metrics != SystemMetrics::default()
    }

    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        self.extra.as_ref().map(|extra| extra.metadata.clone()).unwrap_or_default()
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = (&SeriesKey, f64)> {
        self.layout.iter().map(AsRef::as_ref).zip(self.values.iter().copied())
    }
}

impl Extra {
    fn bytes(&self) -> usize {
        let texts: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
        texts + self.not_sent.iter().map(|range| size_of::<NotSent>() + range.plugin.len()).sum::<usize>()
    }
}

impl Stored {
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    pub fn at(&self) -> Timestamp {
        self.point.at
    }

    /// The record as it came, but for the series that `filter` leaves out.
    pub fn record(&self, filter: &SeriesFilter) -> DataRecord {
        let point = &*self.point;
        let series = point.samples().filter(|(key, _)| filter.passes(&key.name));
        DataRecord {
            agent_id: (*self.agent).clone(),
            timestamp: point.at,
            metrics: point.metrics,
            metadata: point.metadata(),
            incarnation: (*point.incarnation).clone(),
            sequence: point.sequence,
            first_sequence: point.first_sequence,
            series: series.map(|(key, value)| Sample { key: key.clone(), value }).collect(),
            not_sent: point.extra.as_ref().map(|extra| extra.not_sent.clone()).unwrap_or_default(),
        }
    }
}

/// Every name in use, once.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashSet<Arc<SeriesKey>>,
    bytes: usize,
}

impl Names {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets go of the names that no record mentions.
    pub(super) fn sweep(&mut self) {
        self.known.retain(|key| Arc::strong_count(key) > 1);
        self.bytes = self.known.iter().map(|key| key_bytes(key)).sum();
    }

    /// The layout of `series`, `last` if it is the same one; and the bytes of a new one.
    fn layout(&mut self, series: Vec<Sample>, last: Option<&Layout>) -> (Layout, usize) {
        let same = |last: &&Layout| {
            last.len() == series.len() && last.iter().zip(&series).all(|(key, sample)| **key == sample.key)
        };
        if let Some(layout) = last.filter(same) {
            return (Arc::clone(layout), 0);
        }
        let layout: Layout = series.into_iter().map(|sample| self.name(sample.key)).collect();
        let bytes = size_of_val(&*layout);
        (layout, bytes)
    }

    fn name(&mut self, key: SeriesKey) -> Arc<SeriesKey> {
        if let Some(known) = self.known.get(&key) {
            return Arc::clone(known);
        }
        self.bytes += key_bytes(&key);
        let key = Arc::new(key);
        self.known.insert(Arc::clone(&key));
        key
    }
}

fn key_bytes(key: &SeriesKey) -> usize {
    let attributes: usize = key.attributes.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
    size_of::<SeriesKey>() + key.name.len() + attributes + 32
}
