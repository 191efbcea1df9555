//! `watchfloor monitor` and `watchfloor analysis`: roles that need backends which other processes can reach.
//!
//! The embedded backends live inside one process, so on them these roles run inside `up` and `server`.

use std::net::SocketAddr;

use super::backends::{self, ChoiceError};
use super::flags::{BackendFlags, DataFlags};
use crate::cli::parse;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Run the heartbeat monitor alone, beside servers that share Kafka and etcd with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  watchfloor monitor --bus kafka://localhost:9092 --registry etcd://localhost:2379

On embedded backends the monitor runs inside `watchfloor up` and `watchfloor server`; -v prints its lines there.")]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    backends: BackendFlags,
    #[command(flatten)]
    data: DataFlags,
    /// Health and metrics of this process.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8092", value_parser = parse::listen)]
    http_listen: SocketAddr,
}

/// Run history, HTTP API and live tail alone, beside servers that share Kafka and etcd with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  watchfloor analysis --bus kafka://localhost:9092 --registry etcd://localhost:2379

On embedded backends analysis runs inside `watchfloor up` and `watchfloor server`.")]
pub(crate) struct AnalysisArgs {
    #[command(flatten)]
    backends: BackendFlags,
    #[command(flatten)]
    data: DataFlags,
    /// The HTTP API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = parse::listen)]
    http_listen: SocketAddr,
}

impl MonitorArgs {
    pub(crate) fn run(&self, environment: &Environment) -> Outcome {
        refuse("monitor", &self.backends, environment)
    }
}

impl AnalysisArgs {
    pub(crate) fn run(&self, environment: &Environment) -> Outcome {
        refuse("analysis", &self.backends, environment)
    }
}

fn refuse(role: &'static str, flags: &BackendFlags, environment: &Environment) -> Outcome {
    let error = match backends::check(flags, environment) {
        Ok(()) => ChoiceError::Alone { role },
        Err(error) => error,
    };
    Err(Failure::new(Exit::Config, error))
}
