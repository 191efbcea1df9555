//! The HTTP listeners of a process: bound early, protected by the exposure rule, and never a reason to hang at the end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use runtime::exposure::{self, Protection};
use runtime::ops;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// Requests under way have this long once the end has begun; a live tail would go on for ever.
const OPEN_REQUESTS: Duration = Duration::from_secs(1);

/// Takes the port. A host that is not this machine's alone needs the operator's word.
pub(super) async fn bind(address: SocketAddr, insecure: bool) -> Result<TcpListener, Failure> {
    let protection = if insecure { Protection::Insecure } else { Protection::PlainOnly };
    exposure::check("the HTTP API", address, protection)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    TcpListener::bind(address).await.map_err(|error| {
        let port = address.port();
        let message = if error.kind() == ErrorKind::AddrInUse {
            format!(
                "HTTP cannot listen on {address}: the port is in use; `ss -ltnp 'sport = :{port}'` or `lsof -i :{port}` names \
                 the process that holds it: stop that one, or give another --http-listen"
            )
        } else {
            format!("HTTP cannot listen on {address}: {error}; give another --http-listen")
        };
        Failure::message(Exit::Unavailable, message)
    })
}

/// Serves until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let last_call = stop.clone();
    tokio::select! {
        served = ops::serve(listener, router, stop.cancelled_owned()) => served,
        () = async { last_call.cancelled().await; tokio::time::sleep(OPEN_REQUESTS).await } => Ok(()),
    }
}
