//! The two doors to the outside: the [`bus`] that carries data and commands, the [`registry`] that holds config and
//! presence.
//!
//! Each is a small trait with written laws and one contract suite that every implementation passes. Roles know the
//! traits only; which implementation runs is chosen once, in the binary. Nothing here knows what a record means.

pub mod bus;
pub mod directory;
pub mod follow;
pub mod lease;
pub mod registry;

mod group_commit;
#[cfg(test)]
mod power_loss;
mod store;

use std::sync::Arc;

/// The bus and the registry a role works with; clones share them.
#[derive(Clone, Debug)]
pub struct Backends {
    pub bus: Arc<dyn bus::Bus>,
    pub registry: Arc<dyn registry::Registry>,
}
