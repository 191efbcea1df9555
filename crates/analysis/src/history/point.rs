//! One record in little room: names of series are shared by all that mention them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use model::id::{AgentId, Incarnation, Sequence};
use model::sample::{Sample, SeriesKey, SystemMetrics, Timestamp};
use proto::record::{DataRecord, NotSent};

use super::SeriesFilter;
use crate::archive::{Extra, Row};

/// The names of a record's series, in its order. Ticks of one agent mostly share one.
pub(crate) type Layout = Arc<[Arc<SeriesKey>]>;

/// A record as the history keeps it.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) at: Timestamp,
    /// When the bus got it: an agent's own clock may be wrong by years.
    pub(crate) received: Timestamp,
    pub(crate) incarnation: Arc<Incarnation>,
    pub(crate) sequence: Sequence,
    pub(crate) first_sequence: Option<Sequence>,
    pub(crate) metrics: SystemMetrics,
    pub(crate) layout: Layout,
    pub(crate) values: Box<[f64]>,
    extra: Option<Box<Extra>>,
    /// What it takes, with what only it holds.
    pub(super) bytes: usize,
}

/// A record of the history; cheap to clone.
#[derive(Clone, Debug)]
pub struct Stored {
    pub(crate) agent: Arc<AgentId>,
    pub(crate) point: Arc<Point>,
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
        let values = record.series.iter().map(|sample| sample.value).collect();
        let layout = names.layout(record.series, last);
        let row = Row {
            sequence: record.sequence,
            first_sequence: record.first_sequence,
            at: record.timestamp,
            received,
            metrics: record.metrics,
            layout: 0,
            values,
            extra: Extra { metadata: record.metadata, not_sent: record.not_sent },
        };
        Self::of_row(row, incarnation, layout, last)
    }

    /// `last` is the layout of the agent's record before: who has the same one pays for it.
    pub(super) fn of_row(
        row: Row,
        incarnation: Arc<Incarnation>,
        layout: Layout,
        last: Option<&Layout>,
    ) -> Self {
        let is_own = last.is_none_or(|last| !Arc::ptr_eq(last, &layout));
        let own_layout_bytes = if is_own { size_of_val(&*layout) } else { 0 };
        let extra_bytes = extra_bytes(&row.extra);
        Self {
            at: row.at,
            received: row.received,
            incarnation,
            sequence: row.sequence,
            first_sequence: row.first_sequence,
            metrics: row.metrics,
            bytes: OVERHEAD_BYTES
                + size_of::<Self>()
                + size_of_val(&*row.values)
                + own_layout_bytes
                + extra_bytes,
            layout,
            values: row.values,
            extra: (extra_bytes > 0).then(|| Box::new(row.extra)),
        }
    }

    /// What it takes with the names of its series, which other records mostly share.
    pub(crate) fn bytes_with_names(&self) -> usize {
        self.bytes + self.layout.iter().map(|key| key_bytes(key)).sum::<usize>()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn extra(&self) -> Option<&Extra> {
        self.extra.as_deref()
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

fn extra_bytes(extra: &Extra) -> usize {
    let texts: usize = extra.metadata.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
    texts + extra.not_sent.iter().map(|range| size_of::<NotSent>() + range.plugin.len()).sum::<usize>()
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

    /// The layout of `series`; `last` if it is the same one.
    fn layout(&mut self, series: Vec<Sample>, last: Option<&Layout>) -> Layout {
        let same = |last: &&Layout| {
            last.len() == series.len() && last.iter().zip(&series).all(|(key, sample)| **key == sample.key)
        };
        match last.filter(same) {
            Some(layout) => Arc::clone(layout),
            None => series.into_iter().map(|sample| self.name(sample.key)).collect(),
        }
    }

    /// The layouts of a block; `last` where it is the same one.
    pub(super) fn layouts(
        &mut self,
        keys: Vec<SeriesKey>,
        layouts: &[Vec<usize>],
        last: Option<&Layout>,
    ) -> Vec<Layout> {
        let keys: Vec<_> = keys.into_iter().map(|key| self.name(key)).collect();
        let layout = |places: &Vec<usize>| {
            let named = || places.iter().map(|place| &keys[*place]);
            let same = |last: &&Layout| {
                last.len() == places.len() && last.iter().zip(named()).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            last.filter(same).cloned().unwrap_or_else(|| named().cloned().collect())
        };
        layouts.iter().map(layout).collect()
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
