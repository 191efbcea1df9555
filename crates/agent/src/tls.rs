//! TLS towards servers: what it is made of, and what a person can do when it fails.
//!
//! The wrong file, the wrong name, one side encrypted and the other not: these are what goes wrong, and in the words of
//! the libraries they are "transport error" or "FRAME_SIZE_ERROR". Who reads the log gets the cause and the flag to look at.

use std::error::Error;
use std::io::{self, ErrorKind};

use runtime::tls::{Pem, PemError, check_authorities, check_identity, use_ring};
use rustls::{AlertDescription, CertificateError};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::settings::StartError;

/// Where certificate bundles of the machine usually are: Debian, Fedora, Alpine.
pub(crate) const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// How servers are recognised, and how this agent proves who it is. All texts are PEM.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// Who may sign a server's certificate; without it, whoever this machine trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// Certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the server's certificate, where it is not the host connected to.
    pub server_name: Option<String>,
}

/// A private key is never printed.
impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ca_pem, identity, server_name } = self;
        f.debug_struct("ClientTls")
            .field("ca", &ca_pem.is_some())
            .field("identity", &identity.is_some())
            .field("server_name", server_name)
            .finish()
    }
}

impl ClientTls {
    pub(crate) fn config(&self) -> Result<ClientTlsConfig, StartError> {
        use_ring();
        let authorities = match &self.ca_pem {
            Some(pem) => pem.clone(),
            None => SYSTEM_BUNDLES
                .iter()
                .find_map(|path| std::fs::read(path).ok())
                .ok_or(StartError::NoAuthorities)?,
        };
        check_authorities(Pem { flag: "--tls-ca", text: &authorities })?;
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
        if let Some((certificate, key)) = &self.identity {
            let (text, key_text) = (certificate, key);
            check_identity(Pem { flag: "--tls-cert", text }, Pem { flag: "--tls-key", text: key_text })?;
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

impl From<PemError> for StartError {
    fn from(error: PemError) -> Self {
        Self::Pem(error)
    }
}

/// What this agent speaks on its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Plain,
    Tls { own_certificate: bool },
}

impl Protection {
    /// Why there is no connection, and what to do where TLS is the reason.
    pub(crate) fn no_connection(self, error: &(dyn Error + 'static)) -> String {
        let advice = match self {
            Self::Plain => None,
            Self::Tls { own_certificate } => in_handshake(error, own_certificate),
        };
        with_advice(error, advice)
    }

    /// Why a connection broke before the server said anything. In TLS 1.3 the client is done before the server has looked
    /// at its certificate, so a refusal comes as the end of the first stream; its reason may be lost with the socket.
    pub(crate) fn no_answer(self, error: &(dyn Error + 'static)) -> String {
        let advice = match self {
            Self::Plain => "if the server was started with --tls-cert, give --tls-ca",
            Self::Tls { own_certificate } => certificate_refused(own_certificate),
        };
        with_advice(error, Some(advice))
    }
}

fn with_advice(error: &(dyn Error + 'static), advice: Option<&str>) -> String {
    // tonic's own words are "transport error"; the last cause says what was wrong.
    let cause = causes(error).last().map_or_else(String::new, ToString::to_string);
    match advice {
        Some(advice) => format!("{cause}; {advice}"),
        None => cause,
    }
}

fn in_handshake(error: &(dyn Error + 'static), own_certificate: bool) -> Option<&'static str> {
    const NO_TLS: &str = "the server does not seem to speak TLS on this port: start it with --tls-cert and --tls-key, or \
                          leave out --tls-ca here";
    let io = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>())?;
    let Some(error) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        let hung_up = matches!(io.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
        return hung_up.then_some(NO_TLS);
    };
    match error {
        rustls::Error::InvalidCertificate(reason) => Some(unacceptable(reason)),
        rustls::Error::InvalidMessage(_) => Some(NO_TLS),
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate,
        ) => Some(certificate_refused(own_certificate)),
        _ => None,
    }
}

/// Why we do not take the server's certificate.
fn unacceptable(reason: &CertificateError) -> &'static str {
    match reason {
        // A signature is bad when two authorities have one name, as after making it anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority in --tls-ca has signed the server's certificate: give the certificate of the one that has"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for other names: connect by one of them, or give one as --tls-server-name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the server's certificate and restart the server; or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "compare this machine's clock with that of the machine where the certificate was made"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server needs a certificate with the extended key usage serverAuth"
        }
        // What `openssl req -x509` makes unless told otherwise; rustls gives it no variant of its own.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "the server uses the certificate of an authority (CA:TRUE): sign one for the server, as in docs/tls.md"
        }
        _ => "docs/tls.md shows how to make a certificate that is accepted",
    }
}

fn certificate_refused(own_certificate: bool) -> &'static str {
    if own_certificate {
        "the server may not accept this agent's certificate: its --tls-client-ca must have signed --tls-cert, which must be \
         valid today and made for clientAuth"
    } else {
        "the server may demand a certificate of agents (its --tls-client-ca): give --tls-cert and --tls-key"
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
