//! Certificates, right and wrong: who gets in, and that nobody else troubles the server.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use model::presence::Timing;
use proto::wire::agent_message::Body as Up;
use proto::wire::server_message::Body as Down;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use server::{ServerTls, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::harness::{Agent, Surroundings, World, hello, settings, soon};

/// Someone who signs. All have the same name: only the keys differ.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Signed {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    pub(crate) fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Signed { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
    }
}

impl Signed {
    fn read(folder: &Path, name: &str) -> Self {
        let read = |ending: &str| std::fs::read(folder.join(format!("{name}.{ending}"))).unwrap();
        Self { certificate: read("pem"), key: read("key") }
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    async fn serve(&self, client_ca_pem: Option<Vec<u8>>) -> World {
        let tls = ServerTls { cert_pem: self.certificate.clone(), key_pem: self.key.clone(), client_ca_pem };
        let settings = Settings { tls: Some(tls), ..settings(Timing::default()) };
        World::start_with(Surroundings::new().await, settings).await
    }
}

fn trusting(authority: &[u8]) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority))
}

/// Connects, greets, and is welcomed; or not.
async fn greet(world: &World, tls: ClientTlsConfig) -> Result<(), String> {
    let endpoint =
        Channel::from_shared(format!("https://{}", world.address)).unwrap().tls_config(tls).unwrap();
    let channel = soon("an answer", endpoint.connect()).await.map_err(|error| format!("{error:?}"))?;
    let mut agent = Agent::try_open(channel).await.map_err(|status| format!("{status:?}"))?;
    agent.send(Up::Hello(hello("agent-001", "i1"))).await;
    match agent.try_next().await {
        Ok(Some(Down::Welcome(_))) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A handshake and no more: what the two agreed on.
async fn agree(
    world: &World,
    authority: &[u8],
    versions: &[&'static SupportedProtocolVersion],
) -> (ProtocolVersion, Vec<u8>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let stream = TcpStream::connect(world.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream =
        soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap();
    let (_, connection) = stream.get_ref();
    (connection.protocol_version().unwrap(), connection.alpn_protocol().unwrap().to_vec())
}

#[tokio::test]
async fn an_agent_that_trusts_the_authority_is_welcome_and_others_do_not_connect() {
    let authority = Authority::new();
    let world = authority.sign("127.0.0.1").serve(None).await;
    assert_eq!(greet(&world, trusting(&authority.pem())).await, Ok(()));
    let error = greet(&world, trusting(&Authority::new().pem())).await.unwrap_err();
    assert!(error.contains("InvalidCertificate"), "{error}");
    let error = greet(&world, trusting(&authority.pem()).domain_name("elsewhere")).await.unwrap_err();
    assert!(error.contains("NotValidForName"), "{error}");
    assert_eq!(greet(&world, trusting(&authority.pem())).await, Ok(()));
}

#[tokio::test]
async fn with_a_client_authority_only_those_it_signed_are_welcome() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let world = authority.sign("127.0.0.1").serve(Some(authority.pem())).await;
    let client = || trusting(&authority.pem());
    assert!(greet(&world, client()).await.is_err(), "without a certificate");
    assert!(
        greet(&world, client().identity(foreign.sign("agent-001").identity())).await.is_err(),
        "a foreign one"
    );
    assert_eq!(greet(&world, client().identity(authority.sign("agent-001").identity())).await, Ok(()));
}

#[tokio::test]
async fn the_newest_version_is_spoken_with_http_2_within_and_an_older_one_if_need_be() {
    let authority = Authority::new();
    let world = authority.sign("localhost").serve(None).await;
    let h2 = b"h2".to_vec();
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    assert_eq!(agree(&world, &authority.pem(), &[old, new]).await, (ProtocolVersion::TLSv1_3, h2.clone()));
    assert_eq!(agree(&world, &authority.pem(), &[old]).await, (ProtocolVersion::TLSv1_2, h2));
}

#[tokio::test]
async fn plain_clients_are_hung_up_on_and_nobody_else_notices() {
    let authority = Authority::new();
    let world = authority.sign("127.0.0.1").serve(None).await;
    let channel = world.channel().await;
    assert!(Agent::try_open(channel).await.is_err(), "plain text was taken");
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(soon("the hang-up", stream.read_to_end(&mut Vec::new())).await);
    assert_eq!(greet(&world, trusting(&authority.pem())).await, Ok(()));
}

#[tokio::test]
async fn a_peer_that_never_begins_the_handshake_is_hung_up_on_and_keeps_nobody_waiting() {
    let authority = Authority::new();
    let world = authority.sign("127.0.0.1").serve(None).await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(greet(&world, trusting(&authority.pem())).await, Ok(()));
    assert_eq!(soon("the hang-up", silent.read_to_end(&mut Vec::new())).await.unwrap(), 0);
}

/// Everything between the fences that say `sh`.
fn commands(document: &str) -> String {
    document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[tokio::test]
async fn the_certificates_of_the_document_work() {
    let script = commands(include_str!("../../../../docs/tls.md"));
    assert!(script.contains("-out ca.pem") && script.contains("-out server.pem"), "{script}");
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: there is no openssl on this machine to run the commands of docs/tls.md with");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh").args(["-euc", &script]).current_dir(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let authority = std::fs::read(folder.path().join("ca.pem")).unwrap();
    let (server, agent) = (Signed::read(folder.path(), "server"), Signed::read(folder.path(), "agent"));

    let world = server.serve(Some(authority.clone())).await;
    let client = || trusting(&authority);
    assert_eq!(greet(&world, client().identity(agent.identity())).await, Ok(()));
    // The agent inside `up`: by another name, with the server's own certificate.
    let inside = client().domain_name("localhost").identity(server.identity());
    assert_eq!(greet(&world, inside).await, Ok(()));
    assert!(greet(&world, client()).await.is_err(), "without a certificate");
}
