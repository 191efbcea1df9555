//! Every refusal as a [`Problem`]: a status, a stable word, and what to do.

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use backends::bus::BusError;
use backends::registry::RegistryError;
use model::config::ConfigError;
use proto::api::{Fault, Problem};

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl Refusal {
    fn new(status: StatusCode, error: &str, message: impl Into<String>) -> Self {
        let problem = Problem { error: error.to_owned(), message: message.into(), faults: Vec::new() };
        Self { status, problem }
    }

    /// 400: the request cannot be understood.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 415: a write that is not JSON.
    pub(crate) fn not_json() -> Self {
        let message = "the body is not application/json: send JSON with that content type";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid", message)
    }

    /// 421: a request under a name that is not ours.
    pub(crate) fn foreign_host(message: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "invalid", message)
    }

    /// 422: understood, and wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// 422 with the faults of a config.
    pub(crate) fn bad_config(what: &str, error: &ConfigError) -> Self {
        let mut refusal = Self::invalid(format!("{what} is refused: mend the faults named"));
        refusal.problem.faults = faults(error);
        refusal
    }

    /// 503: may work later.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), reason = self.problem.message, "a request failed");
        }
        (self.status, Json(self.problem)).into_response()
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::TooLarge { .. } => Self::too_large(error.to_string()),
            RegistryError::Unavailable { .. } | RegistryError::Closed => Self::unavailable(error.to_string()),
            RegistryError::NoSuchLease(_) | RegistryError::Store { .. } => Self::internal(error.to_string()),
        }
    }
}

impl From<BusError> for Refusal {
    fn from(error: BusError) -> Self {
        match error {
            BusError::TooLarge { .. } => Self::too_large(error.to_string()),
            BusError::Unavailable { .. } | BusError::Closed => Self::unavailable(error.to_string()),
            BusError::NoSuchTopic { .. } | BusError::Unfit { .. } | BusError::Store { .. } => {
                Self::internal(error.to_string())
            }
        }
    }
}

pub(crate) fn faults(error: &ConfigError) -> Vec<Fault> {
    let fault = |fault: &model::config::Fault| Fault {
        stage: fault.stage,
        path: fault.path.clone(),
        message: fault.message.clone(),
    };
    error.faults().iter().map(fault).collect()
}

pub(crate) async fn no_such_path(uri: Uri) -> Refusal {
    Refusal::not_found(format!("there is nothing at {}: /api/v1/openapi.json lists every path", uri.path()))
}

pub(crate) async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{method} is not possible at {}: /api/v1/openapi.json lists what is", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "invalid", message)
}
