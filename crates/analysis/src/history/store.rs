//! The history itself: per agent and run, by sequence, each record once. Pure: told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::id::{AgentId, Incarnation};
use model::limit::EMPTY_RUNS_PER_AGENT_MAX;
use model::sample::Timestamp;
use proto::record::DataRecord;

use super::point::{Layout, Names, Point, Stored};
use crate::archive::Block;

/// Evictions between two looks for names nobody uses any more: each look visits every name.
const SWEEP_EVERY: usize = 4_096;

/// Everything kept, within a window and a number of bytes.
#[derive(Debug)]
pub(super) struct Store {
    window: Duration,
    bytes_max: usize,
    agents: BTreeMap<Arc<AgentId>, Kept>,
    /// The same agents by what they take, to find the largest.
    by_bytes: BTreeSet<(usize, Arc<AgentId>)>,
    names: Names,
    point_bytes: usize,
    records: usize,
    unswept: usize,
}

/// One agent's records.
#[derive(Debug, Default)]
struct Kept {
    runs: BTreeMap<Arc<Incarnation>, Run>,
    bytes: usize,
    layout: Option<Layout>,
}

/// One incarnation's records.
#[derive(Debug)]
struct Run {
    points: BTreeMap<u64, Arc<Point>>,
    /// Up to this sequence records have left; one sent again must not come back in.
    floor: Option<u64>,
    /// When the newest came.
    heard: Timestamp,
}

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Taken {
    New(Stored),
    /// It is there already.
    Repeated(Stored),
    /// Its run has lost later ones already.
    Late(Stored),
}

impl Store {
    pub(super) fn new(window: Duration, bytes_max: usize) -> Self {
        Self {
            window,
            bytes_max,
            agents: BTreeMap::new(),
            by_bytes: BTreeSet::new(),
            names: Names::default(),
            point_bytes: 0,
            records: 0,
            unswept: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.point_bytes + self.names.bytes()
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Takes a record in. [`Self::shrink`] comes after it.
    pub(super) fn take(&mut self, record: DataRecord, received: Timestamp) -> Taken {
        let (agent, incarnation) = self.names_of(&record.agent_id, &record.incarnation);
        let kept = self.agents.entry(Arc::clone(&agent)).or_default();
        let run = kept.runs.entry(Arc::clone(&incarnation)).or_insert_with(|| Run::new(received));
        if let Some(point) = run.points.get(&record.sequence.0) {
            return Taken::Repeated(Stored { agent, point: Arc::clone(point) });
        }
        let is_late = run.is_late(record.sequence.0);
        let point = Point::new(record, received, incarnation, &mut self.names, kept.layout.as_ref());
        let stored = Stored { agent, point: Arc::new(point) };
        if is_late {
            return Taken::Late(stored);
        }
        self.insert(&stored);
        Taken::New(stored)
    }

    /// Takes in what the bus got since `since` and is not there yet. [`Self::shrink`] comes after it. Returns how many
    /// records came.
    pub(super) fn restore(
        &mut self,
        agent: &AgentId,
        incarnation: &Incarnation,
        block: Block,
        since: Timestamp,
    ) -> usize {
        let before = self.records;
        let (agent, incarnation) = self.names_of(agent, incarnation);
        let mut last = self.agents.get(&agent).and_then(|kept| kept.layout.clone());
        let layouts = self.names.layouts(block.keys, &block.layouts, last.as_ref());
        for row in block.rows.into_iter().filter(|row| row.received >= since) {
            let kept = self.agents.entry(Arc::clone(&agent)).or_default();
            let run = kept.runs.entry(Arc::clone(&incarnation)).or_insert_with(|| Run::new(row.received));
            if run.points.contains_key(&row.sequence.0) || run.is_late(row.sequence.0) {
                continue;
            }
            let layout = Arc::clone(&layouts[row.layout]);
            let point = Point::of_row(row, Arc::clone(&incarnation), layout, last.as_ref());
            last = Some(Arc::clone(&point.layout));
            self.insert(&Stored { agent: Arc::clone(&agent), point: Arc::new(point) });
        }
        self.records - before
    }

    /// The one copy of each name.
    fn names_of(&self, agent: &AgentId, incarnation: &Incarnation) -> (Arc<AgentId>, Arc<Incarnation>) {
        let known = self.agents.get_key_value(agent);
        let run = known.and_then(|(_, kept)| kept.runs.get_key_value(incarnation));
        (
            known.map_or_else(|| Arc::new(agent.clone()), |(agent, _)| Arc::clone(agent)),
            run.map_or_else(|| Arc::new(incarnation.clone()), |(name, _)| Arc::clone(name)),
        )
    }

    /// Puts a record in that its run does not have.
    fn insert(&mut self, stored: &Stored) {
        let Stored { agent, point } = stored;
        let kept = self.agents.entry(Arc::clone(agent)).or_default();
        kept.layout = Some(Arc::clone(&point.layout));
        let run = kept.runs.entry(Arc::clone(&point.incarnation)).or_insert_with(|| Run::new(point.received));
        run.points.insert(point.sequence.0, Arc::clone(point));
        run.heard = run.heard.max(point.received);
        self.by_bytes.remove(&(kept.bytes, Arc::clone(agent)));
        kept.bytes += point.bytes;
        self.by_bytes.insert((kept.bytes, Arc::clone(agent)));
        self.point_bytes += point.bytes;
        self.records += 1;
    }

    /// Lets go until the bytes fit: the agent that takes most loses its oldest. Returns how many records went.
    pub(super) fn shrink(&mut self) -> usize {
        let before = self.records;
        while self.bytes() > self.bytes_max {
            let Some((_, largest)) = self.by_bytes.last().cloned() else {
                self.sweep();
                break;
            };
            self.let_go(&largest, Kept::pop_oldest);
            self.unswept += 1;
            if self.unswept >= SWEEP_EVERY {
                self.sweep();
            }
        }
        before - self.records
    }

    /// Lets go of what the bus got before the window. Returns how many records went.
    pub(super) fn expire(&mut self, now: Timestamp) -> usize {
        let (before, begin) = (self.records, now.minus(self.window));
        for agent in self.agents.keys().cloned().collect::<Vec<_>>() {
            self.let_go(&agent, |kept| kept.pop_before(begin));
        }
        self.sweep();
        before - self.records
    }

    /// The records whose own time is in `from..until`, of one agent, in the order of its runs.
    pub(super) fn select(
        &self,
        agent: &AgentId,
        from: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = Stored> {
        let found = self.agents.get_key_value(agent);
        found.into_iter().flat_map(move |(agent, kept)| {
            let points = kept.runs.values().flat_map(|run| run.points.values());
            points
                .filter(move |point| from <= point.at && point.at < until)
                .map(|point| Stored { agent: Arc::clone(agent), point: Arc::clone(point) })
        })
    }

    /// The newest measurement of an agent: the last of the run heard from last, whatever the agent's clock says.
    pub(super) fn latest(&self, agent: &AgentId) -> Option<Stored> {
        let (agent, kept) = self.agents.get_key_value(agent)?;
        let measured = |run: &Run| run.points.values().rev().find(|point| point.has_values()).cloned();
        let newest = kept.runs.values().filter_map(measured).max_by_key(|point| point.received)?;
        Some(Stored { agent: Arc::clone(agent), point: newest })
    }

    pub(super) fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.keys().map(AsRef::as_ref)
    }

    /// Changes one agent's records with `pop` and keeps the sums true.
    fn let_go(&mut self, agent: &Arc<AgentId>, pop: impl FnOnce(&mut Kept) -> usize) {
        let Some(kept) = self.agents.get_mut(agent) else { return };
        let bytes = kept.bytes;
        self.records -= pop(kept);
        if kept.bytes != bytes {
            self.point_bytes -= bytes - kept.bytes;
            self.by_bytes.remove(&(bytes, Arc::clone(agent)));
            if kept.bytes > 0 {
                self.by_bytes.insert((kept.bytes, Arc::clone(agent)));
            }
        }
        if kept.runs.is_empty() {
            self.agents.remove(agent);
        }
    }

    fn sweep(&mut self) {
        self.unswept = 0;
        self.names.sweep();
    }
}

impl Kept {
    /// Lets go of the record that came first. Returns how many went: 1, or 0 when there was none.
    fn pop_oldest(&mut self) -> usize {
        let first = |run: &Run| run.points.first_key_value().map(|(_, point)| point.received);
        let runs = self.runs.iter().filter_map(|(name, run)| Some((first(run)?, name)));
        let Some(oldest) = runs.min().map(|(_, name)| Arc::clone(name)) else { return 0 };
        let Some(freed) = self.runs.get_mut(&oldest).and_then(Run::pop) else { return 0 };
        self.bytes -= freed;
        self.forget_empty_runs();
        self.forget_unused_layout();
        1
    }

    /// Lets go of what came before `begin`, and of runs last heard from before it. Returns how many records went.
    fn pop_before(&mut self, begin: Timestamp) -> usize {
        let mut gone = 0;
        for run in self.runs.values_mut() {
            while run.points.first_key_value().is_some_and(|(_, point)| point.received < begin) {
                self.bytes -= run.pop().unwrap_or(0);
                gone += 1;
            }
        }
        self.runs.retain(|_, run| !run.points.is_empty() || run.heard >= begin);
        self.forget_unused_layout();
        gone
    }

    /// The last layout would keep its names in use.
    fn forget_unused_layout(&mut self) {
        if self.bytes == 0 {
            self.layout = None;
        }
    }

    fn forget_empty_runs(&mut self) {
        let empty = self.runs.values().filter(|run| run.points.is_empty()).count();
        if empty > EMPTY_RUNS_PER_AGENT_MAX {
            let runs = self.runs.iter().filter(|(_, run)| run.points.is_empty());
            let oldest = runs.min_by_key(|(_, run)| run.heard).map(|(name, _)| Arc::clone(name));
            oldest.and_then(|name| self.runs.remove(&name));
        }
    }
}

impl Run {
    fn new(heard: Timestamp) -> Self {
        Self { points: BTreeMap::new(), floor: None, heard }
    }

    fn is_late(&self, sequence: u64) -> bool {
        self.floor.is_some_and(|floor| sequence <= floor)
    }

    /// Takes the first record out and returns its bytes.
    fn pop(&mut self) -> Option<usize> {
        let (sequence, point) = self.points.pop_first()?;
        self.floor = self.floor.max(Some(sequence));
        Some(point.bytes)
    }
}
