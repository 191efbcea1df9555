//! What works and what does not, by component, for people and probes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The health of one process: a map of its components. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    components: Arc<Mutex<BTreeMap<String, State>>>,
}

/// How one component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Not there yet; the process is not ready.
    Starting,
    Ok,
    /// It works less well, or waits for something that comes back by itself.
    Degraded {
        reason: String,
    },
}

/// The whole, as `GET /api/v1/health` gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst of the components: `OK`, `STARTING` or `DEGRADED`.
    pub status: String,
    pub components: BTreeMap<String, State>,
}

/// One component's handle on the whole.
#[derive(Clone, Debug)]
pub struct Component {
    name: String,
    health: Health,
}

impl Health {
    /// Adds a component that is starting.
    pub fn component(&self, name: impl Into<String>) -> Component {
        let component = Component { name: name.into(), health: self.clone() };
        component.set(State::Starting);
        component
    }

    pub fn report(&self) -> Report {
        let components = self.components.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let degraded = components.values().any(|state| matches!(state, State::Degraded { .. }));
        let starting = components.values().any(|state| matches!(state, State::Starting));
        let status = if degraded {
            "DEGRADED"
        } else if starting {
            "STARTING"
        } else {
            "OK"
        };
        Report { status: status.to_owned(), components }
    }

    /// Whether every component has started, degraded or not.
    pub fn is_ready(&self) -> bool {
        let components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        !components.values().any(|state| matches!(state, State::Starting))
    }
}

impl Component {
    pub fn ok(&self) {
        self.set(State::Ok);
    }

    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(State::Degraded { reason: reason.into() });
    }

    fn set(&self, state: State) {
        self.health
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.name.clone(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_as_bad_as_its_worst_part() {
        let health = Health::default();
        let (bus, registry) = (health.component("bus"), health.component("registry"));
        bus.ok();
        assert_eq!((health.report().status.as_str(), health.is_ready()), ("STARTING", false));
        registry.degraded("no answer");
        assert_eq!((health.report().status.as_str(), health.is_ready()), ("DEGRADED", true));
        registry.ok();
        assert_eq!(health.report().status, "OK");
    }
}
