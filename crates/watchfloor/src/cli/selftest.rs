//! `watchfloor selftest`: the seeds' test scripts, on this machine, with their table.

mod realtime;

use std::io::Write;
use std::time::Duration;

use agent::collect::selftest as collectors;
use agent::collect::{CollectorSet, Host, Moment};
use model::metric::MetricName;
use model::pipeline::selftest as plugins;
use serde::Serialize;

use super::output::{self, Output};
use super::render::{self, Cell};
use super::{parse, pause, trace};
use crate::exit::{Exit, Failure, Outcome};

/// Check plugins and collectors on this machine; needs no running system.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor selftest plugins
  watchfloor selftest collectors -v
  watchfloor selftest realtime --ticks 50 --interval 0.2

Exit code 0 only if every check passed.")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
    /// Say what was seen, of passed checks too.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Every plugin and a chain of them, on made-up ticks.
    Plugins,
    /// Every collector, by two readings of this machine.
    Collectors {
        /// Between the two readings.
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse::interval)]
        interval: Duration,
    },
    /// The plugins on what this machine measures right now.
    Realtime {
        #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=10_000))]
        ticks: u32,
        #[arg(long, value_name = "DURATION", default_value = "0.1", value_parser = parse::interval)]
        interval: Duration,
    },
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    passed: bool,
    detail: String,
}

impl Args {
    pub(super) fn run(&self, out: &mut dyn Write) -> Outcome {
        let (subject, checks) = match &self.what {
            What::Plugins => ("PLUGIN", plugins::run().into_iter().map(Check::from).collect()),
            What::Collectors { interval } => ("COLLECTOR", on_collectors(*interval)),
            What::Realtime { ticks, interval } => {
                ("REAL-TIME", realtime::check(&trace::record(*ticks as usize, *interval)))
            }
        };
        match self.output {
            Output::Json => output::json(out, &checks)?,
            Output::Table => self.print(subject, &checks, out)?,
        }
        Ok(if checks.iter().all(|check| check.passed) { Exit::Ok } else { Exit::Failed })
    }

    fn print(&self, subject: &str, checks: &[Check], out: &mut dyn Write) -> Result<(), Failure> {
        const SEEDS_WIDTH: usize = 20;
        let failed = checks.iter().filter(|check| !check.passed).count();
        match failed {
            0 => writeln!(out, "🎉 ALL {subject} TESTS PASSED!")?,
            failed => writeln!(out, "{failed} OF {} {subject} TESTS FAILED", checks.len())?,
        }
        let longest = checks.iter().map(|check| check.name.chars().count() + 1).max().unwrap_or(0);
        let width = longest.max(SEEDS_WIDTH);
        for Check { name, passed, detail } in checks {
            let verdict = if *passed {
                Cell::styled("✅ PASSED", render::GREEN)
            } else {
                Cell::styled("❌ FAILED", render::RED)
            };
            write!(out, "{name:width$}: {verdict}")?;
            if self.verbose || !passed {
                write!(out, "  {}", Cell::plain(detail))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

fn on_collectors(interval: Duration) -> Vec<Check> {
    let mut set = CollectorSet::new(Host::local(), MetricName::ALL);
    let first = set.collect(Moment::now());
    pause(interval);
    let second = set.collect(Moment::now());
    collectors::check(&first, &second).into_iter().map(Check::from).collect()
}

impl From<plugins::Check> for Check {
    fn from(plugins::Check { name, passed, detail }: plugins::Check) -> Self {
        Self { name: name.to_owned(), passed, detail }
    }
}

impl From<collectors::Check> for Check {
    fn from(collectors::Check { name, passed, detail }: collectors::Check) -> Self {
        Self { name, passed, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(passed: bool) -> String {
        let args = Args { what: What::Plugins, verbose: false, output: Output::Table };
        let check = |name: &str, passed| Check { name: name.to_owned(), passed, detail: "seen".to_owned() };
        let mut out = anstream::StripStream::new(Vec::new());
        args.print("PLUGIN", &[check("Threshold Alert", passed), check("Filter", true)], &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn the_table_is_the_seeds() {
        insta::assert_snapshot!(printed(true), @r"
        🎉 ALL PLUGIN TESTS PASSED!
        Threshold Alert     : ✅ PASSED
        Filter              : ✅ PASSED
        ");
    }

    #[test]
    fn a_failure_says_what_was_seen() {
        insta::assert_snapshot!(printed(false), @r"
        1 OF 2 PLUGIN TESTS FAILED
        Threshold Alert     : ❌ FAILED  seen
        Filter              : ✅ PASSED
        ");
    }

    #[test]
    fn the_plugins_of_this_build_pass() {
        assert!(plugins::run().iter().all(|check| check.passed));
    }
}
