//! The books of a pipeline: which sequences entered, and what became of each.
//!
//! Neighbours with one fate are one stretch, so a day of dropped ticks behind an open window is a single entry.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::id::Sequence;
use crate::sample::Tick;

/// What a pipeline lets out: everything about the sequences `range`, and nothing about others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Both ends included; `None` when nothing is decided yet.
    pub range: Option<(Sequence, Sequence)>,
    /// The rows to send, in the order of their sequences.
    pub passed: Vec<Tick>,
    /// What became of the other sequences of `range`, in order.
    pub dispositions: Vec<Disposition>,
}

/// The fate of a stretch of sequences that left without a row of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disposition {
    pub first: Sequence,
    pub last: Sequence,
    pub action: Action,
    /// Who decided it; empty for what was not collected.
    pub plugin: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A plugin chose not to send it.
    Dropped,
    /// It is inside a later row of the same output.
    Merged,
    /// The tick came, its data did not.
    NotCollected,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order of sequences.
    stretches: VecDeque<Stretch>,
}

#[derive(Clone, Debug)]
struct Stretch {
    first: Sequence,
    last: Sequence,
    fate: Fate,
}

#[derive(Clone, Debug)]
enum Fate {
    /// Inside the pipeline; with the plugin that holds it, once one does.
    Open(Option<Arc<str>>),
    Left(Action, Arc<str>),
    Passed(Box<Tick>),
}

impl Fate {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Open(a), Self::Open(b)) => a == b,
            (Self::Left(a, by), Self::Left(b, also_by)) => a == b && by == also_by,
            _ => false,
        }
    }
}

impl Ledger {
    pub(super) fn enter(&mut self, sequence: Sequence) {
        self.push(Stretch { first: sequence, last: sequence, fate: Fate::Open(None) });
    }

    pub(super) fn not_collected(&mut self, sequence: Sequence) {
        let fate = Fate::Left(Action::NotCollected, Arc::from(""));
        self.push(Stretch { first: sequence, last: sequence, fate });
    }

    /// What `tick` speaks for is inside `plugin`.
    pub(super) fn hold(&mut self, tick: &Tick, plugin: &Arc<str>) {
        self.settle(tick.first_sequence, tick.sequence, |holder| {
            Fate::Open(holder.or(Some(Arc::clone(plugin))))
        });
    }

    /// What `tick` speaks for is gone, what was merged into it too.
    pub(super) fn drop(&mut self, tick: &Tick, plugin: &Arc<str>) {
        self.settle(tick.first_sequence, tick.sequence, |_| Fate::Left(Action::Dropped, Arc::clone(plugin)));
    }

    /// `tick` leaves as a row; what else it speaks for was merged by whoever held it.
    pub(super) fn pass(&mut self, tick: Tick) {
        let (first, last) = (tick.first_sequence, tick.sequence);
        let mut row = Some(Box::new(tick));
        self.settle(last, last, |_| row.take().map_or(Fate::Open(None), Fate::Passed));
        self.settle(first, last, |holder| Fate::Left(Action::Merged, holder.unwrap_or_default()));
    }

    /// Takes out what is decided, from the oldest sequence up to the first that is still open.
    pub(super) fn release(&mut self) -> Output {
        let mut output = Output::default();
        while self.stretches.front().is_some_and(|stretch| !matches!(stretch.fate, Fate::Open(_))) {
            let Some(stretch) = self.stretches.pop_front() else { break };
            let first = output.range.map_or(stretch.first, |(first, _)| first);
            output.range = Some((first, stretch.last));
            match stretch.fate {
                Fate::Passed(tick) => output.passed.push(*tick),
                Fate::Left(action, plugin) => {
                    note(&mut output.dispositions, stretch.first, stretch.last, action, &plugin);
                }
                Fate::Open(_) => {}
            }
        }
        output
    }

    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.last.0 - stretch.first.0 + 1).sum()
    }

    /// Gives a fate to every open sequence of a range.
    fn settle(&mut self, first: Sequence, last: Sequence, mut fate: impl FnMut(Option<Arc<str>>) -> Fate) {
        self.split_before(first);
        self.split_before(last.next());
        // The range is at the end, or nearly: only dropped ticks can have come after a held one.
        for stretch in
            self.stretches.iter_mut().rev().skip_while(|s| s.first > last).take_while(|s| s.last >= first)
        {
            if let Fate::Open(holder) = &mut stretch.fate {
                let holder = holder.take();
                stretch.fate = fate(holder);
            }
        }
        if let Some(newest) = self.stretches.pop_back() {
            self.push(newest);
        }
    }

    /// Appends a stretch, to the one before it if they have one fate.
    fn push(&mut self, stretch: Stretch) {
        match self.stretches.back_mut() {
            Some(back) if back.fate.same(&stretch.fate) && back.last.next() == stretch.first => {
                back.last = stretch.last;
            }
            _ => self.stretches.push_back(stretch),
        }
    }

    /// Makes `sequence` the first of its stretch.
    fn split_before(&mut self, sequence: Sequence) {
        let Some(index) = self.stretches.iter().rposition(|s| s.first < sequence && sequence <= s.last)
        else {
            return;
        };
        let stretch = &mut self.stretches[index];
        let tail = Stretch { first: sequence, last: stretch.last, fate: stretch.fate.clone() };
        stretch.last = Sequence(sequence.0 - 1);
        self.stretches.insert(index + 1, tail);
    }
}

fn note(dispositions: &mut Vec<Disposition>, first: Sequence, last: Sequence, action: Action, plugin: &str) {
    match dispositions.last_mut() {
        Some(d) if d.action == action && d.plugin == plugin && d.last.next() == first => d.last = last,
        _ => dispositions.push(Disposition { first, last, action, plugin: plugin.to_owned() }),
    }
}
