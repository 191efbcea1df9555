//! `watchfloor analysis`: history, HTTP API and live tail, beside servers that share Kafka and etcd with it.

use std::net::SocketAddr;

use model::id::ServerId;

use super::backends::Choice;
use super::banner::{self, Banner};
use super::central::{Central, Place};
use super::flags::{self, BackendFlags, DataFlags};
use super::process::Process;
use crate::cli::parse;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Run history, HTTP API and live tail alone, beside servers that share Kafka and etcd with it.
///
/// Each one holds everything and answers for the whole fleet.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor analysis --bus kafka://localhost:9092 --registry etcd://localhost:2379
  watchfloor analysis --analysis-id second --http-listen 127.0.0.1:8093

KAFKA_BOOTSTRAP_SERVERS and ETCD_HOST name the backends as well. On embedded backends analysis runs inside
`watchfloor up` and `watchfloor server`.")]
pub(crate) struct Args {
    /// The name of this one, unlike every other's; the host's name when absent.
    #[arg(long, value_name = "ID")]
    analysis_id: Option<ServerId>,
    /// The HTTP API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = parse::listen)]
    http_listen: SocketAddr,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    backends: BackendFlags,
}

impl Args {
    pub(crate) async fn run(&self, environment: &Environment) -> Outcome {
        let choice = Choice::shared("analysis", &self.backends, environment)
            .map_err(|error| Failure::new(Exit::Config, error))?;
        let id = flags::name_or_host(self.analysis_id.as_ref(), "--analysis-id")?;
        let mut process = Process::new()?;
        let mut central = Central::open(Place {
            role: "analysis",
            id: &id,
            choice: &choice,
            backends: &self.backends,
            data: &self.data,
            http: &[self.http_listen],
        })
        .await?;
        central.add_analysis()?;
        let addresses = central.addresses()?;
        let what = format!("analysis {id}");
        let (data, console) = (self.data.root(), true);
        banner::print(&Banner {
            what: &what,
            addresses: &addresses,
            choice: &choice,
            console,
            data,
            agent: None,
        });
        let running = central.spawn(&mut process)?;
        Ok(process.run(running.close()).await)
    }
}
