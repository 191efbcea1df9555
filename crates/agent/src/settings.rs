//! What an agent is started with, and every reason not to start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use model::id::AgentId;
use runtime::tls::PemError;
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::collect;
use crate::state::StateError;
use crate::tls::{ClientTls, Protection, SYSTEM_BUNDLES};

/// Time to reach one server. Another one may answer.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// An idle connection is asked for life this often, and is dead when it does not answer in time: the agent of a server that
/// hangs is at another one well before it would be called OFFLINE with it.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// What a server may send ahead of our reading: commands and configs are small.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;
const HEADER_LIST_BYTES: u32 = 8 * 1024;

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub agent_id: AgentId,
    pub labels: BTreeMap<String, String>,
    /// `host:port`, one or more; tried in random order.
    pub servers: Vec<String>,
    /// Holds what survives a restart. The caller has locked it for this process.
    pub state_directory: PathBuf,
    /// The machine to watch.
    pub roots: collect::Host,
    pub tls: Option<ClientTls>,
    /// Plain text beyond loopback is meant.
    pub insecure: bool,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no server given: add --server host:50051")]
    NoServer,
    #[error("server {server:?} is no host:port, such as localhost:50051 or [::1]:50051")]
    Address { server: String },
    #[error(
        "metrics and commands would go to {server} in plain text: give --tls-ca to encrypt, or add --insecure to say that \
         you mean it"
    )]
    PlainText { server: String },
    #[error("this machine has no bundle of certificate authorities in {}: give --tls-ca", SYSTEM_BUNDLES.join(", "))]
    NoAuthorities,
    #[error(transparent)]
    Pem(PemError),
    #[error(
        "TLS towards {server} cannot be set up; --tls-server-name, where given, must be a host name or an address"
    )]
    Tls {
        server: String,
        #[source]
        cause: tonic::transport::Error,
    },
    #[error("{given} labels given: at most {max} are allowed", max = model::limit::LABELS_MAX)]
    TooManyLabels { given: usize },
    #[error(transparent)]
    State(#[from] StateError),
}

/// One server to connect to, ready to dial.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// As given, for people.
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) protection: Protection,
}

impl Settings {
    /// Checks the addresses and how they are protected.
    pub(crate) fn servers(&self) -> Result<Vec<Server>, StartError> {
        if self.servers.is_empty() {
            return Err(StartError::NoServer);
        }
        if self.labels.len() > model::limit::LABELS_MAX {
            return Err(StartError::TooManyLabels { given: self.labels.len() });
        }
        let tls = self.tls.as_ref().map(ClientTls::config).transpose()?;
        self.servers.iter().map(|server| self.server(server, tls.as_ref())).collect()
    }

    fn server(&self, server: &str, tls: Option<&ClientTlsConfig>) -> Result<Server, StartError> {
        let host = host_of(server).ok_or_else(|| StartError::Address { server: server.to_owned() })?;
        if tls.is_none() && !self.insecure && !is_loopback(host) {
            return Err(StartError::PlainText { server: server.to_owned() });
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_str(&format!("{scheme}://{server}"))
            .map_err(|_| StartError::Address { server: server.to_owned() })?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_LIST_BYTES);
        let endpoint = match tls {
            None => endpoint,
            Some(tls) => endpoint
                .tls_config(tls.clone())
                .map_err(|cause| StartError::Tls { server: server.to_owned(), cause })?,
        };
        let own_certificate = self.tls.as_ref().is_some_and(|tls| tls.identity.is_some());
        let protection = tls.map_or(Protection::Plain, |_| Protection::Tls { own_certificate });
        Ok(Server { name: server.to_owned(), endpoint, protection })
    }
}

/// The host of `host:port`; `None` where either is missing.
fn host_of(server: &str) -> Option<&str> {
    let (host, port) = server.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port != 0)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = !host.is_empty() && !host.contains(['/', ':', '@', ' ', '[', ']']);
    inner.or(plain.then_some(host))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(server: &str) -> Settings {
        Settings {
            agent_id: AgentId::new("agent-001").unwrap(),
            labels: BTreeMap::new(),
            servers: vec![server.to_owned()],
            state_directory: PathBuf::new(),
            roots: collect::Host::local(),
            tls: None,
            insecure: false,
        }
    }

    #[test]
    fn plain_text_is_for_loopback_unless_the_operator_insists() {
        for near in ["localhost:50051", "127.0.0.1:50051", "[::1]:50051"] {
            assert!(settings(near).servers().is_ok(), "{near}");
        }
        let far = settings("monitor.example:50051");
        let error = far.servers().unwrap_err().to_string();
        assert!(error.contains("monitor.example:50051") && error.contains("--insecure"), "{error}");
        assert!(Settings { insecure: true, ..far }.servers().is_ok());
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in
            ["", "localhost", "localhost:", ":50051", "::1:50051", "http://a:1", "a:0", "a:70000", "a b:1"]
        {
            let error = settings(text).servers().unwrap_err();
            assert!(matches!(error, StartError::Address { .. }), "{text:?}: {error}");
        }
        let none = Settings { servers: Vec::new(), ..settings("") };
        assert!(matches!(none.servers(), Err(StartError::NoServer)));
    }

    #[test]
    fn a_key_that_is_none_is_refused_at_start() {
        let tls = ClientTls {
            ca_pem: Some(b"no certificate".to_vec()),
            identity: Some((b"x".to_vec(), b"secret".to_vec())),
            server_name: None,
        };
        assert!(!format!("{tls:?}").contains("secret"));
        let with_tls = Settings { tls: Some(tls), ..settings("monitor.example:50051") };
        assert!(matches!(with_tls.servers(), Err(StartError::Pem(_))));
    }
}
