//! The port for agents: plain or TLS, with HTTP/2 kept on a short leash.
//!
//! Each setting answers an attack that was measured: streams without number or end, errors without end, headers without
//! end, data that nobody reads. A peer that is gone without a word is found by keepalive pings.

use std::io::ErrorKind;
use std::time::Duration;

use model::limit;
use proto::wire;
use proto::wire::monitoring_service_server::{MonitoringService, MonitoringServiceServer};
use runtime::Scope;
use runtime::exposure::{self, Protection};
use runtime::tls::{self, Pem};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::session_stream::Context;
use crate::{RunError, ServerTls, Settings, StartError, client_stream, session_stream};

/// An agent needs one; a new one may open before the old has ended.
const STREAMS_PER_CONNECTION: u32 = 8;
const ERROR_RESETS_MAX: usize = 64;
const HEADER_LIST_BYTES: u32 = 8 * 1024;
const FRAME_BYTES: u32 = 16 * 1024;
/// What may lie unread per stream and per connection.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WITHIN: Duration = Duration::from_secs(10);
/// A peer that does not finish the TLS handshake holds a socket, and not for ever. Our agents have given up by then.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Takes the port, if it may be taken.
pub(crate) async fn bind(settings: &Settings) -> Result<TcpListener, StartError> {
    let address = settings.grpc_listen;
    let protection = match (&settings.tls, settings.insecure) {
        (Some(_), _) => Protection::Tls,
        (None, true) => Protection::Insecure,
        (None, false) => Protection::Plain,
    };
    exposure::check("gRPC", address, protection)?;
    if let Some(tls) = &settings.tls {
        builder(Some(tls))?;
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => StartError::InUse { address },
        _ => StartError::Listen { address, source },
    })
}

/// Serves until `stop`, then until the last stream has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    settings: &Settings,
    context: Context,
    streams: Scope,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let ended = |reason: String| RunError::Grpc { reason };
    let service = MonitoringServiceServer::new(Service { context, streams })
        .max_decoding_message_size(limit::AGENT_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limit::SERVER_MESSAGE_BYTES_MAX);
    builder(settings.tls.as_ref())
        .map_err(|error| ended(error.to_string()))?
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.cancelled())
        .await
        .map_err(|error| ended(error.to_string()))
}

fn builder(tls: Option<&ServerTls>) -> Result<Server, StartError> {
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_WITHIN));
    let Some(tls) = tls else { return Ok(server) };
    server.tls_config(tls_config(tls)?).map_err(|error| StartError::Tls { reason: error.to_string() })
}

/// TLS 1.3, or 1.2 for those who have no more, and HTTP/2 within: what rustls and tonic do unless told otherwise.
fn tls_config(tls: &ServerTls) -> Result<ServerTlsConfig, StartError> {
    let unfit = |error: tls::PemError| StartError::Tls { reason: error.to_string() };
    tls::use_ring();
    tls::check_identity(
        Pem { flag: "--tls-cert", text: &tls.cert_pem },
        Pem { flag: "--tls-key", text: &tls.key_pem },
    )
    .map_err(unfit)?;
    let config = ServerTlsConfig::new()
        .identity(Identity::from_pem(&tls.cert_pem, &tls.key_pem))
        .timeout(HANDSHAKE_WITHIN);
    let Some(text) = &tls.client_ca_pem else { return Ok(config) };
    tls::check_authorities(Pem { flag: "--tls-client-ca", text }).map_err(unfit)?;
    Ok(config.client_ca_root(Certificate::from_pem(text)))
}

/// The two methods; each stream becomes a task.
#[derive(Debug)]
struct Service {
    context: Context,
    streams: Scope,
}

#[tonic::async_trait]
impl MonitoringService for Service {
    type StreamMetricsStream = ReceiverStream<Result<wire::Command, Status>>;
    type SessionStream = ReceiverStream<Result<wire::ServerMessage, Status>>;

    async fn stream_metrics(
        &self,
        request: Request<Streaming<wire::MetricsRequest>>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        let peer = request.remote_addr();
        let (outbox, down) = mpsc::channel(limit::SESSION_OUTBOX_MAX);
        let stream = client_stream::run(self.context.clone(), request.into_inner(), outbox, peer);
        self.streams.spawn("stream-metrics", stream);
        Ok(Response::new(ReceiverStream::new(down)))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbox, down) = mpsc::channel(limit::SESSION_OUTBOX_MAX);
        let stream = session_stream::run(self.context.clone(), request.into_inner(), outbox);
        self.streams.spawn("session", stream);
        Ok(Response::new(ReceiverStream::new(down)))
    }
}
