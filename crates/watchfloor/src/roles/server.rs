//! `watchfloor server`: the door for agents. On the embedded backends its process runs monitor, analysis and API too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::backends::Choice;
use super::banner::{self, Banner};
use super::central::{Central, Place};
use super::flags::{BackendFlags, DataFlags, GrpcFlags};
use super::process::Process;
use crate::cli::parse;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Run a server; on embedded backends monitor, analysis and HTTP API run in its process.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor server
  watchfloor server --grpc-listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key --tls-client-ca fleet.pem
  watchfloor server --server-id s2 --grpc-listen 127.0.0.1:50052 --bus kafka://localhost:9092 --registry etcd://localhost:2379
        one of several on Kafka and etcd

<data-dir>/server/<server-id>/addresses.json holds the real addresses while it runs, for scripts that give port 0.")]
pub(crate) struct Args {
    #[command(flatten)]
    grpc: GrpcFlags,
    /// Health and metrics; on embedded backends the API, which is then also at 127.0.0.1:8090, where operators' commands look.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091", value_parser = parse::listen)]
    http_listen: SocketAddr,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    backends: BackendFlags,
    /// Print a line for every change of an agent's presence, where the monitor runs in this process.
    #[arg(short, long)]
    verbose: bool,
}

/// Where `analysis` listens by default, which on embedded backends runs in this process.
const ANALYSIS_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8090);
const SERVER_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8091);

impl Args {
    pub(crate) async fn run(&self, environment: &Environment) -> Outcome {
        let choice =
            Choice::of(&self.backends, environment).map_err(|error| Failure::new(Exit::Config, error))?;
        let id = self.grpc.server_id()?;
        let mut process = Process::new()?;
        let has_all = choice == Choice::Embedded;
        let http: &[SocketAddr] = match self.http_listen {
            SERVER_HTTP if has_all => &[ANALYSIS_HTTP, SERVER_HTTP],
            _ => &[self.http_listen],
        };
        let mut central = Central::open(Place {
            role: "server",
            id: id.as_str(),
            choice: &choice,
            backends: &self.backends,
            data: &self.data,
            http,
        })
        .await?;
        central.add_server(&self.grpc).await?;
        let mut what = format!("server {id}");
        if has_all {
            central.add_monitor(self.verbose)?;
            central.add_analysis()?;
            what.push_str(" with monitor, analysis and API");
        }
        let addresses = central.addresses()?;
        let (data, console) = (self.data.root(), has_all);
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
