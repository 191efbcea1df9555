//! What an agent is told when its stream has to end, and when it may come back.

use std::time::Duration;

use proto::wire;
use rand::RngExt;

use crate::roster::{Displacement, Refusal};

const TWO_AGENTS: &str = "another live agent uses this agent id: give each agent its own --agent-id";

pub(crate) fn refusal(refusal: Refusal) -> wire::Leave {
    match refusal {
        Refusal::Banned { remaining } => because(wire::leave::Reason::Superseded, TWO_AGENTS, remaining),
        Refusal::Full => because(
            wire::leave::Reason::Overloaded,
            "this server holds as many agents as it may",
            jittered(Duration::from_secs(60)),
        ),
    }
}

pub(crate) fn displaced(displacement: Displacement) -> wire::Leave {
    match displacement {
        Displacement::Superseded { retry_after } => {
            because(wire::leave::Reason::Superseded, TWO_AGENTS, retry_after)
        }
        Displacement::Replaced => {
            because(wire::leave::Reason::Superseded, "a newer stream of this agent took over", Duration::ZERO)
        }
    }
}

pub(crate) fn draining() -> wire::Leave {
    because(wire::leave::Reason::Draining, "this server is stopping", jittered(Duration::from_secs(1)))
}

pub(crate) fn no_room() -> wire::Leave {
    because(
        wire::leave::Reason::Overloaded,
        "the bus takes no data now, and this server holds as much as it may: keep it",
        jittered(Duration::from_secs(1)),
    )
}

pub(crate) fn eased() -> wire::Leave {
    because(
        wire::leave::Reason::Overloaded,
        "the bus takes data again: come back for credits",
        jittered(Duration::from_secs(2)),
    )
}

pub(crate) fn because(
    reason: wire::leave::Reason,
    message: impl Into<String>,
    retry_after: Duration,
) -> wire::Leave {
    let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    wire::Leave { reason: reason.into(), message: message.into(), retry_after_ms }
}

/// Somewhere up to `most`, so that a fleet does not return at one instant.
fn jittered(most: Duration) -> Duration {
    most.mul_f64(rand::rng().random_range(0.0..=1.0))
}
