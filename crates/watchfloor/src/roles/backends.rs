//! Which bus and registry a role works with: chosen from flags and environment, opened, and closed last.

use std::sync::Arc;
use std::time::Duration;

use ::backends::Backends;
use ::backends::bus::embedded::{EmbeddedBus, Options as BusOptions};
use ::backends::bus::kafka::KafkaBus;
use ::backends::bus::renamed::Renamed;
use ::backends::bus::{Bus, BusError, TopicSpec};
use ::backends::directory::DataDirectory;
use ::backends::registry::embedded::{EmbeddedRegistry, Options as RegistryOptions};
use ::backends::registry::etcd::EtcdRegistry;
use runtime::ops::Ops;
use runtime::{Backoff, Component};
use tokio_util::sync::CancellationToken;

use super::flags::{BackendFlags, DataFlags};
use crate::environment::Environment;
use crate::exit::{Exit, Failure};

/// A Kafka that is there has answered by then, and no role finds topics missing; one that is away is waited for later.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// Between two tries to create the topics while Kafka is away.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_CEILING: Duration = Duration::from_secs(5);

/// The backends that flags and environment mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Inside this process.
    Embedded,
    /// Brokers as `host:port[,...]`, etcd as `etcd://host:port[,...]`.
    External { brokers: String, etcd: String },
}

/// Why the choice cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChoiceError {
    #[error("--{flag} {given:?} is not known: write embedded or {scheme}host:port[,...]")]
    Unknown { flag: &'static str, given: String, scheme: &'static str },
    #[error(
        "{external} is external and the {embedded} is embedded: commands and presence would be seen by one process only; \
         choose both external (kafka://... and etcd://...) or both embedded"
    )]
    Mixed { external: String, embedded: &'static str },
    #[error(
        "{role} alone needs backends that other processes can reach: run it inside `watchfloor up` or `watchfloor server` \
         (embedded backends), or give --bus kafka://host:9092 --registry etcd://host:2379"
    )]
    Alone { role: &'static str },
}

impl Choice {
    pub(super) fn of(flags: &BackendFlags, environment: &Environment) -> Result<Self, ChoiceError> {
        let bus = uri("bus", flags.bus.as_deref(), environment.kafka.as_deref(), "kafka://")?;
        let registry = uri("registry", flags.registry.as_deref(), environment.etcd.as_deref(), "etcd://")?;
        match (bus, registry) {
            (None, None) => Ok(Self::Embedded),
            (Some(bus), Some(etcd)) => {
                let brokers = bus.trim_start_matches("kafka://").trim_end_matches('/').to_owned();
                Ok(Self::External { brokers, etcd })
            }
            (Some(external), None) => Err(ChoiceError::Mixed { external, embedded: "registry" }),
            (None, Some(external)) => Err(ChoiceError::Mixed { external, embedded: "bus" }),
        }
    }

    /// For a role that meets the others on shared backends only.
    pub(super) fn shared(
        role: &'static str,
        flags: &BackendFlags,
        environment: &Environment,
    ) -> Result<Self, ChoiceError> {
        match Self::of(flags, environment)? {
            Self::Embedded => Err(ChoiceError::Alone { role }),
            external @ Self::External { .. } => Ok(external),
        }
    }
}

/// `None` is embedded.
fn uri(
    flag: &'static str,
    given: Option<&str>,
    environment: Option<&str>,
    scheme: &'static str,
) -> Result<Option<String>, ChoiceError> {
    match (given, environment) {
        (Some("embedded"), _) | (None, None) => Ok(None),
        (Some(uri), _) if uri.strip_prefix(scheme).is_some_and(|hosts| !hosts.is_empty()) => {
            Ok(Some(uri.to_owned()))
        }
        (Some(given), _) => Err(ChoiceError::Unknown { flag, given: given.to_owned(), scheme }),
        (None, Some(hosts)) => Ok(Some(format!("{scheme}{hosts}"))),
    }
}

/// The bus and registry of one process.
#[derive(Debug)]
pub(super) struct Store {
    bus: Arc<dyn Bus>,
    held: Held,
    /// Still to be looked at.
    topics: Option<[TopicSpec; 4]>,
    topics_health: Component,
}

/// What is open, and is closed at the end.
#[derive(Debug)]
enum Held {
    Embedded { bus: Arc<EmbeddedBus>, registry: Arc<EmbeddedRegistry>, directory: DataDirectory },
    External { bus: Arc<KafkaBus>, registry: Arc<EtcdRegistry> },
}

impl Store {
    /// `client` is what brokers call this process in their logs.
    pub(super) async fn open(
        choice: &Choice,
        flags: &BackendFlags,
        data: &DataFlags,
        client: &str,
        ops: &Ops,
    ) -> Result<Self, Failure> {
        let config = |error| Failure::new(Exit::Config, anyhow::Error::new(error));
        let (held, real): (Held, Arc<dyn Bus>) = match choice {
            Choice::Embedded => open_embedded(data)?,
            Choice::External { brokers, etcd } => connect(brokers, etcd, flags, client, ops)?,
        };
        let names = flags.topics.names.real().map_err(config)?;
        let bus = if names.is_empty() { real } else { Arc::new(Renamed::new(real, names)) };
        let topics_health = ops.health.component("topics");
        let mut store = Self { bus, held, topics: None, topics_health };
        store.look_at_topics(flags.topics.specs()).await?;
        Ok(store)
    }

    async fn look_at_topics(&mut self, topics: [TopicSpec; 4]) -> Result<(), Failure> {
        match tokio::time::timeout(FIRST_LOOK, self.bus.ensure_topics(&topics)).await {
            Ok(Ok(())) => self.topics_health.ok(),
            Ok(Err(error)) if !error.is_transient() => return Err(Failure::new(Exit::Config, error)),
            Ok(Err(error)) => self.wait_for(topics, &error.to_string()),
            Err(_) => self.wait_for(topics, "no answer yet"),
        }
        Ok(())
    }

    fn wait_for(&mut self, topics: [TopicSpec; 4], reason: &str) {
        tracing::warn!(reason, "the topics cannot be looked at yet; trying until they can");
        self.topics_health.degraded(reason);
        self.topics = Some(topics);
    }

    pub(super) fn backends(&self) -> Backends {
        let registry = match &self.held {
            Held::Embedded { registry, .. } => Arc::clone(registry) as _,
            Held::External { registry, .. } => Arc::clone(registry) as _,
        };
        Backends { bus: Arc::clone(&self.bus), registry }
    }

    /// Sees to it that the topics are there once Kafka is, then waits for `stop`. Topics that differ from what was asked
    /// for are an error.
    pub(super) fn keep_topics(
        &mut self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), BusError>> + Send + 'static {
        let (bus, topics, health) = (Arc::clone(&self.bus), self.topics.take(), self.topics_health.clone());
        async move {
            if let Some(topics) = topics {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    ensured = ensure_topics(&*bus, &topics, &health) => ensured?,
                }
            }
            stop.cancelled().await;
            Ok(())
        }
    }

    /// The last thing a process does: everything accepted is durable, then the lock is given up.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self.held {
            Held::Embedded { bus, registry, directory } => {
                let (bus, registry) = (bus.close().await, registry.close().await);
                drop(directory);
                bus?;
                registry?;
            }
            Held::External { bus, registry } => {
                let (bus, registry) = (bus.close().await, registry.close().await);
                bus?;
                registry?;
            }
        }
        Ok(())
    }
}

/// Locks and opens `<data-dir>/store/embedded`. Blocks for as long as a check after a crash takes.
fn open_embedded(data: &DataFlags) -> Result<(Held, Arc<dyn Bus>), Failure> {
    let directory = DataDirectory::lock(&data.of("store", "embedded"))
        .map_err(|error| Failure::new(Exit::Unavailable, error))?;
    let bus = EmbeddedBus::open(directory.path(), BusOptions::default());
    let bus = Arc::new(bus.map_err(|error| damaged(data, error))?);
    let registry = EmbeddedRegistry::open(directory.path(), &RegistryOptions::default());
    let registry = Arc::new(registry.map_err(|error| damaged(data, error))?);
    let real = Arc::clone(&bus) as _;
    Ok((Held::Embedded { bus, registry, directory }, real))
}

/// Needs neither Kafka nor etcd to be there: roles wait for them, and health says so.
fn connect(
    brokers: &str,
    etcd: &str,
    flags: &BackendFlags,
    client: &str,
    ops: &Ops,
) -> Result<(Held, Arc<dyn Bus>), Failure> {
    let config = |error: anyhow::Error| Failure::new(Exit::Config, error);
    let mut options =
        flags.kafka.options(brokers, flags.plain, std::env::vars()).map_err(|error| config(error.into()))?;
    options.properties.entry("client.id".to_owned()).or_insert_with(|| client.to_owned());
    options.replication = flags.topics.replication;
    options.health = Some(ops.health.component("kafka"));
    options.metrics = Some(ops.metrics.clone());
    let etcd = flags
        .etcd
        .options(etcd, flags.plain, |name| std::env::var(name).ok())
        .map_err(|error| config(error.into()))?;
    let bus = Arc::new(KafkaBus::connect(options).map_err(|error| config(error.into()))?);
    let registry = Arc::new(EtcdRegistry::connect(&etcd).map_err(|error| config(error.into()))?);
    let real = Arc::clone(&bus) as _;
    Ok((Held::External { bus, registry }, real))
}

fn damaged(data: &DataFlags, error: impl Into<anyhow::Error>) -> Failure {
    let path = data.of("store", "embedded");
    let context = format!("the store in {} cannot be opened; move it away to begin anew", path.display());
    Failure::new(Exit::Unavailable, error.into().context(context))
}

async fn ensure_topics(bus: &dyn Bus, topics: &[TopicSpec], health: &Component) -> Result<(), BusError> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CEILING);
    loop {
        match bus.ensure_topics(topics).await {
            Ok(()) => {
                health.ok();
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                health.degraded(error.to_string());
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(
        bus: Option<&str>,
        registry: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<Choice, ChoiceError> {
        let flags = BackendFlags {
            bus: bus.map(str::to_owned),
            registry: registry.map(str::to_owned),
            ..BackendFlags::default()
        };
        Choice::of(&flags, &variables(environment))
    }

    fn variables(environment: &[(&str, &str)]) -> Environment {
        Environment::from(|name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const KAFKA: (&str, &str) = ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092");
    const ETCD: (&str, &str) = ("ETCD_HOST", "localhost");

    #[test]
    fn nothing_said_means_embedded_and_a_flag_beats_the_environment() {
        assert_eq!(choose(None, None, &[]), Ok(Choice::Embedded));
        assert_eq!(choose(Some("embedded"), Some("embedded"), &[KAFKA, ETCD]), Ok(Choice::Embedded));
    }

    #[test]
    fn the_seeds_environment_and_uris_name_the_same_backends() {
        let external = Ok(Choice::External {
            brokers: "localhost:9092".to_owned(),
            etcd: "etcd://localhost:2379".to_owned(),
        });
        assert_eq!(choose(None, None, &[KAFKA, ETCD]), external);
        assert_eq!(choose(Some("kafka://localhost:9092/"), Some("etcd://localhost:2379"), &[]), external);
    }

    #[test]
    fn one_external_and_one_embedded_are_refused_whoever_chose() {
        for (bus, registry, environment) in [
            (Some("kafka://h:1"), None, &[][..]),
            (None, Some("etcd://h:1"), &[]),
            (None, None, &[KAFKA]),
            (Some("embedded"), None, &[KAFKA, ETCD]),
        ] {
            let error = choose(bus, registry, environment).unwrap_err();
            assert!(matches!(error, ChoiceError::Mixed { .. }), "{error}");
        }
    }

    #[test]
    fn a_role_alone_needs_backends_that_others_reach() {
        let alone =
            |environment: &[_]| Choice::shared("monitor", &BackendFlags::default(), &variables(environment));
        let error = alone(&[]).unwrap_err().to_string();
        assert!(error.contains("watchfloor up") && error.contains("kafka://"), "{error}");
        assert!(alone(&[KAFKA, ETCD]).is_ok());
    }

    #[test]
    fn a_uri_of_another_kind_is_refused_with_the_right_one() {
        let error = choose(Some("redis://h"), None, &[]).unwrap_err();
        assert!(matches!(error, ChoiceError::Unknown { flag: "bus", .. }), "{error}");
        assert!(choose(Some("kafka://"), None, &[]).is_err());
    }
}
