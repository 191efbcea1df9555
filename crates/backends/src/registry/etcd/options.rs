//! Where etcd is and how to speak to it, checked before the first connection.

use std::fmt;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// etcd's port for clients.
const PORT: u16 = 2379;
/// Endpoints of one cluster; etcd's own advice ends at seven members.
const ENDPOINTS_MAX: usize = 16;
/// What one watch may hold unread. Watches are read at once (see `watcher`), so this only has to cover a round trip.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Shared by every call on a connection: many times a stream's, so that one stalled stream stalls no other.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// How an [`EtcdRegistry`](super::EtcdRegistry) finds and uses its etcd.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` of each member that may be asked. One that does not answer is passed over.
    pub endpoints: Vec<String>,
    pub credentials: Option<Credentials>,
    /// `None`: plain text.
    pub tls: Option<Tls>,
    pub connect_timeout: Duration,
    /// For one call, fail-over included.
    pub call_timeout: Duration,
    /// Between two pings of an open connection. etcd cuts off clients that ping more often than every 5 s.
    pub ping_interval: Duration,
    /// A connection whose ping is not answered for so long is given up.
    pub ping_timeout: Duration,
    /// A watch that was interrupted for longer tells its reader.
    pub interruption: Duration,
}

/// User and password of etcd's own authentication.
#[derive(Clone)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Certificates, as PEM text.
#[derive(Clone)]
pub struct Tls {
    /// Who may have signed etcd's certificate. Required: the system's roots are not read.
    pub authorities: Vec<u8>,
    /// Our own certificate and key, where etcd asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Why there is nothing to connect to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("{given:?} does not name an etcd: write etcd://host:2379[,host:2379...]")]
    NotAnAddress { given: String },
    #[error("{given} etcd endpoints are given, at most {max} are used: name fewer members", max = ENDPOINTS_MAX)]
    TooMany { given: usize },
    #[error(
        "an etcd address holds a user or password, which every process list would show: give them apart from it"
    )]
    SecretInAddress,
    #[error("TLS to etcd at {endpoint} cannot be set up: {reason}")]
    Tls { endpoint: String, reason: String },
}

impl Options {
    /// `etcd://host[:port][,host[:port]...]`, everything else as by default.
    pub fn from_uri(uri: &str) -> Result<Self, OptionsError> {
        let given = || OptionsError::NotAnAddress { given: uri.to_owned() };
        if uri.contains('@') {
            return Err(OptionsError::SecretInAddress);
        }
        let hosts = uri.strip_prefix("etcd://").ok_or_else(given)?.trim_end_matches('/');
        let endpoints: Vec<String> =
            hosts.split(',').map(with_port).collect::<Option<_>>().ok_or_else(given)?;
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(OptionsError::TooMany { given: endpoints.len() });
        }
        Ok(Self::new(endpoints))
    }

    /// The defaults, for these endpoints.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            credentials: None,
            tls: None,
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
            interruption: Duration::from_secs(3),
        }
    }

    /// One channel for each endpoint. None connects before it is used.
    pub(super) fn channels(&self) -> Result<Vec<Channel>, OptionsError> {
        match self.endpoints.len() {
            0 => Err(OptionsError::NotAnAddress { given: String::new() }),
            given if given > ENDPOINTS_MAX => Err(OptionsError::TooMany { given }),
            _ => self.endpoints.iter().map(|endpoint| self.channel(endpoint)).collect(),
        }
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, OptionsError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut built = Endpoint::from_shared(format!("{scheme}://{endpoint}"))
            .map_err(|_| OptionsError::NotAnAddress { given: endpoint.to_owned() })?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(self.ping_interval)
            .keep_alive_timeout(self.ping_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if let Some(tls) = &self.tls {
            let fault = |reason: String| OptionsError::Tls { endpoint: endpoint.to_owned(), reason };
            if !tls.authorities.windows(11).any(|text| text == b"-----BEGIN ") {
                return Err(fault("the authorities are not PEM text".to_owned()));
            }
            built = built.tls_config(tls.config()).map_err(|error| fault(chain(&error)))?;
        }
        Ok(built.connect_lazy())
    }
}

impl Tls {
    fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authorities));
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

/// An error and what is behind it: tonic's own text says only that something failed.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

/// `host:port`, with etcd's port where none is given. An IPv6 address stands in brackets.
fn with_port(host: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return None;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            let port: u16 = port.parse().ok()?;
            (!name.is_empty() && port > 0 && (!name.contains(':') || name.ends_with(']')))
                .then(|| host.to_owned())
        }
        _ => Some(format!("{host}:{PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_one_or_several_members() {
        let endpoints = |uri| Options::from_uri(uri).unwrap().endpoints;
        assert_eq!(endpoints("etcd://localhost:2379"), ["localhost:2379"]);
        assert_eq!(endpoints("etcd://a:1,b/"), ["a:1", "b:2379"]);
        assert_eq!(endpoints("etcd://[::1]:2379,[::1]"), ["[::1]:2379", "[::1]:2379"]);
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for uri in [
            "localhost:2379",
            "etcd://",
            "etcd://a,,b",
            "etcd://a:x",
            "etcd://a:0",
            "etcd://:1",
            "etcd://a b",
            "etcd://::1:2",
        ] {
            assert!(matches!(Options::from_uri(uri), Err(OptionsError::NotAnAddress { .. })), "{uri}");
        }
        assert_eq!(Options::from_uri("etcd://root:x@a").unwrap_err(), OptionsError::SecretInAddress);
        assert!(Options::from_uri(&format!("etcd://a{}", ",a".repeat(16))).is_err());
    }

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials { user: "u".to_owned(), password: "hidden".to_owned() };
        let options = Options { credentials: Some(credentials), ..Options::new(Vec::new()) };
        assert!(!format!("{options:?}").contains("hidden"));
    }

    #[tokio::test]
    async fn certificates_that_are_none_are_refused_at_once() {
        let tls = Tls { authorities: b"nothing".to_vec(), identity: None, server_name: None };
        let options = Options { tls: Some(tls), ..Options::new(vec!["a:1".to_owned()]) };
        assert!(matches!(options.channels(), Err(OptionsError::Tls { endpoint, .. }) if endpoint == "a:1"));
    }
}
