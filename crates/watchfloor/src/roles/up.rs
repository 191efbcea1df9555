//! `watchfloor up`: every role in this process, on the embedded backends, an agent of this machine included.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ::agent::{ClientTls, Metrics};

use super::agent::Local;
use super::backends::Choice;
use super::banner::{self, Banner};
use super::central::{Central, Place};
use super::flags::{self, AgentFlags, BackendFlags, DataFlags, GrpcFlags};
use super::process::Process;
use crate::cli::parse;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// Run everything on this machine, in one process; needs nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor up
  watchfloor up -v --timeout 2s
  watchfloor up --agent-id web-1 --label role=web --label zone=eu-1
  watchfloor up --grpc-listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key
  watchfloor up --bus kafka://localhost:9092 --registry etcd://localhost:2379

Other machines join with `watchfloor agent --server <this-host>:50051`.
Ctrl-C stops in order; a second one leaves at once.
<data-dir>/server/<server-id>/addresses.json holds the real addresses while it runs, for scripts that give port 0.")]
pub(crate) struct Args {
    #[command(flatten)]
    grpc: GrpcFlags,
    /// The HTTP API; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = parse::listen)]
    http_listen: SocketAddr,
    #[command(flatten)]
    agent: AgentFlags,
    /// Do not watch this machine.
    #[arg(long)]
    no_agent: bool,
    /// With --tls-cert: what the local agent trusts; the certificate itself when absent.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// With --tls-cert: the name in the certificate.
    #[arg(long, value_name = "NAME", requires = "tls_cert", default_value = "localhost")]
    tls_server_name: String,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    backends: BackendFlags,
    /// Log more, and print a line for every change of an agent's presence.
    #[arg(short, long)]
    verbose: bool,
}

impl Args {
    pub(super) fn is_verbose(&self) -> bool {
        self.verbose
    }

    pub(crate) async fn run(&self, environment: &Environment) -> Outcome {
        let choice =
            Choice::of(&self.backends, environment).map_err(|error| Failure::new(Exit::Config, error))?;
        let id = self.grpc.server_id()?;
        let mut process = Process::new()?;
        let mut central = Central::open(Place {
            role: "server",
            id: id.as_str(),
            choice: &choice,
            backends: &self.backends,
            data: &self.data,
            http: &[self.http_listen],
        })
        .await?;
        central.add_server(&self.grpc).await?;
        central.add_monitor(self.verbose)?;
        central.add_analysis()?;
        let addresses = central.addresses()?;
        let local = match addresses.grpc {
            Some(grpc) if !self.no_agent => Some(self.local_agent(&central, grpc)?),
            _ => None,
        };
        let agent = local.as_ref().map(|local| local.agent_id().to_string());
        // Before anything runs: lines of what runs would come between.
        banner::print(&Banner {
            what: "every role in this process",
            addresses: &addresses,
            choice: &choice,
            console: true,
            data: self.data.root(),
            agent: agent.as_deref(),
        });
        if let Some(local) = local {
            let agents = process.stage("agent", super::agent::GRACE);
            process.spawn(&agents, "agent", local.run_over_restarts(agents.stopping()));
        }
        let running = central.spawn(&mut process)?;
        Ok(process.run(running.close()).await)
    }

    fn local_agent(&self, central: &Central, grpc: SocketAddr) -> Result<Local, Failure> {
        let metrics = Metrics::register(&central.ops.metrics)?;
        let servers = vec![reachable(grpc).to_string()];
        let mut local = Local::lock(&self.agent, &self.data, servers, metrics, central.ops.health.clone())?;
        local.settings.tls = self.tls()?;
        local.bind()?;
        Ok(local)
    }

    /// The local agent goes through the same door as every other one.
    fn tls(&self) -> Result<Option<ClientTls>, Failure> {
        let (Some(certificate), Some(key)) = (&self.grpc.tls_cert, &self.grpc.tls_key) else {
            return Ok(None);
        };
        let ca = self.tls_ca.as_ref().unwrap_or(certificate);
        Ok(Some(ClientTls {
            ca_pem: Some(flags::read(ca)?),
            identity: Some((flags::read(certificate)?, flags::read(key)?)),
            server_name: Some(self.tls_server_name.clone()),
        }))
    }
}

/// Where a process of this machine reaches a listener on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let local = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    address
}
