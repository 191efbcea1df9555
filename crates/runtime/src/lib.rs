//! The frame every role runs in: task scopes, signals, clocks, backoff, logs, health and metrics, exposure rules, TLS.
//!
//! It knows no role and nothing of what is monitored. Of our crates it sees [`model`] only.

pub mod backoff;
pub mod clock;
pub mod exposure;
pub mod health;
pub mod ops;
pub mod scope;
pub mod signal;
pub mod sparing;
pub mod telemetry;
pub mod tls;

pub use backoff::Backoff;
pub use clock::Clock;
pub use health::{Component, Health};
pub use scope::{Scope, ScopeError};
pub use sparing::Sparing;
