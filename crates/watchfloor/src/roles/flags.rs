//! Flags that several roles share, and what they become.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ::agent::collect::Host;
use model::id::{AgentId, ServerId};
use model::presence::Timing;

use crate::cli::{host_name, parse};
use crate::exit::{Exit, Failure};
use crate::external::{EtcdFlags, KafkaFlags, PlainText, TopicFlags};

/// Where state lies.
#[derive(Debug, clap::Args)]
pub(super) struct DataFlags {
    /// State of this role: <DIR>/<role>/<id>, each held by one process. Several roles may share DIR.
    #[arg(long, value_name = "DIR", default_value = "./watchfloor-data", env = "WATCHFLOOR_DATA_DIR")]
    data_dir: PathBuf,
}

impl DataFlags {
    pub(super) fn root(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn of(&self, role: &str, id: &str) -> PathBuf {
        self.data_dir.join(role).join(id)
    }
}

/// The gRPC listener and what is judged of those who connect.
#[derive(Debug, clap::Args)]
pub(super) struct GrpcFlags {
    /// Where agents connect; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051", value_parser = parse::listen)]
    pub(super) grpc_listen: SocketAddr,
    /// This server's name; the host's name when absent.
    #[arg(long, value_name = "ID")]
    server_id: Option<ServerId>,
    /// Silence after which an agent is OFFLINE: 1s to 1h.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::presence_timeout)]
    pub(super) timeout: Timing,
    /// Certificate chain of the gRPC listener, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Demand agents' certificates, signed by this authority, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
}

impl GrpcFlags {
    pub(super) fn server_id(&self) -> Result<ServerId, Failure> {
        match &self.server_id {
            Some(id) => Ok(id.clone()),
            None => ServerId::new(host_name()).map_err(|error| unfit_host_name(error, "--server-id")),
        }
    }

    pub(super) fn tls(&self) -> Result<Option<::server::ServerTls>, Failure> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        Ok(Some(::server::ServerTls {
            cert_pem: read(certificate)?,
            key_pem: read(key)?,
            client_ca_pem: self.tls_client_ca.as_deref().map(read).transpose()?,
        }))
    }
}

/// Which bus and which registry, and how to speak to them.
#[derive(Debug, Default, clap::Args)]
pub(super) struct BackendFlags {
    /// embedded, or kafka://host:9092[,...]; beats KAFKA_BOOTSTRAP_SERVERS.
    #[arg(long, value_name = "URI")]
    pub(super) bus: Option<String>,
    /// embedded, or etcd://host:2379[,...]; beats ETCD_HOST and ETCD_PORT.
    #[arg(long, value_name = "URI")]
    pub(super) registry: Option<String>,
    #[command(flatten)]
    pub(super) plain: PlainText,
    #[command(flatten)]
    pub(super) kafka: KafkaFlags,
    #[command(flatten)]
    pub(super) etcd: EtcdFlags,
    #[command(flatten)]
    pub(super) topics: TopicFlags,
}

/// Who the agent is and what it watches.
#[derive(Debug, clap::Args)]
pub(super) struct AgentFlags {
    /// The agent's name; the host's name when absent.
    #[arg(long, value_name = "ID")]
    agent_id: Option<AgentId>,
    /// A label that selectors can choose. Repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::pair)]
    labels: Vec<(String, String)>,
    /// The /proc to read, when the agent runs in a container.
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    proc_root: PathBuf,
    /// The /sys to read.
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    sys_root: PathBuf,
    /// Where the file systems of the watched machine are mounted.
    #[arg(long, value_name = "DIR", default_value = "/")]
    rootfs: PathBuf,
}

impl AgentFlags {
    pub(super) fn agent_id(&self) -> Result<AgentId, Failure> {
        match &self.agent_id {
            Some(id) => Ok(id.clone()),
            None => AgentId::new(host_name()).map_err(|error| unfit_host_name(error, "--agent-id")),
        }
    }

    pub(super) fn labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut labels = BTreeMap::new();
        for (key, value) in &self.labels {
            if let Some(other) = labels.insert(key.clone(), value.clone()) {
                let message = format!("--label {key} is given twice, as {other} and as {value}: give one");
                return Err(Failure::message(Exit::Config, message));
            }
        }
        Ok(labels)
    }

    /// Where the machine to watch shows itself. That there is one is seen at once, not tick after tick.
    pub(super) fn host(&self) -> Result<Host, Failure> {
        let stat = self.proc_root.join("stat");
        if let Err(error) = std::fs::metadata(&stat) {
            let message =
                format!("--proc-root {} is no /proc: {}: {error}", self.proc_root.display(), stat.display());
            return Err(Failure::message(Exit::Config, message));
        }
        Ok(Host::at(&self.proc_root, &self.sys_root, &self.rootfs))
    }
}

/// A name for a role of this process: as given, or the host's.
pub(super) fn name_or_host(given: Option<&ServerId>, flag: &str) -> Result<String, Failure> {
    match given {
        Some(id) => Ok(id.to_string()),
        None => {
            ServerId::new(host_name()).map(|id| id.to_string()).map_err(|error| unfit_host_name(error, flag))
        }
    }
}

fn unfit_host_name(error: model::id::IdError, flag: &str) -> Failure {
    Failure::new(
        Exit::Config,
        anyhow::Error::new(error).context(format!("the host's name is no id: give {flag}")),
    )
}

/// A file of certificates or keys.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let name = path.display().to_string();
    std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Config, anyhow::Error::new(error).context(format!("cannot read {name}")))
    })
}
