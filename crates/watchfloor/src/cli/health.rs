//! `watchfloor health`: whether one process works. For people, and for the probes of containers, which have no HTTP client.

use std::io::Write;

use runtime::health::{Report, State};

use super::output::{self, Output};
use super::render::{self, Cell, Table};
use crate::api::Api;
use crate::exit::{Exit, Outcome};

/// Ask one process whether it is ready, and how its parts are.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor health
  watchfloor health --api http://127.0.0.1:8091      a server; monitors are at 8092, agents where --http-listen says
  watchfloor health --alive                          only whether it answers

Ready is when every part has started, degraded or not. Exit code 0 means ready, 1 not ready or no answer.")]
pub(crate) struct Args {
    /// Content with an answer, ready or not: what asks for a restart should ask this.
    #[arg(long)]
    alive: bool,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Args {
    pub(crate) fn run(&self, api: &Api, out: &mut dyn Write) -> Outcome {
        let report = api.health()?;
        match self.output {
            Output::Json => output::json(out, &report)?,
            Output::Table => table(&report).print(out)?,
        }
        Ok(self.verdict(&report))
    }

    /// Ready is what `/readyz` calls so: degraded is not a reason to send nobody there, nor to start it anew.
    fn verdict(&self, report: &Report) -> Exit {
        let is_starting = report.components.values().any(|state| matches!(state, State::Starting));
        if is_starting && !self.alive { Exit::Failed } else { Exit::Ok }
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(["COMPONENT", "STATUS", "REASON"]);
    for (name, state) in &report.components {
        let (status, reason) = match state {
            State::Ok => (Cell::styled("OK", render::GREEN), ""),
            State::Starting => (Cell::styled("STARTING", render::YELLOW), ""),
            State::Degraded { reason } => (Cell::styled("DEGRADED", render::RED), reason.as_str()),
        };
        table.row([Cell::styled(name, render::BOLD), status, Cell::plain(reason)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use runtime::Health;

    use super::*;

    #[test]
    fn a_process_is_ready_once_every_part_has_started_well_or_not() {
        let verdict =
            |health: &Health, alive| Args { alive, output: Output::Table }.verdict(&health.report());
        let health = Health::default();
        let (bus, registry) = (health.component("bus"), health.component("registry"));
        bus.ok();
        assert_eq!((verdict(&health, false), health.is_ready()), (Exit::Failed, false));
        assert_eq!(verdict(&health, true), Exit::Ok);
        registry.degraded("no answer");
        assert_eq!((verdict(&health, false), health.is_ready()), (Exit::Ok, true));
    }
}
