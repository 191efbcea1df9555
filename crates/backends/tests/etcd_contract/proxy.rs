//! A TCP proxy that can cut its connections.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime::Scope;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::world::address;

/// What becomes of connections, those that are open and those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Closed at once.
    Cut,
    /// Accepted, and never a byte back.
    Silent,
}

pub(crate) struct Proxy {
    address: Ipv4Addr,
    way: watch::Sender<Way>,
    accepted: Arc<AtomicUsize>,
    scope: Scope,
}

impl Proxy {
    pub(crate) async fn before(target: String, way: Way) -> Self {
        let (address, scope) = (address(), Scope::new("proxy"));
        let listener = TcpListener::bind((address, 2379)).await.unwrap();
        let (way, ways) = watch::channel(way);
        let accepted = Arc::<AtomicUsize>::default();
        let serve = accept(listener, target, ways, Arc::clone(&accepted), scope.clone());
        scope.spawn("accept", serve);
        Self { address, way, accepted, scope }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}:2379", self.address)
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    ways: watch::Receiver<Way>,
    accepted: Arc<AtomicUsize>,
    scope: Scope,
) {
    let stopping = scope.stopping();
    let work = async {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            accepted.fetch_add(1, Ordering::Relaxed);
            scope.spawn("connection", carry(client, target.clone(), ways.clone()));
        }
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = work => {}
    }
}

async fn carry(mut client: TcpStream, target: String, mut ways: watch::Receiver<Way>) {
    let way = *ways.borrow_and_update();
    let work = async {
        if way == Way::Open
            && let Ok(mut server) = TcpStream::connect(target).await
        {
            // Either side may end it in any way: that is what it is for.
            drop(copy_bidirectional(&mut client, &mut server).await);
        }
        if way == Way::Silent {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = ways.changed() => {}
        () = work => {}
    }
}
