//! The frame every role runs in: task scopes, signals, logs and metrics, backoff, the operations endpoint.
//!
//! It knows no role and nothing of monitoring; it may not depend on any crate of ours.

pub mod scope;

pub use scope::{Scope, ScopeError};
