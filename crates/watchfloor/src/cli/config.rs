//! `watchfloor config`: what agents are told to do, for one agent or a group.
//!
//! Every write is validated by the API and may compare the revision it was based on; `--unchecked` stores the text as
//! anybody with access to the registry could, and leaves the judgement to the agents.

mod changes;
mod edit;

use std::io::Write;

use model::config::{self, GroupConfig};
use model::id::{AgentId, GroupName, Revision};
use model::presence::Presence;
use proto::api::{ConfigWrite, Rollback};
use proto::key::{HistoryEntry, Target};
use runtime::clock;

use super::output::{self, Output};
use super::render::{self, Cell, Table};
use super::{operator, parse};
use crate::api::{Api, ApiError};
use crate::exit::{Exit, Failure, Outcome};

/// Read and write the config of agents and groups; agents apply it live.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor config set agent-001 '{\"interval\": 0.5}'
  watchfloor config set agent-001 @agent.json --expect-revision 7
  watchfloor config set --group db '{\"selector\": \"role=db\", \"priority\": 10, \"config\": {\"interval\": 1}}'
  watchfloor config edit agent-001
  watchfloor config effective agent-001
  watchfloor config rollback agent-001")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the stored text.
    Get {
        #[command(flatten)]
        on: On,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Store a config: the JSON itself, @file, or - for the standard input.
    #[command(override_usage = "watchfloor config set [OPTIONS] <AGENT|--group GROUP> <JSON|@FILE|->")]
    Set {
        #[command(flatten)]
        words: Words,
        #[command(flatten)]
        how: How,
    },
    /// Open the stored config in $VISUAL or $EDITOR and store what comes back.
    Edit {
        #[command(flatten)]
        on: On,
    },
    /// Remove the stored config; groups and defaults remain.
    Unset {
        #[command(flatten)]
        on: On,
        #[arg(long, value_name = "REVISION")]
        expect_revision: Option<u64>,
    },
    /// Check a config without storing it; needs no running system.
    #[command(override_usage = "watchfloor config validate [--group GROUP] [AGENT] <JSON|@FILE|->")]
    Validate {
        #[command(flatten)]
        words: Words,
    },
    /// Show what changed: since the version before, between two versions, or against what is in effect.
    Diff {
        #[command(flatten)]
        on: On,
        /// The older version; the one before the newest when absent.
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// The newer version; the stored one when absent.
        #[arg(long, value_name = "REVISION")]
        to: Option<u64>,
        /// From the stored config to the effective one: what groups and defaults add.
        #[arg(long, conflicts_with_all = ["from", "to", "group"])]
        effective: bool,
    },
    /// List the observed versions: when, by whom, what changed.
    History {
        #[command(flatten)]
        on: On,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Store an earlier version again, as a new revision.
    Rollback {
        #[command(flatten)]
        on: On,
        /// The version to return to; the one before the current when absent.
        #[arg(long, value_name = "REVISION")]
        to: Option<u64>,
    },
    /// Print what an agent is told to run: groups and its own config, merged; what they do not name has its default.
    Effective {
        #[arg(value_name = "AGENT")]
        agent: AgentId,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Whose config.
#[derive(Debug, clap::Args)]
struct On {
    #[arg(value_name = "AGENT", required_unless_present = "group")]
    agent: Option<AgentId>,
    /// A group's config instead of an agent's.
    #[arg(long, value_name = "GROUP", conflicts_with = "agent")]
    group: Option<GroupName>,
}

/// Whose config and what, in the order people type them.
#[derive(Debug, clap::Args)]
struct Words {
    #[arg(required = true, num_args = 1..=2, value_name = "AGENT> <JSON|@FILE|-")]
    words: Vec<String>,
    /// A group's config instead of an agent's.
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Store only if the stored revision is this one; 0: only if there is none.
    #[arg(long, value_name = "REVISION")]
    expect_revision: Option<u64>,
    /// Store it even if it is wrong; agents will refuse it and say so.
    #[arg(long)]
    unchecked: bool,
}

impl On {
    fn target(&self) -> Target {
        match (&self.agent, &self.group) {
            (Some(agent), _) => Target::Agent(agent.clone()),
            (None, Some(group)) => Target::Group(group.clone()),
            (None, None) => unreachable!("clap requires one of the two"),
        }
    }
}

impl Words {
    /// The target, if one is named, and the text.
    fn read(&self) -> Result<(Option<Target>, String), Failure> {
        let usage = |error: parse::ArgumentError| Failure::new(Exit::Usage, error);
        let (agent, text) = match (&self.words[..], &self.group) {
            ([text], _) => (None, text),
            ([agent, text], None) => {
                (Some(AgentId::new(agent.as_str()).map_err(|error| usage(error.into()))?), text)
            }
            _ => {
                return Err(Failure::message(Exit::Usage, "an agent and --group are given: use one of them"));
            }
        };
        let target = agent.map(Target::Agent).or_else(|| self.group.clone().map(Target::Group));
        Ok((target, parse::text(text).map_err(usage)?))
    }
}

impl Args {
    pub(crate) fn run(&self, api: &Api, out: &mut dyn Write) -> Outcome {
        match &self.action {
            Action::Get { on, output } => get(api, &on.target(), *output, out)?,
            Action::Set { words, how } => set(api, words, how, out)?,
            Action::Edit { on } => return edit::run(api, &on.target(), out),
            Action::Unset { on, expect_revision } => {
                let target = on.target();
                let written = api.delete_config(&target, expect_revision.map(Revision), &operator())?;
                writeln!(out, "{} is removed, revision {}", name(&target), written.revision)?;
            }
            Action::Validate { words } => return validate(words, out),
            Action::Diff { on, from, to, effective } => {
                diff(api, &on.target(), *effective, from.map(Revision), to.map(Revision), out)?;
            }
            Action::History { on, output } => history(api, &on.target(), *output, out)?,
            Action::Rollback { on, to } => {
                let target = on.target();
                let rollback = Rollback { to: to.map(Revision), by: Some(operator()) };
                let written = api.roll_back(&target, &rollback)?;
                let now = api.config(&target)?;
                writeln!(out, "{} is stored as revision {}:\n{}", name(&target), written.revision, now.text)?;
            }
            Action::Effective { agent, output } => effective(api, agent, *output, out)?,
        }
        Ok(Exit::Ok)
    }
}

fn get(api: &Api, target: &Target, output: Output, out: &mut dyn Write) -> Result<(), Failure> {
    let stored = api.config(target).map_err(|error| explain_absence(error, target))?;
    match output {
        Output::Json => output::json(out, &stored)?,
        Output::Table => writeln!(out, "{}", stored.text)?,
    }
    Ok(())
}

fn explain_absence(error: ApiError, target: &Target) -> Failure {
    match target {
        Target::Agent(id) if error.is_not_found() => Failure::message(
            Exit::Failed,
            format!(
                "{id} has no config of its own; `watchfloor config effective {id}` shows what it is to run"
            ),
        ),
        Target::Agent(_) | Target::Group(_) => error.into(),
    }
}

fn set(api: &Api, words: &Words, how: &How, out: &mut dyn Write) -> Result<(), Failure> {
    let (target, text) = words.read()?;
    let Some(target) = target else {
        return Err(Failure::message(Exit::Usage, "whose config? name an agent before the JSON, or --group"));
    };
    let write = ConfigWrite {
        text,
        expect_revision: how.expect_revision.map(Revision),
        unchecked: how.unchecked,
        by: Some(operator()),
    };
    let written = api.write_config(&target, &write)?;
    writeln!(out, "{} is stored as revision {}{}", name(&target), written.revision, hint(&target))?;
    // A config may wait for its agent; it may also have been meant for another.
    if let Target::Agent(id) = &target
        && api.agent(id).is_ok_and(|agent| agent.entry.status == Presence::NeverSeen)
    {
        writeln!(out, "no agent {id} has ever connected: the config waits for it")?;
    }
    Ok(())
}

fn hint(target: &Target) -> String {
    match target {
        Target::Agent(id) => format!("; `watchfloor status {id}` shows whether it runs"),
        Target::Group(_) => "; `watchfloor agents` shows where it runs".to_owned(),
    }
}

/// The same checks as the API's and the agents'.
fn validate(words: &Words, out: &mut dyn Write) -> Outcome {
    let (target, text) = words.read()?;
    let checked = match target {
        Some(Target::Group(_)) => {
            GroupConfig::parse(&text).and_then(|group| config::check(&group.config).map(|_| ()))
        }
        Some(Target::Agent(_)) | None => config::parse(&text).map(|_| ()),
    };
    let Err(error) = checked else {
        writeln!(out, "valid")?;
        return Ok(Exit::Ok);
    };
    for fault in error.faults() {
        let path = if fault.path.is_empty() { "the whole text" } else { &fault.path };
        writeln!(out, "{}  {}: {}", fault.stage.label(), Cell::styled(path, render::RED), fault.message)?;
    }
    Ok(Exit::Failed)
}

fn diff(
    api: &Api,
    target: &Target,
    effective: bool,
    from: Option<Revision>,
    to: Option<Revision>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if let (true, Target::Agent(id)) = (effective, target) {
        let effective = api.effective_config(id)?.config.to_string();
        let stored = match api.config(target) {
            Ok(stored) => stored.text,
            Err(error) if error.is_not_found() => "{}".to_owned(),
            Err(error) => return Err(error.into()),
        };
        changes::print(&stored, &effective, out)?;
        return Ok(());
    }
    let versions = api.config_history(target)?;
    let (old, new) =
        changes::between(&versions, from, to).map_err(|error| Failure::new(Exit::Failed, error))?;
    let text = |entry: Option<&HistoryEntry>| entry.and_then(|entry| entry.value.clone()).unwrap_or_default();
    let label = |entry: Option<&HistoryEntry>| {
        entry.map_or_else(|| "nothing".to_owned(), |entry| format!("revision {}", entry.revision))
    };
    writeln!(out, "{} → {}", label(old), label(Some(new)))?;
    changes::print(&text(old), &text(Some(new)), out)?;
    Ok(())
}

fn history(api: &Api, target: &Target, output: Output, out: &mut dyn Write) -> Result<(), Failure> {
    let mut versions = api.config_history(target)?;
    versions.sort_by_key(|version| version.revision);
    if output == Output::Json {
        output::json(out, &versions)?;
        return Ok(());
    }
    if versions.is_empty() {
        writeln!(out, "no version of {} was observed", name(target))?;
        return Ok(());
    }
    let mut table = Table::new(["REVISION", "WHEN", "BY", "CHANGE"]);
    let mut before = "";
    for version in &versions {
        let text = version.value.as_deref().unwrap_or_default();
        table.row([
            Cell::right(version.revision.to_string()),
            Cell::plain(format!("{} ago", render::age(clock::wall().since(version.at)))),
            Cell::plain(&version.by),
            Cell::plain(changes::summary(before, version.value.as_deref())),
        ]);
        before = text;
    }
    table.print(out)?;
    Ok(())
}

fn effective(api: &Api, agent: &AgentId, output: Output, out: &mut dyn Write) -> Result<(), Failure> {
    let effective = api.effective_config(agent)?;
    if output == Output::Json {
        output::json(out, &effective)?;
        return Ok(());
    }
    let mut table = Table::new(["KEY", "VALUE", "FROM"]);
    for (key, value) in effective.config.as_object().into_iter().flatten() {
        let origin = effective.origin.get(key).map_or("-", String::as_str);
        table.row([Cell::plain(key), Cell::plain(value.to_string()), Cell::plain(origin)]);
    }
    if effective.config.as_object().is_some_and(|config| !config.is_empty()) {
        table.print(out)?;
    } else {
        writeln!(out, "nothing is configured: {agent} runs the defaults")?;
    }
    writeln!(
        out,
        "revision {}, digest {}; what is not named here has its default",
        effective.revision, effective.digest
    )?;
    Ok(())
}

fn name(target: &Target) -> String {
    match target {
        Target::Agent(id) => format!("config of {id}"),
        Target::Group(group) => format!("config of group {group}"),
    }
}
