//! The central roles of one process: store, server, monitor, analysis and console, bound together and stopped in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::analysis::Analysis;
use ::backends::directory::DataDirectory;
use ::console::{Console, Hosts};
use ::monitor::Monitor;
use ::server::{Server, StartError};
use model::id::ServerId;
use prometheus::Registry;
use runtime::Health;
use runtime::ops::Ops;
use serde::Serialize;
use tokio::net::TcpListener;

use super::backends::Store;
use super::flags::{DataFlags, GrpcFlags};
use super::process::Process;
use super::{http, presence};
use crate::exit::{Exit, Failure};

/// Sessions are told to leave and their last batches become durable.
const SERVER_GRACE: Duration = Duration::from_secs(10);
const READERS_GRACE: Duration = Duration::from_secs(5);

/// Everything that can fail, reserved; nothing runs yet.
pub(super) struct Central {
    pub(super) server_id: ServerId,
    pub(super) ops: Ops,
    directory: DataDirectory,
    store: Store,
    server: Server,
    monitor: Monitor,
    analysis: Analysis,
    console: Console,
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
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
}

impl Central {
    /// Takes directories, ports and store. The first of `http` is the one to name to people.
    pub(super) async fn bind(
        data: &DataFlags,
        grpc: &GrpcFlags,
        http: &[SocketAddr],
        shows_presence: bool,
    ) -> Result<Self, Failure> {
        let unavailable = |error: anyhow::Error| Failure::new(Exit::Unavailable, error);
        let server_id = grpc.server_id()?;
        let tls = grpc.tls()?;
        let directory = DataDirectory::lock(&data.of("server", server_id.as_str()))
            .map_err(|error| unavailable(error.into()))?;
        let mut listeners = Vec::new();
        for address in http {
            listeners.push(http::bind(*address, grpc.insecure).await?);
        }
        let store = Store::open(data).await?;
        let ops = Ops { health: Health::default(), metrics: Registry::new() };
        let settings = ::server::Settings {
            server_id: server_id.clone(),
            grpc_listen: grpc.grpc_listen,
            timing: grpc.timeout,
            tls,
            insecure: grpc.insecure,
        };
        let server = Server::bind(settings, store.backends(), ops.clone()).await.map_err(refused)?;
        let settings = ::monitor::Settings {
            monitor_id: server_id.to_string(),
            on_status: shows_presence.then(|| Box::new(presence::print) as ::monitor::OnStatus),
        };
        let monitor =
            Monitor::new(settings, store.backends(), &ops).map_err(|error| unavailable(error.into()))?;
        let analysis = Analysis::new(::analysis::Settings::default(), store.backends(), ops.clone())
            .map_err(|error| unavailable(error.into()))?;
        let console = Console {
            history: analysis.history(),
            commands: analysis.commands(),
            fleet: analysis.fleet(),
            backends: store.backends(),
            ops: ops.clone(),
        };
        Ok(Self { server_id, ops, directory, store, server, monitor, analysis, console, listeners })
    }

    pub(super) fn addresses(&self) -> std::io::Result<Addresses> {
        let http = self.listeners.first().map(TcpListener::local_addr).transpose()?;
        let none = || std::io::Error::other("no HTTP listener");
        Ok(Addresses {
            pid: std::process::id(),
            grpc: self.server.local_addr(),
            http: http.ok_or_else(none)?,
        })
    }

    /// Starts all of it: the server in one stage, its readers in the next.
    pub(super) fn spawn(self, process: &mut Process) -> Result<Running, Failure> {
        let addresses = self.addresses()?;
        let servers = process.stage("server", SERVER_GRACE);
        process.spawn(&servers, "server", self.server.run(servers.stopping()));
        let readers = process.stage("monitor, analysis and console", READERS_GRACE);
        process.spawn(&readers, "monitor", self.monitor.run(readers.stopping()));
        process.spawn(&readers, "analysis", self.analysis.run(readers.stopping()));
        for listener in self.listeners {
            // A listener that others are meant to reach goes by names we cannot know.
            let is_local = listener.local_addr()?.ip().is_loopback();
            let hosts = if is_local { Hosts::Loopback } else { Hosts::Any };
            let router = ::console::router_for(self.console.clone(), hosts);
            process.spawn(&readers, "http", http::serve(listener, router, readers.stopping()));
        }
        let running = Running { store: self.store, directory: self.directory };
        running.publish(&addresses)?;
        Ok(running)
    }
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
    /// Writes `<data-dir>/server/<id>/addresses.json`, whole or not at all. Scripts that gave port 0 wait for it.
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
