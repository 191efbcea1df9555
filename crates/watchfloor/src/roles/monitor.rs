//! `watchfloor monitor`: says who is alive and why not, beside servers that share Kafka and etcd with it.

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

/// Run the heartbeat monitor alone, beside servers that share Kafka and etcd with it.
///
/// One leads, others stand by. Prints a line for every change of presence.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor monitor --bus kafka://localhost:9092 --registry etcd://localhost:2379
  watchfloor monitor --monitor-id standby --http-listen 127.0.0.1:0
        a second one takes over within seconds of the first one's end

KAFKA_BOOTSTRAP_SERVERS and ETCD_HOST name the backends as well. On embedded backends the monitor runs inside
`watchfloor up` and `watchfloor server`; -v prints its lines there.")]
pub(crate) struct Args {
    /// This monitor's name, unlike every other's; the host's name when absent.
    #[arg(long, value_name = "ID")]
    monitor_id: Option<ServerId>,
    /// Health and metrics of this process.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8092", value_parser = parse::listen)]
    http_listen: SocketAddr,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    backends: BackendFlags,
}

impl Args {
    pub(crate) async fn run(&self, environment: &Environment) -> Outcome {
        let choice = Choice::shared("monitor", &self.backends, environment)
            .map_err(|error| Failure::new(Exit::Config, error))?;
        let id = flags::name_or_host(self.monitor_id.as_ref(), "--monitor-id")?;
        let mut process = Process::new()?;
        let mut central = Central::open(Place {
            role: "monitor",
            id: &id,
            choice: &choice,
            backends: &self.backends,
            data: &self.data,
            http: &[self.http_listen],
        })
        .await?;
        central.add_monitor(true)?;
        let addresses = central.addresses()?;
        let what = format!("monitor {id}");
        let (data, console) = (self.data.root(), false);
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
