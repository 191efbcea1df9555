//! What keeps a server from starting.

use backends::Backends;
use model::presence::Timing;
use runtime::ops::Ops;
use server::{Server, ServerTls, Settings, StartError};

use crate::harness::{Surroundings, settings};

async fn refused(settings: Settings) -> StartError {
    let around = Surroundings::new().await;
    let backends = Backends { bus: around.bus, registry: around.registry };
    let ops = Ops { health: Default::default(), metrics: Default::default() };
    Server::bind(settings, backends, ops).await.unwrap_err()
}

#[tokio::test]
async fn plain_text_beyond_loopback_is_refused() {
    let open = Settings { grpc_listen: ([0, 0, 0, 0], 0).into(), ..settings(Timing::default()) };
    let error = refused(open).await.to_string();
    assert!(error.contains("--insecure"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_way_to_its_holder() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = Settings { grpc_listen: holder.local_addr().unwrap(), ..settings(Timing::default()) };
    let address = taken.grpc_listen.to_string();
    let error = refused(taken).await.to_string();
    assert!(error.contains(&address) && error.contains("lsof -i"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_none_is_an_error_at_once() {
    let tls = ServerTls { cert_pem: b"no".to_vec(), key_pem: b"no".to_vec(), client_ca_pem: None };
    let error = refused(Settings { tls: Some(tls), ..settings(Timing::default()) }).await;
    assert!(matches!(error, StartError::Tls { .. }), "{error}");
}
