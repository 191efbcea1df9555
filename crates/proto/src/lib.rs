//! The contracts between roles: wire messages, records on topics, keys of the registry.
//!
//! Conversions to and from [`model`] types live here and nowhere else. It knows no role and does no IO.

/// What `tonic-prost-build` generates from `proto/monitoring.proto`.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations, reason = "generated code")]
pub mod wire {
    tonic::include_proto!("monitoring");
}
