//! `watchfloor agent`: the agent of one machine, alone in its process or inside `up`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::agent::{Agent, ClientTls, Ended, Metrics, Settings, StartError};
use ::backends::directory::DataDirectory;
use model::id::AgentId;
use prometheus::Registry;
use runtime::ops::{self, Ops};
use runtime::{Backoff, Health};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flags::{self, AgentFlags, DataFlags};
use super::process::Process;
use super::{End, http};
use crate::cli::parse;
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
    #[arg(long, env = "WATCHFLOOR_INSECURE", hide_env_values = true)]
    insecure: bool,
    /// Health and metrics of this process; off when absent.
    #[arg(long, value_name = "ADDRESS", value_parser = parse::listen)]
    http_listen: Option<SocketAddr>,
    #[command(flatten)]
    data: DataFlags,
}

/// An agent takes six seconds at most: its last reading, what is buffered, the goodbye.
pub(super) const GRACE: Duration = Duration::from_secs(7);
const HTTP_GRACE: Duration = Duration::from_secs(2);
/// A run at least this long did not fail at its start.
const LASTING: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

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
            labels: flags.labels()?,
            servers,
            state_directory: directory.path().to_owned(),
            roots: flags.host()?,
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
        let mut runs = Runs::new();
        if agent.run(stop.clone()).await == Ended::Restart {
            runs.rest(&stop).await;
            restart.cancel();
            done.cancel();
            stop.cancelled().await;
        }
        Ok(())
    }

    /// Inside `up`: RESTART ends and rebuilds this role only. What keeps it from being rebuilt, such as a full disk, is no
    /// reason to end the others.
    pub(super) async fn run_over_restarts(mut self, stop: CancellationToken) -> Result<(), StartError> {
        let health = self.health.component("agent");
        let mut runs = Runs::new();
        while !stop.is_cancelled() {
            match self.bound.take().map_or_else(|| self.fresh(), Ok) {
                Ok(agent) => {
                    health.ok();
                    if agent.run(stop.clone()).await == Ended::Stopped {
                        break;
                    }
                }
                Err(error) => {
                    health.degraded(error.to_string());
                    anstream::eprintln!("error: the local agent cannot start: {error}; trying again");
                }
            }
            runs.rest(&stop).await;
        }
        Ok(())
    }
}

/// Runs of an agent, one after the other: one that ended at once is not followed at once.
#[derive(Debug)]
struct Runs {
    begun: Instant,
    backoff: Backoff,
}

impl Runs {
    fn new() -> Self {
        Self { begun: Instant::now(), backoff: Backoff::new(LASTING, RETRY_MAX) }
    }

    /// Returns when the next run may begin, at the latest when `stop` comes.
    async fn rest(&mut self, stop: &CancellationToken) {
        if self.begun.elapsed() >= LASTING {
            self.backoff.reset();
        } else {
            tokio::select! {
                () = tokio::time::sleep(self.backoff.next_delay()) => {}
                () = stop.cancelled() => {}
            }
        }
        self.begun = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_that_lasted_is_followed_at_once_and_short_ones_ever_later() {
        let (stop, mut runs) = (CancellationToken::new(), Runs::new());
        tokio::time::advance(LASTING).await;
        let before = Instant::now();
        runs.rest(&stop).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            runs.rest(&stop).await;
        }
        let waited = before.elapsed();
        assert!(waited > RETRY_MAX, "twenty short runs took {waited:?} only");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_not_kept_waiting() {
        let (stop, mut runs) = (CancellationToken::new(), Runs::new());
        stop.cancel();
        let before = Instant::now();
        for _ in 0..20 {
            runs.rest(&stop).await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
