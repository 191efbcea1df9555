//! Whom a selector or `--all` means, when no API is there to ask: the inventory lies in etcd.

use std::time::Duration;

use backends::registry::etcd::EtcdRegistry;
use backends::registry::{Registry, RegistryError};
use proto::key::{self, AgentEntry};

use super::KafkaArgs;
use crate::environment::Environment;
use crate::exit::{Exit, Failure};

const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Why the inventory cannot be read.
#[derive(Debug, thiserror::Error)]
enum InventoryError {
    #[error(
        "{0} needs the inventory, which is in etcd: set ETCD_HOST or give --registry etcd://host:2379, or name the agents"
    )]
    NoRegistry(&'static str),
    #[error("--registry {0:?} is not known: write etcd://host:port[,...]")]
    Unknown(String),
    #[error("the inventory in {uri} cannot be read ({cause}): start etcd, or name the agents")]
    Unread { uri: String, cause: String },
}

impl KafkaArgs {
    /// Every agent of the inventory. `flag` is what needs it.
    pub(in crate::cli) async fn inventory(
        &self,
        environment: &Environment,
        flag: &'static str,
    ) -> Result<Vec<AgentEntry>, Failure> {
        let config = |error: InventoryError| Failure::new(Exit::Config, error);
        let uri = self.registry_uri(environment, flag).map_err(config)?;
        let options = self.etcd.options(&uri, self.plain, |name| std::env::var(name).ok());
        let options = options.map_err(|error| Failure::new(Exit::Config, error))?;
        let registry = EtcdRegistry::connect(&options).map_err(|error| Failure::new(Exit::Config, error))?;
        let listed = tokio::time::timeout(ANSWER_WITHIN, registry.list(key::AGENTS)).await;
        let late = || RegistryError::Unavailable { reason: format!("no answer within {ANSWER_WITHIN:?}") };
        let listed = listed.unwrap_or_else(|_| Err(late()));
        let snapshot = listed.map_err(|cause| InventoryError::Unread { uri, cause: cause.to_string() })?;
        // A bad entry is the monitor's to complain of; nobody can be chosen by it.
        let entry = |entry: &backends::registry::Entry| serde_json::from_slice(&entry.value).ok();
        Ok(snapshot.entries.iter().filter_map(entry).collect())
    }

    fn registry_uri(&self, environment: &Environment, flag: &'static str) -> Result<String, InventoryError> {
        match (&self.registry, &environment.etcd) {
            (Some(uri), _) if uri.starts_with("etcd://") => Ok(uri.clone()),
            (Some(given), _) => Err(InventoryError::Unknown(given.clone())),
            (None, Some(hosts)) => Ok(format!("etcd://{hosts}")),
            (None, None) => Err(InventoryError::NoRegistry(flag)),
        }
    }
}
