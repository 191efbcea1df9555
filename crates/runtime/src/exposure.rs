//! Nothing leaves loopback unencrypted unless the operator says so.

use std::net::SocketAddr;

/// A listener that others could reach in plain text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} would listen on {address} without TLS, and other machines could reach it in plain text: listen on 127.0.0.1, \
     {remedy}add --insecure to say that you mean it"
)]
pub struct Exposed {
    what: &'static str,
    address: SocketAddr,
    remedy: &'static str,
}

/// How a listener is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    Tls,
    /// Plain text, where TLS could be configured.
    Plain,
    /// Plain text, and this listener has no TLS of its own: a proxy can give it.
    PlainOnly,
    /// Plain text, and the operator said so.
    Insecure,
}

/// Refuses plain text beyond loopback.
pub fn check(what: &'static str, address: SocketAddr, protection: Protection) -> Result<(), Exposed> {
    let remedy = match protection {
        Protection::Tls | Protection::Insecure => return Ok(()),
        Protection::Plain => "give --tls-cert and --tls-key, or ",
        Protection::PlainOnly => "put a TLS proxy before it, or ",
    };
    if address.ip().is_loopback() { Ok(()) } else { Err(Exposed { what, address, remedy }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_for_loopback_unless_the_operator_insists() {
        let all: SocketAddr = ([0, 0, 0, 0], 50051).into();
        let local: SocketAddr = ([127, 0, 0, 1], 50051).into();
        assert_eq!(check("gRPC", local, Protection::Plain), Ok(()));
        assert_eq!(check("gRPC", all, Protection::Tls), Ok(()));
        assert_eq!(check("gRPC", all, Protection::Insecure), Ok(()));
        let error = check("gRPC", all, Protection::Plain).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:50051") && error.contains("--insecure"), "{error}");
    }
}
