//! `watchfloor agents`: who is there.

use std::io::Write;

use model::presence::Presence;
use model::selector::Selector;
use proto::api::Agent;
use proto::key::Client;
use runtime::clock;

use super::output::{self, Output};
use super::render::{self, Cell, Table};
use crate::api::Api;
use crate::exit::{Exit, Outcome};

/// List the fleet: presence and why, collection, config standing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor agents
  watchfloor agents -l 'role=db,zone!=eu-1'
  watchfloor agents -o json | jq -r '.[] | select(.status != \"ONLINE\") | .agent_id'")]
pub(crate) struct Args {
    /// Only agents with these labels: k=v, k!=v, k in (a,b), joined by commas.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<Selector>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    pub(crate) fn run(&self, api: &Api, out: &mut dyn Write) -> Outcome {
        let agents = api.agents(self.selector.as_ref())?;
        match self.output {
            Output::Json => output::json(out, &agents)?,
            Output::Table if agents.is_empty() => {
                let start = "watchfloor agent --agent-id agent-001";
                writeln!(
                    out,
                    "no agent{}; start one with `{start}`",
                    if self.selector.is_some() { " has these labels" } else { " yet" }
                )?;
            }
            Output::Table => table(&agents).print(out)?,
        }
        Ok(Exit::Ok)
    }
}

fn table(agents: &[Agent]) -> Table {
    let now = clock::wall();
    let mut table = Table::new([
        "AGENT",
        "PRESENCE",
        "REASON",
        "SINCE",
        "COLLECTION",
        "INTERVAL",
        "DATA",
        "CONFIG",
        "VERSION",
        "SERVER",
        "LABELS",
    ]);
    for Agent { entry, standing, last_data } in agents {
        let labels: Vec<String> = entry.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let reports = entry.client == Client::Session && entry.status != Presence::NeverSeen;
        let interval = std::time::Duration::from_millis(entry.interval_ms);
        table.row([
            Cell::styled(entry.agent_id.as_str(), render::BOLD),
            Cell::styled(entry.status.label(), render::presence_style(entry.status)),
            Cell::plain(entry.reason.words()),
            Cell::plain(if entry.status == Presence::NeverSeen {
                "-".to_owned()
            } else {
                format!("{} ago", render::age(now.since(entry.since)))
            }),
            if reports { Cell::plain(entry.collection.to_string()) } else { Cell::plain("-") },
            if entry.interval_ms > 0 { Cell::plain(render::seconds(interval)) } else { Cell::plain("-") },
            Cell::plain(
                last_data.map_or_else(|| "-".to_owned(), |at| format!("{} ago", render::age(now.since(at)))),
            ),
            if reports { render::standing(*standing) } else { Cell::plain("-") },
            Cell::plain(if entry.version.is_empty() { "-" } else { &entry.version }),
            Cell::plain(entry.server.as_str()),
            Cell::plain(labels.join(",")),
        ]);
    }
    table
}
