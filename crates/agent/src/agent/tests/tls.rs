//! An agent and servers with certificates, right and wrong: who gets in, and what the log says of the others.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tonic::transport::{Certificate, Identity as TlsIdentity, Server, ServerTlsConfig};

use super::*;
use crate::ClientTls;
use crate::session::Session;

/// Someone who signs. With [`Authority::new`] all have the same name: only the keys differ.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    fn sign(&self, name: &str) -> Signed {
        self.sign_with(name, |_| {})
    }

    fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

impl Signed {
    async fn serve(&self, demanded: Option<&Authority>) -> FakeServer {
        let mut config = ServerTlsConfig::new().identity(TlsIdentity::from_pem(&self.certificate, &self.key));
        if let Some(authority) = demanded {
            config = config.client_ca_root(Certificate::from_pem(authority.pem()));
        }
        FakeServer::start_with(Server::builder().tls_config(config).unwrap()).await
    }

    fn pair(&self) -> (Vec<u8>, Vec<u8>) {
        (self.certificate.clone().into_bytes(), self.key.clone().into_bytes())
    }
}

fn trusting(authority: &Authority) -> ClientTls {
    ClientTls { ca_pem: Some(authority.pem()), ..ClientTls::default() }
}

fn with_tls(directory: &Path, address: String, tls: Option<ClientTls>) -> Settings {
    Settings { tls, ..settings(directory, &[address]) }
}

/// Runs an agent until it says its hello.
async fn gets_in(server: &mut FakeServer, tls: ClientTls) {
    let folder = tempfile::tempdir().unwrap();
    let agent = start(with_tls(folder.path(), server.address.to_string(), Some(tls)));
    let (mut peer, hello) = server.session(16).await;
    assert_eq!(hello.agent_id, "agent-001");
    peer.heartbeat().await;
    drop(agent);
}

/// What an agent that gets no session logs, and says in its health.
async fn stays_out(address: String, tls: Option<ClientTls>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let Uplink { servers, surroundings, .. } = bind(with_tls(folder.path(), address, tls)).uplink;
    match Session::open(&servers[0], surroundings, 1).await {
        Ok(_) => panic!("the agent got in"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_server_signed_by_the_given_authority_is_taken() {
    let authority = Authority::new();
    gets_in(&mut authority.sign("127.0.0.1").serve(None).await, trusting(&authority)).await;
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_refused_and_the_flag_named() {
    let server = Authority::new().sign("127.0.0.1").serve(None).await;
    for unknown in [Authority::new(), Authority::named("another")] {
        let said = stays_out(server.address.to_string(), Some(trusting(&unknown))).await;
        assert!(said.contains("no authority in --tls-ca has signed the server's certificate"), "{said}");
    }
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_unless_that_name_is_given() {
    let authority = Authority::new();
    let mut server = authority.sign("monitor.example").serve(None).await;
    let said = stays_out(server.address.to_string(), Some(trusting(&authority))).await;
    for part in ["127.0.0.1", "monitor.example", "--tls-server-name"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let named = ClientTls { server_name: Some("monitor.example".to_owned()), ..trusting(&authority) };
    gets_in(&mut server, named).await;
}

#[tokio::test]
async fn a_certificate_out_of_its_time_or_for_other_ends_is_refused_with_what_to_do() {
    let authority = Authority::new();
    let expired = authority
        .sign_with("127.0.0.1", |params| params.not_after = date_time_ymd(2020, 1, 1))
        .serve(None)
        .await;
    let said = stays_out(expired.address.to_string(), Some(trusting(&authority))).await;
    assert!(said.contains("expired") && said.contains("renew"), "{said}");

    let early = authority
        .sign_with("127.0.0.1", |params| params.not_before = date_time_ymd(4000, 1, 1))
        .serve(None)
        .await;
    let said = stays_out(early.address.to_string(), Some(trusting(&authority))).await;
    assert!(said.contains("clock"), "{said}");

    let usage = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client =
        authority.sign_with("127.0.0.1", |params| params.extended_key_usages = usage).serve(None).await;
    let said = stays_out(client.address.to_string(), Some(trusting(&authority))).await;
    assert!(said.contains("serverAuth"), "{said}");
}

#[tokio::test]
async fn a_server_with_an_authoritys_own_certificate_is_refused_with_what_to_do() {
    let authority = Authority::new();
    let own = Signed { certificate: authority.0.pem(), key: authority.0.key().serialize_pem() };
    let server = own.serve(None).await;
    let said = stays_out(server.address.to_string(), Some(trusting(&authority))).await;
    assert!(said.contains("CA:TRUE"), "{said}");
}

#[tokio::test]
async fn a_server_that_demands_certificates_takes_those_of_its_authority_only() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let mut server = authority.sign("127.0.0.1").serve(Some(&authority)).await;
    let address = server.address.to_string();

    let said = stays_out(address.clone(), Some(trusting(&authority))).await;
    assert!(said.contains("give --tls-cert and --tls-key"), "{said}");
    let stranger = ClientTls { identity: Some(foreign.sign("agent-001").pair()), ..trusting(&authority) };
    let said = stays_out(address, Some(stranger)).await;
    assert!(said.contains("--tls-client-ca must have signed --tls-cert"), "{said}");

    let own = ClientTls { identity: Some(authority.sign("agent-001").pair()), ..trusting(&authority) };
    gets_in(&mut server, own).await;
}

#[tokio::test]
async fn a_plain_agent_at_a_tls_port_is_told_of_the_flag() {
    let server = Authority::new().sign("127.0.0.1").serve(None).await;
    let said = stays_out(server.address.to_string(), None).await;
    assert!(said.contains("if the server was started with --tls-cert, give --tls-ca"), "{said}");
}

#[tokio::test]
async fn a_tls_agent_at_a_plain_port_is_told_so() {
    let mut server = FakeServer::start().await;
    let address = server.address.to_string();
    let said = stays_out(address.clone(), Some(trusting(&Authority::new()))).await;
    assert!(said.contains("does not seem to speak TLS"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let agent = start(with_tls(folder.path(), address, None));
    server.session(16).await;
    drop(agent);
}

#[tokio::test]
async fn where_nobody_listens_certificates_are_not_blamed() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for tls in [None, Some(trusting(&Authority::new()))] {
        let said = stays_out(nobody.to_string(), tls).await;
        assert!(said.contains("refused") && !said.contains("tls"), "{said}");
    }
}

#[test]
fn files_that_do_not_fit_are_an_error_at_start_that_names_the_flag() {
    let authority = Authority::new();
    let (one, other) = (authority.sign("a").pair(), authority.sign("b").pair());
    let garbage = || b"garbage".to_vec();
    let cases = [
        (ClientTls { ca_pem: Some(garbage()), ..ClientTls::default() }, "--tls-ca: "),
        (ClientTls { identity: Some((garbage(), one.1.clone())), ..trusting(&authority) }, "--tls-cert: "),
        (ClientTls { identity: Some((one.0.clone(), garbage())), ..trusting(&authority) }, "--tls-key: "),
        (
            ClientTls { identity: Some((one.0, other.1)), ..trusting(&authority) },
            "--tls-key is not the key of",
        ),
        (ClientTls { server_name: Some("no name".to_owned()), ..trusting(&authority) }, "--tls-server-name"),
    ];
    for (tls, part) in cases {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let settings = with_tls(Path::new("unused"), "localhost:1".to_owned(), Some(tls));
        let error = Agent::bind(settings, metrics, Health::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}
