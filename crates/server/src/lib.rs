//! The server role: holds one stream per agent, puts what comes up on the bus, sends down what topics and registry ask.
//!
//! The laws are pure values: [`session`] and [`client`] (the streams), [`roster`] (who speaks for whom, presence),
//! [`orders`] (commands), [`layers`] (config). [`hub`] puts them behind one lock; the rest is IO around it. It never
//! collects, keeps no history, and knows no other role: it meets them on the bus and in the registry.

mod client;
mod client_stream;
mod feed;
mod fresh_config;
mod hello;
mod hub;
mod inventory;
mod layers;
mod lease;
mod leave;
mod listen;
mod measure;
mod orders;
mod publish;
mod records;
mod room;
mod roster;
mod session;
mod session_stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backends::Backends;
use backends::registry::LeaseId;
use model::id::{Incarnation, ServerId};
use model::limit::{DRAIN_WITHIN, SERVER_WAITING_BYTES_MAX};
use model::presence::Timing;
use proto::key::ServerEntry;
use runtime::exposure::Exposed;
use runtime::ops::Ops;
use runtime::{Component, Scope, ScopeError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::hub::Hub;
use crate::lease::Holding;
use crate::measure::Measure;
use crate::publish::Publisher;
use crate::room::Room;
use crate::session_stream::Context;

/// How long the tasks that ended their work have to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How a server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server_id: ServerId,
    /// Where agents connect; port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    pub timing: Timing,
    pub tls: Option<ServerTls>,
    /// Listen beyond loopback without TLS.
    pub insecure: bool,
}

/// PEM texts. With `client_ca_pem`, agents have to show a certificate it signed.
#[derive(Clone)]
pub struct ServerTls {
    pub cert_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
    pub client_ca_pem: Option<Vec<u8>>,
}

/// Says what is there, never what it is.
impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("client_ca", &self.client_ca_pem.is_some()).finish_non_exhaustive()
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Exposed(#[from] Exposed),
    #[error(
        "gRPC cannot listen on {address}: the port is in use; `ss -ltnp 'sport = :{port}'` or `lsof -i :{port}` names \
         the process that holds it: stop that one, or give another --grpc-listen",
        port = address.port()
    )]
    InUse { address: SocketAddr },
    #[error("gRPC cannot listen on {address}: {source}; give another --grpc-listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the TLS certificate or key cannot be used: {reason}")]
    Tls { reason: String },
    #[error("the server's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why a server ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("gRPC ended: {reason}")]
    Grpc { reason: String },
    #[error(
        "another server with the id {server_id} has started and took its place: give each server its own --server-id"
    )]
    Replaced { server_id: ServerId },
    #[error("the server can follow {subject} no longer: its backend has closed")]
    Deaf { subject: &'static str },
    #[error(transparent)]
    Tasks(#[from] ScopeError),
}

/// A server that holds its port and is ready to run.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    backends: Backends,
    listener: TcpListener,
    address: SocketAddr,
    hub: Arc<Hub>,
    room: Room,
    bus_health: Component,
    registry_health: Component,
    grpc_health: Component,
}

impl Server {
    /// Takes the port. Agents that connect wait until [`Server::run`] has read what is on bus and registry.
    pub async fn bind(settings: Settings, backends: Backends, ops: Ops) -> Result<Self, StartError> {
        let listener = listen::bind(&settings).await?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address: settings.grpc_listen, source })?;
        let measure = Measure::register(&ops.metrics)?;
        let incarnation =
            Incarnation::new(Ulid::generate().to_string()).expect("a ULID is letters and digits");
        let hub = Hub::new(settings.server_id.clone(), incarnation, settings.timing, measure);
        let component = |name| ops.health.component(name);
        Ok(Self {
            bus_health: component("bus"),
            registry_health: component("registry"),
            grpc_health: component("grpc"),
            settings,
            backends,
            listener,
            address,
            hub,
            room: Room::new(SERVER_WAITING_BYTES_MAX),
        })
    }

    /// Memory for agents' data that waits for the bus, where [`SERVER_WAITING_BYTES_MAX`] is not right.
    #[must_use]
    pub fn waiting_at_most(self, bytes: usize) -> Self {
        Self { room: Room::new(bytes), ..self }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then sends the agents away in order: what they sent is made durable and acknowledged first.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RunError> {
        let (streams, tasks) = (Scope::new("server-streams"), Scope::new("server"));
        let own_lease = Scope::new("server-lease");
        let ready = CancellationToken::new();
        let replaced = CancellationToken::new();
        let (deaf, mut first_deaf) = mpsc::channel(1);
        let (publisher, mut leased) = self.start(&tasks, &own_lease, ready.clone(), replaced.clone(), &deaf);
        let mut deaf_to = None;
        let no_more = CancellationToken::new();
        let context = Context {
            hub: Arc::clone(&self.hub),
            publisher,
            registry: Arc::clone(&self.backends.registry),
            draining: no_more.clone(),
        };
        let prepared = async {
            ready.cancelled().await;
            // Only then is it known which registry this is; an error means that the lease's task has ended with `stop`.
            leased.wait_for(Option::is_some).await.is_ok()
        };
        tokio::select! {
            _ = prepared => {}
            () = stop.cancelled() => {}
            () = replaced.cancelled() => {}
            subject = first_deaf.recv() => deaf_to = subject,
            () = tasks.broken() => {}
        }
        let grpc = listen::serve(self.listener, &self.settings, context, streams.clone(), no_more.clone());
        tokio::pin!(grpc);
        self.grpc_health.ok();
        tracing::info!(address = %self.address, server = %self.settings.server_id, "agents can connect");
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            () = replaced.cancelled() => None,
            subject = first_deaf.recv(), if deaf_to.is_none() => {
                deaf_to = subject;
                None
            }
            () = std::future::ready(()), if deaf_to.is_some() => None,
            () = tasks.broken() => None,
            () = streams.broken() => None,
            ended = &mut grpc => Some(ended),
        };
        self.hub.drain();
        no_more.cancel();
        let ended = match ended {
            Some(ended) => ended,
            // Connections of agents that do not leave are cut when their time is up.
            None => tokio::time::timeout(DRAIN_WITHIN, &mut grpc).await.unwrap_or(Ok(())),
        };
        let outcomes = [
            streams.stop(STOP_WITHIN).await,
            tasks.stop(STOP_WITHIN).await,
            own_lease.stop(STOP_WITHIN).await,
        ];
        ended?;
        outcomes.into_iter().collect::<Result<(), _>>()?;
        if replaced.is_cancelled() {
            return Err(RunError::Replaced { server_id: self.hub.server.clone() });
        }
        deaf_to.map_or(Ok(()), |subject| Err(RunError::Deaf { subject }))
    }

    /// Starts everything but the port.
    fn start(
        &self,
        tasks: &Scope,
        own_lease: &Scope,
        ready: CancellationToken,
        replaced: CancellationToken,
        deaf: &mpsc::Sender<&'static str>,
    ) -> (Publisher, watch::Receiver<Option<LeaseId>>) {
        let hub = &self.hub;
        let registry = &self.backends.registry;
        let (lease, leased) = watch::channel(None);
        let own = ServerEntry {
            server_id: hub.server.clone(),
            server_incarnation: hub.incarnation.clone(),
            grpc: self.address.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: hub.clock.wall(),
        };
        // Given back last: the inventory is written under it.
        let holding = Holding {
            hub: Arc::clone(hub),
            registry: Arc::clone(registry),
            own,
            lease,
            health: self.registry_health.clone(),
            replaced,
        };
        own_lease.spawn("lease", holding.hold(own_lease.stopping()));
        for _ in 0..inventory::WRITERS {
            let (hub, registry) = (Arc::clone(hub), Arc::clone(registry));
            let health = self.registry_health.clone();
            tasks.spawn(
                "inventory",
                inventory::write(hub, registry, leased.clone(), health, tasks.stopping()),
            );
        }
        let publisher = Publisher::new(
            Arc::clone(&self.backends.bus),
            self.room.clone(),
            self.bus_health.clone(),
            hub.measure.clone(),
        );
        tasks.spawn("responses", publisher.clone().responses(Arc::clone(hub), tasks.stopping()));
        tasks.spawn("presence", judge_in_time(Arc::clone(hub), tasks.stopping()));
        let (bus_health, registry_health) = (&self.bus_health, &self.registry_health);
        feed::start(tasks, Arc::clone(hub), &self.backends, bus_health, registry_health, ready, deaf);
        (publisher, leased)
    }
}

/// Looks at agents when the time alone may have changed what is said of them.
async fn judge_in_time(hub: Arc<Hub>, stop: CancellationToken) {
    loop {
        let due = hub.next_due().map(|due| hub.clock.instant(due));
        tokio::select! {
            () = stop.cancelled() => return,
            () = hub.rescheduled.notified() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                hub.advance();
            }
        }
    }
}
