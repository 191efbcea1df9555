//! The contracts between roles: the [`wire`] of the agent stream, the [`record`]s on topics, the [`key`]s of the registry.
//!
//! Conversions to and from [`model`] types live here and nowhere else ([`convert`], [`columns`]). It knows no role and
//! does no IO. docs/protocol.md tells the same in prose.

pub mod api;
pub mod columns;
pub mod convert;
pub mod key;
pub mod record;
pub mod schema;

/// What `tonic-prost-build` generates from `proto/monitoring.proto`.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations, reason = "generated code")]
pub mod wire {
    tonic::include_proto!("monitoring");
}

/// The version of `Session` this build speaks; a hello with another one is refused.
pub const PROTOCOL: u32 = 1;
