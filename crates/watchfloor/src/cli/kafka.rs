//! Straight against Kafka, with no analysis service: when a command does that, and its connection.
//!
//! Only `get-metrics` and `send-command` can. What every other command asks for is in no topic.

mod brokers;
mod catch_up;
mod inventory;

use std::sync::Arc;
use std::time::Duration;

use backends::bus::kafka::KafkaBus;
use backends::bus::renamed::Renamed;
use backends::bus::{Bus, BusError};
use runtime::Health;
use runtime::health::State;

pub(crate) use brokers::joined;
pub(super) use catch_up::CatchUp;

use crate::api::ApiError;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};
use crate::external::{EtcdFlags, ExternalError, KafkaFlags, PlainText, TopicNames};

/// Where Kafka is when `--kafka` is given and nobody says where.
const BROKERS_DEFAULT: &str = "localhost:9092";
/// A person waits at the terminal: a Kafka that is there has answered long before.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// The name of the component that the bus tells its health.
const COMPONENT: &str = "kafka";
/// What librdkafka's threads still do after that does not hold the prompt back.
const LINGER: Duration = Duration::from_millis(200);

/// Whether, and how, to work without the API.
#[derive(Debug, clap::Args)]
pub(super) struct KafkaArgs {
    /// Straight against Kafka, with no API: at KAFKA_BOOTSTRAP_SERVERS or localhost:9092, where nothing else is given.
    #[arg(long, value_name = "HOST:PORT,...", num_args = 0..=1, require_equals = true,
          value_parser = brokers::parse, help_heading = HEADING)]
    kafka: Option<Option<String>>,
    /// With --kafka, the inventory for -l and --all: etcd://host:2379[,...]; beats ETCD_HOST and ETCD_PORT.
    #[arg(long, value_name = "URI", help_heading = HEADING)]
    registry: Option<String>,
    #[command(flatten)]
    plain: PlainText,
    #[command(flatten)]
    flags: KafkaFlags,
    #[command(flatten)]
    etcd: EtcdFlags,
    #[command(flatten)]
    topics: TopicNames,
}

const HEADING: &str = "Without the API";

/// Who answers.
pub(super) enum Way {
    /// The API has.
    Answered(Exit),
    /// Kafka is to, at these brokers.
    Kafka(String),
}

/// Why Kafka cannot serve.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(
        "Kafka at {brokers} does not answer ({reason}): start it, or name another with --kafka=HOST:PORT or \
         KAFKA_BOOTSTRAP_SERVERS; WATCHFLOOR_LOG=warn shows what its client says"
    )]
    Away { brokers: String, reason: String },
    #[error(
        "Kafka at {brokers} has no topic {topic}: the first `watchfloor server` on it creates the topics; where they are \
         called otherwise, say so with --topic or WATCHFLOOR_TOPICS"
    )]
    NoTopic { brokers: String, topic: String },
    #[error("Kafka at {brokers}: {source}")]
    Failed { brokers: String, source: BusError },
}

impl KafkaArgs {
    /// Kafka if it is asked for. Else the API; and Kafka in its place where it is not there and the environment names one.
    pub(super) fn way(
        &self,
        environment: &Environment,
        by_api: impl FnOnce() -> Outcome,
    ) -> Result<Way, Failure> {
        if let Some(given) = &self.kafka {
            let brokers = given.as_ref().or(environment.kafka.as_ref());
            return Ok(Way::Kafka(brokers.map_or(BROKERS_DEFAULT, String::as_str).to_owned()));
        }
        let failure = match by_api() {
            Ok(exit) => return Ok(Way::Answered(exit)),
            Err(failure) => failure,
        };
        // An order that may have reached the API is not given a second time.
        let not_there = failure.cause::<ApiError>().filter(|error| error.is_never_sent());
        match (not_there, &environment.kafka) {
            (Some(ApiError::Unreachable { base, cause }), Some(brokers)) => {
                anstream::eprintln!(
                    "no Watchfloor API at {base} ({cause}): asking Kafka at {brokers} instead"
                );
                Ok(Way::Kafka(brokers.clone()))
            }
            _ => Err(failure),
        }
    }

    /// Does `work` on a connection of its own.
    pub(super) fn connected(&self, brokers: &str, work: impl AsyncFnOnce(&Link) -> Outcome) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let link = self.connect(brokers)?;
            let outcome = work(&link).await;
            // What there was to do is done or has failed; the process ends either way.
            drop(link.kafka.close().await);
            outcome
        });
        runtime.shutdown_timeout(LINGER);
        outcome
    }

    fn connect(&self, brokers: &str) -> Result<Link, Failure> {
        let config = |error: ExternalError| Failure::new(Exit::Config, error);
        let names = self.topics.real().map_err(config)?;
        let mut options = self.flags.options(brokers, self.plain, std::env::vars()).map_err(config)?;
        let health = Health::default();
        options.properties.entry("client.id".to_owned()).or_insert_with(|| "watchfloor-cli".to_owned());
        options.health = Some(health.component(COMPONENT));
        (options.answer_within, options.publish_within) = (ANSWER_WITHIN, ANSWER_WITHIN);
        let kafka = Arc::new(KafkaBus::connect(options).map_err(|error| Failure::new(Exit::Config, error))?);
        let bus: Arc<dyn Bus> = Arc::new(Renamed::new(Arc::clone(&kafka) as _, names));
        Ok(Link { bus, kafka, health, brokers: brokers.to_owned() })
    }
}

/// One command's connection to Kafka.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) bus: Arc<dyn Bus>,
    kafka: Arc<KafkaBus>,
    health: Health,
    pub(super) brokers: String,
}

impl Link {
    /// What a fault of the bus means to whoever typed the command.
    pub(super) fn failure(&self, error: BusError) -> Failure {
        let brokers = self.brokers.clone();
        Failure::from(match error {
            BusError::Unavailable { reason } => LinkError::Away { brokers, reason },
            BusError::NoSuchTopic { topic } => LinkError::NoTopic { brokers, topic },
            source => LinkError::Failed { brokers, source },
        })
    }

    /// Why no broker can be reached now, if so.
    pub(super) fn away(&self) -> Option<String> {
        match self.health.report().components.remove(COMPONENT) {
            Some(State::Degraded { reason }) => Some(reason),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        kafka: KafkaArgs,
    }

    fn way(words: &[&str], kafka: Option<&str>, by_api: impl FnOnce() -> Outcome) -> Result<String, String> {
        let command = Command::try_parse_from([&["c"], words].concat()).unwrap();
        let kafka = |name: &str| kafka.filter(|_| name == "KAFKA_BOOTSTRAP_SERVERS").map(str::to_owned);
        let environment = Environment::from(kafka);
        match command.kafka.way(&environment, by_api) {
            Ok(Way::Answered(_)) => Ok("the API".to_owned()),
            Ok(Way::Kafka(brokers)) => Ok(brokers),
            Err(failure) => Err(failure.to_string()),
        }
    }

    fn unreachable(cause: ureq::Error) -> Outcome {
        let base = url::Url::parse("http://localhost:8090").unwrap();
        Err(ApiError::Unreachable { base, cause: Box::new(cause) }.into())
    }

    #[test]
    fn the_flag_beats_the_environment_and_neither_asks_the_api_first() {
        let never = || -> Outcome { panic!("the API was asked") };
        assert_eq!(way(&["--kafka=a:1,b:2"], Some("env:1"), never).unwrap(), "a:1,b:2");
        assert_eq!(way(&["--kafka"], Some("env:1"), never).unwrap(), "env:1");
        assert_eq!(way(&["--kafka"], None, never).unwrap(), "localhost:9092");
    }

    #[test]
    fn an_api_that_answers_is_enough() {
        assert_eq!(way(&[], Some("env:1"), || Ok(Exit::Failed)).unwrap(), "the API");
        let refused = || Err(Failure::message(Exit::Failed, "there is no agent a"));
        assert_eq!(way(&[], Some("env:1"), refused).unwrap_err(), "there is no agent a");
    }

    #[test]
    fn kafka_takes_the_place_of_an_api_that_is_not_there_if_the_environment_names_one() {
        let refused = || unreachable(ureq::Error::Io(std::io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(way(&[], Some("env:1"), refused).unwrap(), "env:1");
        assert!(way(&[], None, refused).unwrap_err().contains("watchfloor up"));
    }

    #[test]
    fn what_may_have_reached_the_api_is_not_said_again_elsewhere() {
        for cause in [
            ureq::Error::Timeout(ureq::Timeout::RecvResponse),
            ureq::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
        ] {
            assert!(way(&[], Some("env:1"), || unreachable(cause)).is_err());
        }
    }
}
