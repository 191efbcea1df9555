//! From a config revision to what runs: parse, check, build beside the old, swap. What fails leaves the old running.

use model::config::{AgentConfig, ConfigError, parse};
use model::sample::Timestamp;
use model::truth::{ConfigTruth, Failure, Mark, Stage};
use proto::convert::{failure_from_wire, mark_from_wire};
use proto::wire;
use tokio::sync::{mpsc, oneshot};

use crate::collection::Order;
use crate::state::LastGood;

/// The config the agent begins with, and what is known of it.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) config: AgentConfig,
    pub(crate) truth: ConfigTruth,
}

/// The last good config, or the defaults where there is none. One that was good once may be refused by another version
/// of the agent, or when `buildable` says that a plugin is gone.
pub(crate) fn beginning(
    last_good: Option<&LastGood>,
    buildable: impl Fn(&AgentConfig) -> Result<(), ConfigError>,
    now: Timestamp,
) -> Beginning {
    let mut truth = ConfigTruth::default();
    let Some(LastGood { mark, json, .. }) = last_good else {
        return Beginning { config: AgentConfig::default(), truth };
    };
    truth.received(mark.clone());
    match parse(json).and_then(|config| buildable(&config).map(|()| config)) {
        Ok(config) => {
            truth.runs(mark.clone());
            Beginning { config, truth }
        }
        Err(error) => {
            tracing::error!(%error, "the last good config is refused now; running on the defaults");
            truth.failed(error.failure(mark.clone(), now));
            Beginning { config: AgentConfig::default(), truth }
        }
    }
}

/// A revision as the server gives it. One without a mark names nothing and is refused.
pub(crate) fn mark_of(revision: &wire::ConfigRevision) -> Option<Mark> {
    let mark = revision.mark.as_ref().or(revision.fault.as_ref().and_then(|fault| fault.mark.as_ref()));
    mark.map(mark_from_wire)
}

/// Makes a revision run. When this answers `Ok`, it does.
pub(crate) async fn apply(
    revision: &wire::ConfigRevision,
    mark: &Mark,
    orders: &mpsc::Sender<Order>,
    now: Timestamp,
) -> Result<(), Failure> {
    if let Some(fault) = &revision.fault {
        // The registry holds what cannot be merged: the server says so, and we pass it on as our own truth.
        return Err(failure_from_wire(fault).unwrap_or_else(|| Failure {
            mark: mark.clone(),
            stage: Stage::Parse,
            path: fault.path.clone(),
            message: fault.message.clone(),
            at: now,
        }));
    }
    let config = parse(&revision.effective_json).map_err(|error| error.failure(mark.clone(), now))?;
    let (done, answer) = oneshot::channel();
    let ending = || ConfigError::new(Stage::Build, "", "the agent is ending").failure(mark.clone(), now);
    orders.send(Order::Configure { config, done }).await.map_err(|_| ending())?;
    answer.await.map_err(|_| ending())?.map_err(|error| error.failure(mark.clone(), now))
}

#[cfg(test)]
mod tests {
    use model::id::Revision;

    use super::*;

    fn good(json: &str) -> LastGood {
        let mark = Mark { revision: Revision(7), digest: "d".to_owned() };
        LastGood { mark, json: json.to_owned(), registry: "r".to_owned() }
    }

    #[test]
    fn the_last_good_config_runs_from_the_start() {
        let good = good(r#"{"interval": 2}"#);
        let Beginning { config, truth } = beginning(Some(&good), |_| Ok(()), Timestamp::default());
        assert_eq!(config.interval().as_secs(), 2);
        assert_eq!((truth.running.as_ref(), truth.last_good.as_ref()), (Some(&good.mark), Some(&good.mark)));
    }

    #[test]
    fn a_config_that_is_no_longer_good_leaves_the_defaults_and_says_where() {
        let broken = good(r#"{"plugins": ["gone"]}"#);
        let gone = |_: &AgentConfig| Err(ConfigError::new(Stage::Build, "plugins[0]", "no such plugin"));
        for (last_good, path) in [(good(r#"{"interval": -1}"#), "interval"), (broken, "plugins[0]")] {
            let Beginning { config, truth } = beginning(Some(&last_good), gone, Timestamp::default());
            assert_eq!((config, truth.running), (AgentConfig::default(), None));
            assert_eq!(truth.last_failed.unwrap().path, path);
        }
    }
}
