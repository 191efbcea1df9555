//! `watchfloor status`: everything about one agent, asked live where it is there, from the inventory where it is not.

use std::io::Write;
use std::time::{Duration, Instant};

use model::command::CommandType;
use model::id::AgentId;
use model::presence::Presence;
use model::sample::Timestamp;
use model::truth::{ConfigTruth, Mark};
use proto::api::{Agent, CommandRequest, CommandTarget};
use proto::key::Client;
use proto::record::ResponseRecord;
use runtime::clock;
use serde_json::{Map, json};

use super::output::{self, Output};
use super::render::{self, Cell};
use super::send_command::Wait;
use super::{operator, parse};
use crate::api::{Api, ApiError};
use crate::exit::{Exit, Outcome};

/// Show one agent: presence, config truth, and its live answer to STATUS.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor status agent-001
  watchfloor status agent-001 -o json | jq .live.result

Config truth, in five fields: desired is what the registry asks for; received, running and last good are the
agent's own word; last failed says which revision was refused, at which stage and where.")]
pub(crate) struct Args {
    #[arg(value_name = "AGENT")]
    agent: AgentId,
    /// How long the agent has for its live answer.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse::timeout)]
    timeout: Duration,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    pub(crate) fn run(&self, api: &Api, out: &mut dyn Write) -> Outcome {
        let known = api.agent(&self.agent)?;
        let live = Live::ask(api, &known, self.timeout)?;
        if self.output == Output::Json {
            output::json(out, &json!({ "agent": known, "live": live.response() }))?;
            return Ok(Exit::Ok);
        }
        identity(&known, out)?;
        truth(&known, out)?;
        live.print(out)?;
        Ok(Exit::Ok)
    }
}

/// What came of asking the agent itself.
enum Live {
    Answered(Box<ResponseRecord>, Duration),
    /// It was asked and the answer is missing or not a success.
    Silent(Option<Box<ResponseRecord>>),
    /// Asking makes no sense.
    NotAsked(&'static str),
}

impl Live {
    fn ask(api: &Api, known: &Agent, timeout: Duration) -> Result<Self, ApiError> {
        if known.entry.client == Client::StreamMetrics {
            return Ok(Self::NotAsked("its client reports no status"));
        }
        match known.entry.status {
            Presence::Online | Presence::Late | Presence::Duplicate => {}
            Presence::Offline | Presence::Shutdown | Presence::Restarting | Presence::NeverSeen => {
                return Ok(Self::NotAsked("it is not connected"));
            }
        }
        let request = CommandRequest {
            target: CommandTarget::Agents(vec![known.entry.agent_id.clone()]),
            kind: CommandType::Status,
            params: Map::new(),
            timeout_seconds: Some(timeout.as_secs_f64()),
            command_id: None,
            issued_by: Some(operator()),
        };
        let asked = Instant::now();
        let accepted = api.order(&request)?;
        let response = Wait::new(api, &accepted, timeout).next_final()?.map(Box::new);
        Ok(match response {
            Some(response) if response.success => Self::Answered(response, asked.elapsed()),
            other => Self::Silent(other),
        })
    }

    fn response(&self) -> Option<&ResponseRecord> {
        match self {
            Self::Answered(response, _) => Some(response),
            Self::Silent(response) => response.as_deref(),
            Self::NotAsked(_) => None,
        }
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        match self {
            Self::Answered(response, took) => {
                let took = took.as_secs_f64() * 1_000.0;
                writeln!(
                    out,
                    "{} (the agent's own answer, {took:.0} ms)",
                    Cell::styled("live", render::BOLD)
                )?;
                render::facts(&response.result, 2, out)
            }
            Self::Silent(Some(response)) => {
                let message = render::harmless(&response.message);
                writeln!(out, "no live answer: {} {message}; shown is the inventory", response.state)
            }
            Self::Silent(None) => writeln!(out, "no live answer in time; shown is the inventory"),
            Self::NotAsked(why) => writeln!(out, "no live answer: {why}; shown is the inventory"),
        }
    }
}

fn identity(agent: &Agent, out: &mut dyn Write) -> std::io::Result<()> {
    let Agent { entry, last_data, .. } = agent;
    let now = clock::wall();
    let ago = |at: Timestamp| format!("{} ago", render::age(now.since(at)));
    let labels: Vec<String> = entry.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let presence = Cell::styled(entry.status.label(), render::presence_style(entry.status));
    let id = Cell::styled(entry.agent_id.as_str(), render::BOLD);
    writeln!(out, "{id}  {presence}  {}, since {}", entry.reason, ago(entry.since))?;
    let mut facts = Map::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.insert(name.to_owned(), value.into());
        }
    };
    fact("host", entry.host.clone());
    fact("os", entry.os.clone());
    fact("version", entry.version.clone());
    fact("labels", labels.join(", "));
    fact("incarnation", entry.incarnation.to_string());
    fact("server", entry.server.to_string());
    fact("first seen", ago(entry.first_seen));
    fact("connected", ago(entry.connected_at));
    fact("last data", last_data.map_or_else(|| "none".to_owned(), ago));
    if entry.client == Client::Session {
        fact("collection", entry.collection.to_string());
        fact("interval", render::seconds(Duration::from_millis(entry.interval_ms)));
    }
    fact("claimed also by", entry.rivals.join(", "));
    render::facts(&facts, 2, out)
}

fn truth(agent: &Agent, out: &mut dyn Write) -> std::io::Result<()> {
    if agent.entry.client == Client::StreamMetrics {
        return writeln!(out, "{}  its client reports no config", Cell::styled("config", render::BOLD));
    }
    let ConfigTruth { desired, received, running, last_good, last_failed } = &agent.entry.config;
    writeln!(out, "{}  {}", Cell::styled("config", render::BOLD), render::standing(agent.standing))?;
    let mark = |mark: &Option<Mark>| match mark {
        Some(mark) => format!("revision {}  {}", mark.revision, short(&mark.digest)),
        None => "-".to_owned(),
    };
    for (name, value) in
        [("desired", desired), ("received", received), ("running", running), ("last good", last_good)]
    {
        writeln!(out, "  {}  {}", Cell::styled(format!("{name:<11}"), render::DIM), mark(value))?;
    }
    if let Some(failed) = last_failed {
        let at = if failed.path.is_empty() { "the whole text" } else { &failed.path };
        writeln!(
            out,
            "  {}  revision {}  {} {}: {} ({} ago)",
            Cell::styled("last failed", render::DIM),
            failed.mark.revision,
            failed.stage.label(),
            Cell::styled(at, render::RED),
            render::harmless(&failed.message),
            render::age(clock::wall().since(failed.at)),
        )?;
    }
    Ok(())
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}
