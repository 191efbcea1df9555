//! `watchfloor bench`: measures, on this machine, what documents would otherwise only claim.

mod bus;
mod reduction;

use std::io::Write;

use crate::exit::Outcome;

/// Measure.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Reduction(reduction::Args),
    Bus(Box<bus::Args>),
}

impl Args {
    pub(super) fn run(&self, out: &mut dyn Write) -> Outcome {
        match &self.what {
            What::Reduction(reduction) => reduction.run(out),
            What::Bus(bus) => bus.run(out),
        }
    }
}
