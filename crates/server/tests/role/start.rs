//! What keeps a server from starting.

use backends::Backends;
use model::presence::Timing;
use runtime::ops::Ops;
use server::{Server, ServerTls, Settings, StartError};

use crate::harness::{Surroundings, settings};
use crate::tls::Authority;

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
async fn files_that_do_not_fit_are_an_error_at_once_that_names_the_flag() {
    let authority = Authority::new();
    let (one, other) = (authority.sign("a"), authority.sign("b"));
    let good = ServerTls { cert_pem: one.certificate, key_pem: one.key, client_ca_pem: None };
    let garbage = || b"garbage".to_vec();
    let cases = [
        (ServerTls { cert_pem: garbage(), ..good.clone() }, "--tls-cert: "),
        (ServerTls { key_pem: garbage(), ..good.clone() }, "--tls-key: "),
        (ServerTls { key_pem: other.key, ..good.clone() }, "--tls-key is not the key of"),
        (ServerTls { client_ca_pem: Some(garbage()), ..good }, "--tls-client-ca: "),
    ];
    for (tls, part) in cases {
        let error = refused(Settings { tls: Some(tls), ..settings(Timing::default()) }).await;
        assert!(
            matches!(error, StartError::Tls { .. }) && error.to_string().contains(part),
            "{part}: {error}"
        );
    }
}
