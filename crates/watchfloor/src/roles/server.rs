//! `watchfloor server`: the door for agents. On the embedded backends its process runs monitor, analysis and API too.

use std::net::SocketAddr;

use super::central::Central;
use super::flags::{BackendFlags, DataFlags, GrpcFlags};
use super::process::Process;
use super::{backends, banner};
use crate::cli::parse;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Run a server; on embedded backends monitor, analysis and HTTP API run in its process.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor server
  watchfloor server --grpc-listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key --tls-client-ca fleet.pem

<data-dir>/server/<server-id>/addresses.json holds the real addresses while it runs, for scripts that give port 0.")]
pub(crate) struct Args {
    #[command(flatten)]
    grpc: GrpcFlags,
    /// The HTTP API; without this flag it is also at 127.0.0.1:8090, where operators' commands look.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091", value_parser = parse::listen)]
    http_listen: SocketAddr,
    #[command(flatten)]
    backends: BackendFlags,
    #[command(flatten)]
    data: DataFlags,
    /// Print a line for every change of an agent's presence.
    #[arg(short, long)]
    verbose: bool,
}

/// Where `analysis` listens by default, which runs in this process.
const ANALYSIS_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);
const SERVER_HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8091);

impl Args {
    pub(crate) async fn run(&self, environment: &Environment) -> Outcome {
        backends::check(&self.backends, environment).map_err(|error| Failure::new(Exit::Config, error))?;
        let mut process = Process::new()?;
        let http: &[SocketAddr] =
            if self.http_listen == SERVER_HTTP { &[ANALYSIS_HTTP, SERVER_HTTP] } else { &[self.http_listen] };
        let central = Central::bind(&self.data, &self.grpc, http, self.verbose).await?;
        let addresses = central.addresses()?;
        let what = format!("server {} with monitor, analysis and API", central.server_id);
        banner::print(&what, &addresses, self.data.root(), None);
        let running = central.spawn(&mut process)?;
        Ok(process.run(running.close()).await)
    }
}
