//! `watchfloor agent`: the agent of one machine, alone in its process or inside `up`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::agent::collect::Host;
use ::agent::{Agent, ClientTls, Ended, Metrics, Settings, StartError};
use ::backends::directory::DataDirectory;
use model::id::AgentId;
use prometheus::Registry;
use runtime::Health;
use runtime::ops::{self, Ops};
use tokio_util::sync::CancellationToken;

use super::flags::{self, AgentFlags, DataFlags};
use super::process::Process;
use super::{End, http};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};

/// Run the agent of this machine; it joins a server and obeys it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  watchfloor agent --agent-id agent-001
  watchfloor agent --agent-id web-1 --label role=web --server monitor-1:50051,monitor-2:50051 --tls-ca fleet.pem
  watchfloor agent --proc-root /host/proc --sys-root /host/sys        in a container

It reconnects by itself, for ever. Several agents may share one --data-dir.")]
pub(crate) struct Args {
    #[command(flatten)]
    agent: AgentFlags,
    /// host:port of one server or more; else GRPC_SERVER_HOST and GRPC_SERVER_PORT, else localhost:50051.
    #[arg(long = "server", value_name = "HOST:PORT", value_delimiter = ',')]
    servers: Vec<String>,
    /// Encrypt; the authority that signed the server's certificate, PEM.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This agent's certificate, PEM.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the host connected to.
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,
    /// Plain text to other machines is meant.
    #[arg(long)]
    insecure: bool,
    /// Health and metrics of this process; off when absent.
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<SocketAddr>,
    #[command(flatten)]
    data: DataFlags,
}

const GRACE: Duration = Duration::from_secs(5);
const HTTP_GRACE: Duration = Duration::from_secs(2);

impl Args {
    pub(super) async fn run(&self, environment: &Environment) -> Result<End, Failure> {
        let mut process = Process::new()?;
        let ops = Ops { health: Health::default(), metrics: Registry::new() };
        let servers =
            if self.servers.is_empty() { vec![environment.grpc_server()] } else { self.servers.clone() };
        let metrics = Metrics::register(&ops.metrics)?;
        let mut local = Local::lock(&self.agent, &self.data, servers, metrics, ops.health.clone())?;
        local.settings.tls = self.tls()?;
        local.settings.insecure = self.insecure;
        local.bind()?;
        let listener = match self.http_listen {
            Some(address) => Some(http::bind(address, self.insecure).await?),
            None => None,
        };

        let agents = process.stage("agent", GRACE);
        let restart = CancellationToken::new();
        process.spawn(&agents, "agent", local.run_once(agents.stopping(), restart.clone(), process.done()));
        if let Some(listener) = listener {
            let endpoint = process.stage("http", HTTP_GRACE);
            anstream::eprintln!("health and metrics at http://{}", listener.local_addr()?);
            process.spawn(&endpoint, "http", http::serve(listener, ops::router(ops), endpoint.stopping()));
        }
        let exit = process.run(async { Ok(()) }).await;
        Ok(if restart.is_cancelled() && exit == Exit::Ok { End::Restart } else { End::Exit(exit) })
    }

    fn tls(&self) -> Result<Option<ClientTls>, Failure> {
        let Some(ca) = &self.tls_ca else { return Ok(None) };
        let identity = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some((flags::read(certificate)?, flags::read(key)?)),
            _ => None,
        };
        Ok(Some(ClientTls {
            ca_pem: Some(flags::read(ca)?),
            identity,
            server_name: self.tls_server_name.clone(),
        }))
    }
}

/// An agent of this process, with its directory locked for as long as it lives.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) settings: Settings,
    metrics: Metrics,
    health: Health,
    bound: Option<Agent>,
    _directory: DataDirectory,
}

impl Local {
    pub(super) fn lock(
        flags: &AgentFlags,
        data: &DataFlags,
        servers: Vec<String>,
        metrics: Metrics,
        health: Health,
    ) -> Result<Self, Failure> {
        let agent_id = flags.agent_id()?;
        let directory = DataDirectory::lock(&data.of("agent", agent_id.as_str()))
            .map_err(|error| Failure::new(Exit::Unavailable, error))?;
        let settings = Settings {
            agent_id,
            labels: flags.labels(),
            servers,
            state_directory: directory.path().to_owned(),
            roots: Host::at(&flags.proc_root, &flags.sys_root, &flags.rootfs),
            tls: None,
            insecure: false,
        };
        Ok(Self { settings, metrics, health, bound: None, _directory: directory })
    }

    pub(super) fn agent_id(&self) -> &AgentId {
        &self.settings.agent_id
    }

    /// Checks everything that can be wrong before it runs.
    pub(super) fn bind(&mut self) -> Result<(), Failure> {
        self.bound = Some(self.fresh().map_err(|error| Failure::new(Exit::Config, error))?);
        Ok(())
    }

    fn fresh(&self) -> Result<Agent, StartError> {
        Agent::bind(self.settings.clone(), self.metrics.clone(), self.health.clone())
    }

    /// For a process of its own: RESTART ends it, and the caller makes a new one of it.
    async fn run_once(
        mut self,
        stop: CancellationToken,
        restart: CancellationToken,
        done: CancellationToken,
    ) -> Result<(), StartError> {
        let agent = self.bound.take().map_or_else(|| self.fresh(), Ok)?;
        if agent.run(stop.clone()).await == Ended::Restart {
            restart.cancel();
            done.cancel();
            stop.cancelled().await;
        }
        Ok(())
    }

    /// Inside `up`: RESTART ends and rebuilds this role only.
    pub(super) async fn run_over_restarts(mut self, stop: CancellationToken) -> Result<(), StartError> {
        loop {
            let agent = self.bound.take().map_or_else(|| self.fresh(), Ok)?;
            if agent.run(stop.clone()).await == Ended::Stopped {
                return Ok(());
            }
        }
    }
}
