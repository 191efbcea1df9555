//! The command line: one file per family of commands, each with its arguments, its examples and its `run`.
//!
//! Operators' commands ask the HTTP API and block; roles are handed to [`crate::roles`]. Nothing here decides anything
//! about agents.

mod agents;
mod bench;
mod config;
#[cfg(test)]
mod documents;
mod get_metrics;
mod health;
mod kafka;
#[cfg(test)]
mod manifests;
mod output;
pub(crate) mod parse;
pub(crate) mod render;
mod selftest;
mod send_command;
mod status;
mod trace;

use std::io::Write;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use runtime::telemetry;
use url::Url;

use crate::api::Api;
use crate::environment::Environment;
use crate::exit::{self, Exit, Outcome};
use crate::roles::Role;

/// Set apart, so that a command's own options stand together.
const COMMON: &str = "Options of every command";

/// What operators' commands have to say they print; what their libraries do shows only when WATCHFLOOR_LOG asks for it.
const SILENT: &str = "off";

const EXAMPLES: &str = "\
Examples:
  watchfloor up                                            everything, on this machine
  watchfloor get-metrics --follow                          what agents measure, as it comes
  watchfloor send-command agent-001 STATUS                 ask one agent
  watchfloor config set agent-001 '{\"interval\": 0.5}'      applied live
  watchfloor agent --agent-id web-1 --server host:50051    join from another machine";

/// Watches and commands a fleet of machines.
#[derive(Debug, Parser)]
#[command(name = "watchfloor", version, after_help = help_end(), propagate_version = true)]
pub(crate) struct Cli {
    /// Where operators' commands find the HTTP API.
    #[arg(
        long,
        global = true,
        env = "WATCHFLOOR_API",
        value_name = "URL",
        default_value = "http://localhost:8090",
        value_parser = parse::api,
        help_heading = COMMON
    )]
    api: Url,
    /// How log lines look; WATCHFLOOR_LOG filters them (warn, info, server=debug).
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT", help_heading = COMMON)]
    log_format: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Role(Box<Role>),
    GetMetrics(get_metrics::Args),
    SendCommand(send_command::Args),
    Agents(agents::Args),
    Status(status::Args),
    Health(health::Args),
    Config(config::Args),
    Selftest(selftest::Args),
    Bench(bench::Args),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  watchfloor completions bash > /etc/bash_completion.d/watchfloor")]
    Completions {
        shell: Shell,
    },
}

fn help_end() -> String {
    format!("{EXAMPLES}\n\n{}", exit::HELP)
}

impl Cli {
    /// The command line of this process; a wrong one, and `--help`, ends it.
    pub(crate) fn read() -> Self {
        Self::parse_from(kafka::joined(std::env::args_os()))
    }

    pub(crate) fn run(&self, environment: &Environment) -> Outcome {
        let mut out = anstream::stdout();
        let api = Api::new(&self.api);
        match &self.verb {
            Verb::Role(role) => role.run(self.log_format, environment),
            Verb::GetMetrics(args) => {
                telemetry::init(self.log_format.into(), SILENT);
                args.run(&api, environment, &mut out)
            }
            Verb::SendCommand(args) => {
                telemetry::init(self.log_format.into(), SILENT);
                args.run(&api, environment, &mut out)
            }
            Verb::Agents(args) => args.run(&api, &mut out),
            Verb::Status(args) => args.run(&api, &mut out),
            Verb::Health(args) => args.run(&api, &mut out),
            Verb::Config(args) => args.run(&api, &mut out),
            Verb::Selftest(args) => args.run(&mut out),
            Verb::Bench(args) => args.run(&mut out),
            Verb::Completions { shell } => completions(*shell, &mut out),
        }
    }
}

fn completions(shell: Shell, out: &mut dyn Write) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "watchfloor", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}

/// Who asks, for the record: `user@host`.
fn operator() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| format!("uid-{}", rustix::process::getuid()));
    format!("{user}@{}", host_name())
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Waits a moment before the next try: an operator's command has one thread and nothing else to do.
fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_the_way_in() {
        let help = Cli::command().term_width(100).render_help().to_string();
        let plain: Vec<&str> = help.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(plain.join("\n"), @r#"
        Watches and commands a fleet of machines

        Usage: watchfloor [OPTIONS] <COMMAND>

        Commands:
          up            Run everything on this machine, in one process; needs nothing else
          server        Run a server; on embedded backends monitor, analysis and HTTP API run in its process
          agent         Run the agent of this machine; it joins a server and obeys it
          monitor       Run the heartbeat monitor alone, beside servers that share Kafka and etcd with it
          analysis      Run history, HTTP API and live tail alone, beside servers that share Kafka and etcd
                        with it
          get-metrics   Show metrics: the newest of each agent, --since a moment, or as they come with
                        --follow
          send-command  Order agents: STATUS, STOP, START, UPDATE_CONFIG or RESTART
          agents        List the fleet: presence and why, collection, config standing
          status        Show one agent: presence, config truth, and its live answer to STATUS
          health        Ask one process whether it is ready, and how its parts are
          config        Read and write the config of agents and groups; agents apply it live
          selftest      Check plugins and collectors on this machine; needs no running system
          bench         Measure
          completions   Print a completion script for a shell
          help          Print this message or the help of the given subcommand(s)

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Options of every command:
              --api <URL>            Where operators' commands find the HTTP API [env: WATCHFLOOR_API=]
                                     [default: http://localhost:8090]
              --log-format <FORMAT>  How log lines look; WATCHFLOOR_LOG filters them (warn, info,
                                     server=debug) [default: text] [possible values: text, json]

        Examples:
          watchfloor up                                            everything, on this machine
          watchfloor get-metrics --follow                          what agents measure, as it comes
          watchfloor send-command agent-001 STATUS                 ask one agent
          watchfloor config set agent-001 '{"interval": 0.5}'      applied live
          watchfloor agent --agent-id web-1 --server host:50051    join from another machine

        Exit codes:
          0  everything asked for succeeded
          1  an agent did not succeed, or the API or Kafka refused or was not reachable
          2  wrong usage
          3  flags or environment that cannot be
          4  a port, data directory or store could not be had
          5  stopped, but not in order
        "#);
    }

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        let words = [&["watchfloor"], words].concat();
        Cli::try_parse_from(kafka::joined(words.into_iter().map(Into::into)))
    }

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_of_the_seeds_are_understood() {
        for words in [
            &["get-metrics"][..],
            &["get-metrics", "agent-001", "--follow", "-o", "jsonl"],
            &["get-metrics", "--since", "1h", "--step", "10s", "-o", "csv"],
            &["send-command", "agent-001", "STATUS"],
            &["send-command", "-l", "role=db,zone in (a,b)", "update-config", "--timeout", "5s"],
            &["send-command", "--all", "STOP", "--param", "a=1", "--no-wait", "--command-id", "c-1"],
            &["get-metrics", "--kafka", "localhost:9092", "agent-001"],
            &["get-metrics", "--follow", "--kafka"],
            &["send-command", "--kafka", "agent-001", "STATUS"],
            &["send-command", "--kafka=a:1,b:1", "--topic", "commands=prod.commands", "--all", "STOP"],
            &["agents", "-o", "json"],
            &["status", "agent-001"],
            &["config", "set", "agent-001", r#"{"interval": 0.5}"#],
            &["config", "set", "--group", "db", "{}", "--expect-revision", "7"],
            &["config", "get", "--group", "db"],
            &["config", "diff", "agent-001", "--effective"],
            &["config", "validate", "-"],
            &["completions", "zsh"],
            &["selftest", "plugins", "-v"],
            &["selftest", "realtime", "--ticks", "50", "--interval", "0.2"],
            &["bench", "reduction", "--trace", "a.jsonl"],
            &["bench", "bus", "--kafka", "h:9092", "--bytes", "2048"],
        ] {
            parse(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_a_usage_error() {
        for words in [
            &["status", "a\nb"][..],
            &["status", &"x".repeat(10_000)],
            &["get-metrics", "-l", "role"],
            &["get-metrics", "--step", "10s"],
            &["send-command", "-l", "a=b", "--all", "STOP"],
            &["get-metrics", "--kafka=http://h:1"],
            &["config", "get"],
            &["config", "get", "a", "--group", "b"],
            &["--api", "ftp://x", "agents"],
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), Exit::Usage as i32, "{words:?}");
        }
    }
}
