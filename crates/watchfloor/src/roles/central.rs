//! The central roles of one process, as many of them as it has: bound together, and stopped in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::analysis::Analysis;
use ::backends::directory::DataDirectory;
use ::console::{Console, Hosts};
use ::monitor::Monitor;
use ::server::{Server, StartError};
use prometheus::Registry;
use runtime::Health;
use runtime::ops::{self, Ops};
use serde::Serialize;
use tokio::net::TcpListener;

use super::backends::{Choice, Store};
use super::flags::{BackendFlags, DataFlags, GrpcFlags};
use super::process::Process;
use super::{http, presence};
use crate::exit::{Exit, Failure};

/// Sessions are told to leave and their last batches become durable.
const SERVER_GRACE: Duration = Duration::from_secs(10);
const READERS_GRACE: Duration = Duration::from_secs(5);
const TOPICS_GRACE: Duration = Duration::from_secs(2);

/// Which process of a fleet this is, and what it stands on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// `server`, `monitor` or `analysis`: what the data directory and the brokers' logs call it.
    pub(super) role: &'static str,
    pub(super) id: &'a str,
    pub(super) choice: &'a Choice,
    pub(super) backends: &'a BackendFlags,
    pub(super) data: &'a DataFlags,
    /// The first is the one to name to people.
    pub(super) http: &'a [SocketAddr],
}

/// Everything that can fail, reserved; nothing runs yet.
pub(super) struct Central {
    pub(super) ops: Ops,
    id: String,
    /// Where an analysis of this process keeps its archive.
    archive: PathBuf,
    insecure: bool,
    directory: DataDirectory,
    store: Store,
    server: Option<Server>,
    monitor: Option<Monitor>,
    analysis: Option<Analysis>,
    listeners: Vec<TcpListener>,
}

/// What of it is left to do once it runs.
pub(super) struct Running {
    store: Store,
    directory: DataDirectory,
}

/// The real addresses, which differ from the flags where these say port 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Addresses {
    pub(super) pid: u32,
    /// Where agents connect, if this process has a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) grpc: Option<SocketAddr>,
    pub(super) http: SocketAddr,
}

impl Central {
    /// Takes directory, ports and store.
    pub(super) async fn open(place: Place<'_>) -> Result<Self, Failure> {
        let Place { role, id, choice, backends, data, http } = place;
        let insecure = backends.plain.insecure;
        let directory = DataDirectory::lock(&data.of(role, id)).map_err(unavailable)?;
        let mut listeners = Vec::new();
        for address in http {
            listeners.push(http::bind(*address, insecure).await?);
        }
        let ops = Ops { health: Health::default(), metrics: Registry::new() };
        let store = Store::open(choice, backends, data, &format!("watchfloor-{role}-{id}"), &ops).await?;
        Ok(Self {
            ops,
            id: id.to_owned(),
            archive: data.of("analysis", id).join("archive"),
            insecure,
            directory,
            store,
            server: None,
            monitor: None,
            analysis: None,
            listeners,
        })
    }

    /// The door for agents. Takes its port.
    pub(super) async fn add_server(&mut self, grpc: &GrpcFlags) -> Result<(), Failure> {
        let settings = ::server::Settings {
            server_id: grpc.server_id()?,
            grpc_listen: grpc.grpc_listen,
            timing: grpc.timeout,
            tls: grpc.tls()?,
            insecure: self.insecure,
        };
        let server = Server::bind(settings, self.store.backends(), self.ops.clone()).await;
        self.server = Some(server.map_err(refused)?);
        Ok(())
    }

    /// `shows_presence`: a line for every change, on the standard output.
    pub(super) fn add_monitor(&mut self, shows_presence: bool) -> Result<(), Failure> {
        let settings = ::monitor::Settings {
            monitor_id: self.id.clone(),
            on_status: shows_presence.then(|| Box::new(presence::print) as ::monitor::OnStatus),
        };
        let monitor = Monitor::new(settings, self.store.backends(), &self.ops).map_err(unavailable)?;
        self.monitor = Some(monitor);
        Ok(())
    }

    /// History, and the HTTP API over it in place of health and metrics alone.
    pub(super) fn add_analysis(&mut self) -> Result<(), Failure> {
        let directory = Some(self.archive.clone());
        let settings = ::analysis::Settings { directory, ..::analysis::Settings::default() };
        let analysis =
            Analysis::new(settings, self.store.backends(), self.ops.clone()).map_err(unavailable)?;
        self.analysis = Some(analysis);
        Ok(())
    }

    pub(super) fn addresses(&self) -> std::io::Result<Addresses> {
        let http = self.listeners.first().map(TcpListener::local_addr).transpose()?;
        let none = || std::io::Error::other("no HTTP listener");
        let grpc = self.server.as_ref().map(Server::local_addr);
        Ok(Addresses { pid: std::process::id(), grpc, http: http.ok_or_else(none)? })
    }

    /// Starts all of it: the server in one stage, its readers in the next, what they stand on in the last.
    pub(super) fn spawn(mut self, process: &mut Process) -> Result<Running, Failure> {
        let addresses = self.addresses()?;
        if let Some(server) = self.server {
            let servers = process.stage("server", SERVER_GRACE);
            process.spawn(&servers, "server", server.run(servers.stopping()));
        }
        let readers = process.stage("monitor, analysis and console", READERS_GRACE);
        let console = self.analysis.as_ref().map(|analysis| Console {
            history: analysis.history(),
            commands: analysis.commands(),
            fleet: analysis.fleet(),
            backends: self.store.backends(),
            ops: self.ops.clone(),
        });
        if let Some(monitor) = self.monitor {
            process.spawn(&readers, "monitor", monitor.run(readers.stopping()));
        }
        if let Some(analysis) = self.analysis {
            process.spawn(&readers, "analysis", analysis.run(readers.stopping()));
            let (registry, http) = (self.store.backends().registry, addresses.http.to_string());
            let health = self.ops.health.component("analysis key");
            let announced = ::analysis::announce(registry, self.id, http, health, readers.stopping());
            process.spawn(&readers, "analysis key", async {
                announced.await;
                Ok::<_, std::convert::Infallible>(())
            });
        }
        for listener in self.listeners {
            // A listener that others are meant to reach goes by names we cannot know.
            let is_local = listener.local_addr()?.ip().is_loopback();
            let hosts = if is_local { Hosts::Loopback } else { Hosts::Any };
            let router = match &console {
                Some(console) => ::console::router_for(console.clone(), hosts),
                None => ops::router(self.ops.clone()),
            };
            process.spawn(&readers, "http", http::serve(listener, router, readers.stopping()));
        }
        let topics = process.stage("topics", TOPICS_GRACE);
        process.spawn(&topics, "topics", self.store.keep_topics(topics.stopping()));
        let running = Running { store: self.store, directory: self.directory };
        running.publish(&addresses)?;
        Ok(running)
    }
}

fn unavailable(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::Unavailable, error)
}

/// Flags that cannot be, or something of this machine that could not be had.
fn refused(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Exposed(_) | StartError::Tls { .. } => Exit::Config,
        StartError::InUse { .. } | StartError::Listen { .. } | StartError::Metrics(_) => Exit::Unavailable,
    };
    Failure::new(exit, error)
}

impl Running {
    /// Writes `<data-dir>/<role>/<id>/addresses.json`, whole or not at all. Scripts that gave port 0 wait for it.
    fn publish(&self, addresses: &Addresses) -> Result<(), Failure> {
        let path = self.addresses_path();
        let draft = path.with_extension("new");
        std::fs::write(&draft, serde_json::to_vec(addresses)?)?;
        std::fs::rename(&draft, &path)?;
        Ok(())
    }

    fn addresses_path(&self) -> PathBuf {
        self.directory.path().join("addresses.json")
    }

    /// To be called when every stage has stopped.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        // What a script reads must not outlive what it names; if it does, the pid tells.
        drop(std::fs::remove_file(self.addresses_path()));
        self.store.close().await
    }
}
