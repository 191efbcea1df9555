//! The role that lives on every watched machine: it measures, and does what it is told.
//!
//! [`collect`] reads the machine; the collection loop turns readings into ticks, runs the plugins and fills the buffer;
//! the uplink keeps one session with one server, which empties the buffer; control obeys commands and config. They meet
//! in small values: the buffer and outbox (what waits to be sent), the view and truth (what holds now). It speaks to
//! servers only, and holds no connection to bus or registry.

mod agent;
mod buffer;
pub mod collect;
mod collection;
mod config;
mod control;
mod dispatch;
mod flow;
mod journal;
mod lanes;
mod machine;
mod metrics;
mod outbox;
mod outgoing;
mod parcel;
mod schedule;
mod session;
mod settings;
mod state;
mod status;
mod tls;
mod uplink;

pub use agent::{Agent, Ended};
pub use metrics::Metrics;
pub use settings::{Settings, StartError};
pub use state::StateError;
pub use tls::ClientTls;
