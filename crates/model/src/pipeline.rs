//! What plugins do to ticks between collecting and sending.
//!
//! A [`Pipeline`] runs the plugins of a config in their order and keeps the books: every sequence that enters comes out
//! in exactly one [`Output`], once, as its own row, as dropped by a named plugin, or as merged into a row. Outputs follow
//! one another without gap or overlap in the order of sequences, so each can travel as one batch. While a window is
//! open its ticks, and those that came after the first of them, wait: a crash then shows as a gap and never as
//! delivered data.
//!
//! The pipeline is told the time, on a monotonic clock. It never looks at a tick's own wall-clock time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{AgentConfig, ConfigError, PluginConfig, SandboxedConfig};
use crate::id::Sequence;
use crate::limit::PIPELINE_STRETCHES_MAX;
use crate::sample::Tick;
use crate::truth::Stage;

mod aggregation;
mod alerts;
mod deduplication;
mod filter;
mod ledger;
pub mod selftest;
mod threshold_alert;

use aggregation::Aggregation;
use deduplication::Deduplication;
use filter::Filter;
use ledger::Ledger;
pub use ledger::{Action, Disposition, Output};
use threshold_alert::ThresholdAlert;

/// One step. Built-in plugins and the host of sandboxed ones implement it.
pub trait Plugin: fmt::Debug + Send {
    /// May change the tick. On [`Verdict::Pass`] it goes on as it then is. Its sequences stay, unless it now speaks for
    /// ticks that were held.
    fn process(&mut self, tick: &mut Tick, now: Duration) -> Verdict;

    /// What is held and whose time is over. Asked before every tick.
    fn due(&mut self, _now: Duration) -> Option<Tick> {
        None
    }

    /// All that is held: the agent stops, or the plugin goes.
    fn flush(&mut self) -> Option<Tick> {
        None
    }

    /// A later plugin dropped what this one has just passed.
    fn passed_in_vain(&mut self) {}
}

/// What a plugin says about a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
    /// It is inside the plugin, and will leave as part of a later one.
    Hold,
}

/// Builds sandboxed plugins. The pipeline knows none itself.
pub trait Sandbox: fmt::Debug {
    fn build(&self, plugin: &SandboxedConfig) -> Result<Box<dyn Plugin>, Unavailable>;
}

/// Why a plugin cannot run here and what to do about it, in words for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Where no plugin can be sandboxed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSandbox;

impl Sandbox for NoSandbox {
    fn build(&self, plugin: &SandboxedConfig) -> Result<Box<dyn Plugin>, Unavailable> {
        let built_in = crate::config::keys::BUILT_IN.map(|plugin| plugin.name).join(", ");
        Err(Unavailable(format!(
            "plugin {} is not built in and sandboxed plugins cannot run in this version: use {built_in}",
            plugin.name
        )))
    }
}

/// What one plugin did so far. `processed` is always `passed + dropped`: a tick that goes into a window counts as
/// dropped, except the one whose place the window's row takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    pub processed: u64,
    pub passed: u64,
    pub dropped: u64,
}

/// The plugins of one agent, with their state.
#[derive(Debug, Default)]
pub struct Pipeline {
    steps: Vec<Step>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Step {
    /// The plugin's name; the second of a kind is `filter#2`.
    label: Arc<str>,
    config: PluginConfig,
    plugin: Box<dyn Plugin>,
    counters: Counters,
}

impl Pipeline {
    /// Fails, at stage BUILD, only for plugins that `sandbox` does not have.
    pub fn build(config: &AgentConfig, sandbox: &dyn Sandbox) -> Result<Self, ConfigError> {
        let mut pipeline = Self::default();
        pipeline.reconfigure(config, sandbox, Duration::ZERO)?;
        Ok(pipeline)
    }

    /// Runs one tick through the plugins. Sequences only grow.
    pub fn process(&mut self, mut tick: Tick, now: Duration) -> Output {
        for index in 0..self.steps.len() {
            if let Some(due) = self.steps[index].let_go(|plugin| plugin.due(now)) {
                self.run(index + 1, due, now);
            }
        }
        tick.first_sequence = tick.sequence;
        self.ledger.enter(tick.sequence);
        self.run(0, tick, now);
        if self.ledger.stretches() > PIPELINE_STRETCHES_MAX {
            self.let_all_go(now);
        }
        self.ledger.release()
    }

    /// A tick that came and whose data did not: it has a sequence, and nothing else.
    pub fn not_collected(&mut self, sequence: Sequence) -> Output {
        self.ledger.not_collected(sequence);
        self.ledger.release()
    }

    /// Sends on what plugins hold: before the agent stops or pauses.
    pub fn flush(&mut self, now: Duration) -> Output {
        self.let_all_go(now);
        self.ledger.release()
    }

    /// Runs another config from now on, or refuses it and runs on as before. A plugin whose name and settings did not
    /// change keeps its state and counters, wherever it stands; what one that goes still holds runs through the old
    /// order and is in the output.
    pub fn reconfigure(
        &mut self,
        config: &AgentConfig,
        sandbox: &dyn Sandbox,
        now: Duration,
    ) -> Result<Output, ConfigError> {
        let wanted = labelled(config.plugins());
        let kept = |step: &Step| wanted.iter().any(|(label, config)| step.is(label, config));
        let fresh = |(index, (label, config)): (usize, &(Arc<str>, &PluginConfig))| {
            if self.steps.iter().any(|step| step.is(label, config)) {
                return Ok(None);
            }
            Step::new(label, config, sandbox).map(Some).map_err(|Unavailable(message)| {
                ConfigError::new(Stage::Build, format!("plugins[{index}]"), message)
            })
        };
        let fresh: Vec<Option<Step>> = wanted.iter().enumerate().map(fresh).collect::<Result<_, _>>()?;
        for index in 0..self.steps.len() {
            if !kept(&self.steps[index]) {
                self.let_go(index, now);
            }
        }
        let mut old = std::mem::take(&mut self.steps);
        for ((label, config), fresh) in wanted.iter().zip(fresh) {
            let old_index = old.iter().position(|step| step.is(label, config));
            self.steps.extend(fresh.or_else(|| old_index.map(|index| old.remove(index))));
        }
        Ok(self.ledger.release())
    }

    /// Counters by plugin, in the order of the config.
    pub fn counters(&self) -> impl Iterator<Item = (&str, Counters)> {
        self.steps.iter().map(|step| (&*step.label, step.counters))
    }

    /// Ticks that entered and have not come out.
    pub fn waiting(&self) -> u64 {
        self.ledger.waiting()
    }

    fn let_all_go(&mut self, now: Duration) {
        for index in 0..self.steps.len() {
            self.let_go(index, now);
        }
    }

    fn let_go(&mut self, index: usize, now: Duration) {
        if let Some(tick) = self.steps[index].let_go(|plugin| plugin.flush()) {
            self.run(index + 1, tick, now);
        }
    }

    /// Runs `tick` through the steps from `first` on and notes its fate.
    fn run(&mut self, first: usize, mut tick: Tick, now: Duration) {
        for index in first..self.steps.len() {
            let step = &mut self.steps[index];
            match step.process(&mut tick, now) {
                Verdict::Pass => {}
                Verdict::Hold => return self.ledger.hold(&tick, &step.label),
                Verdict::Drop => {
                    self.ledger.drop(&tick, &step.label);
                    self.steps[first..index].iter_mut().for_each(|step| step.plugin.passed_in_vain());
                    return;
                }
            }
        }
        self.ledger.pass(tick);
    }
}

impl Step {
    fn new(label: &Arc<str>, config: &PluginConfig, sandbox: &dyn Sandbox) -> Result<Self, Unavailable> {
        let plugin: Box<dyn Plugin> = match config {
            PluginConfig::Deduplication(config) => Box::new(Deduplication::new(config.clone())),
            PluginConfig::ThresholdAlert(config) => Box::new(ThresholdAlert::new(config.clone())),
            PluginConfig::Aggregation(config) => Box::new(Aggregation::new(config.clone())),
            PluginConfig::Filter(config) => Box::new(Filter::new(config.clone())),
            PluginConfig::Sandboxed(config) => sandbox.build(config)?,
        };
        Ok(Self { label: Arc::clone(label), config: config.clone(), plugin, counters: Counters::default() })
    }

    fn is(&self, label: &str, config: &PluginConfig) -> bool {
        &*self.label == label && self.config == *config
    }

    fn process(&mut self, tick: &mut Tick, now: Duration) -> Verdict {
        let verdict = self.plugin.process(tick, now);
        self.counters.processed += 1;
        match verdict {
            Verdict::Pass => self.counters.passed += 1,
            Verdict::Drop | Verdict::Hold => self.counters.dropped += 1,
        }
        verdict
    }

    /// What the plugin lets go of takes the place of the last tick it held.
    fn let_go(&mut self, ask: impl FnOnce(&mut dyn Plugin) -> Option<Tick>) -> Option<Tick> {
        let tick = ask(&mut *self.plugin)?;
        self.counters.dropped = self.counters.dropped.saturating_sub(1);
        self.counters.passed += 1;
        Some(tick)
    }
}

fn labelled(plugins: &[PluginConfig]) -> Vec<(Arc<str>, &PluginConfig)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let label = |config: &PluginConfig, nth: usize| match nth {
        1 => Arc::from(config.name()),
        nth => Arc::from(format!("{}#{nth}", config.name())),
    };
    plugins
        .iter()
        .map(|config| {
            let nth = seen.entry(config.name()).or_default();
            *nth += 1;
            (label(config, *nth), config)
        })
        .collect()
}

#[cfg(test)]
mod tests;
