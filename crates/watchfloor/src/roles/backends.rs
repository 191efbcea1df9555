//! Which bus and registry a role works with: chosen from flags and environment, opened, and closed last.

use std::sync::Arc;

use ::backends::Backends;
use ::backends::bus::Bus;
use ::backends::bus::embedded::{EmbeddedBus, Options as BusOptions};
use ::backends::directory::DataDirectory;
use ::backends::registry::embedded::{EmbeddedRegistry, Options as RegistryOptions};

use super::flags::{BackendFlags, DataFlags};
use super::topics;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};

/// Whether flags and environment mean the backends inside this process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Embedded,
    External(String),
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
        "this build has the embedded backends only and cannot use {bus} and {registry}: unset KAFKA_BOOTSTRAP_SERVERS \
         and ETCD_HOST, or say --bus embedded --registry embedded (docs/known-gaps.md)"
    )]
    NotBuilt { bus: String, registry: String },
    #[error(
        "{role} alone needs backends that other processes can reach: run it inside `watchfloor up` or `watchfloor server` \
         (embedded backends), or give --bus kafka://host:9092 --registry etcd://host:2379, which this build does not \
         have yet (docs/known-gaps.md)"
    )]
    Alone { role: &'static str },
}

/// `Ok` when both are embedded, which is what this build can serve.
pub(super) fn check(flags: &BackendFlags, environment: &Environment) -> Result<(), ChoiceError> {
    let bus = choose("bus", flags.bus.as_deref(), environment.kafka.as_deref(), "kafka://")?;
    let registry = choose("registry", flags.registry.as_deref(), environment.etcd.as_deref(), "etcd://")?;
    match (bus, registry) {
        (Choice::Embedded, Choice::Embedded) => Ok(()),
        (Choice::External(bus), Choice::External(registry)) => Err(ChoiceError::NotBuilt { bus, registry }),
        (Choice::External(external), Choice::Embedded) => {
            Err(ChoiceError::Mixed { external, embedded: "registry" })
        }
        (Choice::Embedded, Choice::External(external)) => {
            Err(ChoiceError::Mixed { external, embedded: "bus" })
        }
    }
}

fn choose(
    flag: &'static str,
    given: Option<&str>,
    environment: Option<&str>,
    scheme: &'static str,
) -> Result<Choice, ChoiceError> {
    match (given, environment) {
        (Some("embedded"), _) | (None, None) => Ok(Choice::Embedded),
        (Some(uri), _) if uri.strip_prefix(scheme).is_some_and(|hosts| !hosts.is_empty()) => {
            Ok(Choice::External(uri.to_owned()))
        }
        (Some(given), _) => Err(ChoiceError::Unknown { flag, given: given.to_owned(), scheme }),
        (None, Some(hosts)) => Ok(Choice::External(format!("{scheme}{hosts}"))),
    }
}

/// The embedded bus and registry of one data directory.
#[derive(Debug)]
pub(super) struct Store {
    bus: Arc<EmbeddedBus>,
    registry: Arc<EmbeddedRegistry>,
    directory: DataDirectory,
}

impl Store {
    /// Locks and opens `<data-dir>/store/embedded`. Blocks for as long as a check after a crash takes.
    pub(super) async fn open(data: &DataFlags) -> Result<Self, Failure> {
        let refuse = |error: anyhow::Error| Failure::new(Exit::Unavailable, error);
        let directory =
            DataDirectory::lock(&data.of("store", "embedded")).map_err(|error| refuse(error.into()))?;
        let path = directory.path().display().to_string();
        let damaged = |error: anyhow::Error| {
            refuse(error.context(format!("the store in {path} cannot be opened; move it away to begin anew")))
        };
        let bus = EmbeddedBus::open(directory.path(), BusOptions::default())
            .map_err(|error| damaged(error.into()))?;
        let registry = EmbeddedRegistry::open(directory.path(), &RegistryOptions::default())
            .map_err(|error| damaged(error.into()))?;
        bus.ensure_topics(&topics::all()).await.map_err(|error| damaged(error.into()))?;
        Ok(Self { bus: Arc::new(bus), registry: Arc::new(registry), directory })
    }

    pub(super) fn backends(&self) -> Backends {
        Backends { bus: Arc::clone(&self.bus) as _, registry: Arc::clone(&self.registry) as _ }
    }

    /// The last thing a process does: everything accepted is durable, then the lock is given up.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        let (bus, registry) = (self.bus.close().await, self.registry.close().await);
        drop(self.directory);
        bus?;
        registry?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        bus: Option<&str>,
        registry: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<(), ChoiceError> {
        let flags = BackendFlags { bus: bus.map(str::to_owned), registry: registry.map(str::to_owned) };
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        super::check(&flags, &Environment::from(variable))
    }

    const KAFKA: (&str, &str) = ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092");
    const ETCD: (&str, &str) = ("ETCD_HOST", "localhost");

    #[test]
    fn nothing_said_means_embedded_and_a_flag_beats_the_environment() {
        assert_eq!(check(None, None, &[]), Ok(()));
        assert_eq!(check(Some("embedded"), Some("embedded"), &[KAFKA, ETCD]), Ok(()));
    }

    #[test]
    fn one_external_and_one_embedded_are_refused_whoever_chose() {
        for (bus, registry, environment) in [
            (Some("kafka://h:1"), None, &[][..]),
            (None, Some("etcd://h:1"), &[]),
            (None, None, &[KAFKA]),
            (Some("embedded"), None, &[KAFKA, ETCD]),
        ] {
            let error = check(bus, registry, environment).unwrap_err();
            assert!(matches!(error, ChoiceError::Mixed { .. }), "{error}");
        }
    }

    #[test]
    fn external_backends_are_refused_by_name_not_silently_ignored() {
        let error = check(None, None, &[KAFKA, ETCD]).unwrap_err().to_string();
        assert!(
            error.contains("kafka://localhost:9092") && error.contains("etcd://localhost:2379"),
            "{error}"
        );
        assert!(error.contains("embedded backends only"), "{error}");
    }

    #[test]
    fn a_uri_of_another_kind_is_refused_with_the_right_one() {
        let error = check(Some("redis://h"), None, &[]).unwrap_err();
        assert!(matches!(error, ChoiceError::Unknown { flag: "bus", .. }), "{error}");
        assert!(check(Some("kafka://"), None, &[]).is_err());
    }
}
