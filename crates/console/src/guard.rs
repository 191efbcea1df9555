//! What protects a listener that asks nobody for a password: only pages of our own may talk to it.
//!
//! A page of a foreign site can make a browser send requests here. It cannot read the answers without CORS headers,
//! which are never sent; it cannot write, because writes need a content type that a browser asks permission for; and it
//! cannot pretend to be this site by pointing its own name at 127.0.0.1, because names that are not ours are refused.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Refusal;

/// Under which names the console may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hosts {
    /// `localhost` and any literal address: no foreign name can lead there.
    #[default]
    Loopback,
    /// Any name, for a listener that others are meant to reach.
    Any,
}

pub(crate) async fn check_host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let named = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"));
    let named = named.or_else(|| request.uri().authority().map(Authority::as_str));
    match named {
        // A browser always names a host.
        None => next.run(request).await,
        Some(host) if hosts == Hosts::Any || is_local(host) => next.run(request).await,
        Some(host) => {
            let message = format!(
                "this console is not {host:?}: ask for localhost or the address it listens on, or start it on an address \
                 that is not loopback"
            );
            Refusal::foreign_host(message).into_response()
        }
    }
}

pub(crate) async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let own_only = HeaderValue::from_static(
        "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    );
    headers.insert(CONTENT_SECURITY_POLICY, own_only);
    response
}

/// Whether a browser that asks for `host` can only have meant this machine or a literal address.
fn is_local(host: &str) -> bool {
    let Ok(uri) = host.parse::<Uri>() else { return false };
    let name = uri.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    literal || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_foreign_site_can_own_are_local() {
        for host in [
            "localhost",
            "localhost:8090",
            "LOCALHOST",
            "app.localhost:1",
            "127.0.0.1:8090",
            "[::1]:8090",
            "10.0.0.7",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8090",
            "",
            "a b",
            "notlocalhost",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
