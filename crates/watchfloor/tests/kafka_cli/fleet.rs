//! A server, a monitor and agents on Kafka and etcd; no analysis.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::sandbox::{Process, Run, command};

const TOPICS: [&str; 4] = ["monitoring-data", "commands", "command-responses", "agent-status"];
/// Monitors on one registry elect one leader, who sees the topics of one test only.
static ONE_MONITOR: Mutex<()> = Mutex::new(());

/// Kafka, etcd, and topics that no other test has.
pub(crate) struct World {
    pub(crate) kafka: String,
    pub(crate) etcd: String,
    /// Begins the names of topics, agents and roles.
    pub(crate) name: String,
    data: TempDir,
}

pub(crate) struct Fleet {
    pub(crate) world: World,
    // Ended in this order.
    monitor: Option<Process>,
    _agents: Vec<Process>,
    _server: Process,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self {
            kafka: address("WATCHFLOOR_TEST_KAFKA"),
            etcd: address("WATCHFLOOR_TEST_ETCD"),
            name: format!("t{:x}-{}", since.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed)),
            data: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.name)
    }

    pub(crate) fn agent(&self, number: usize) -> String {
        format!("{}-agent-{number}", self.name)
    }

    /// Any command of ours, with this test's topics and no API.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let names = TOPICS.map(|topic| format!("{topic}={}", self.topic(topic)));
        let mut command = command(arguments);
        command.env("WATCHFLOOR_TOPICS", names.join(",")).env("WATCHFLOOR_PARTITIONS", "3");
        command.env("WATCHFLOOR_API", "http://127.0.0.1:1");
        command
    }

    pub(crate) fn cli(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().unwrap())
    }

    /// `--kafka=...` for this Kafka.
    pub(crate) fn flag(&self) -> String {
        format!("--kafka={}", self.kafka)
    }

    /// The JSON of a command that is to succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let run = self.cli(&[arguments, &[&self.flag(), "-o", "json"]].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        serde_json::from_str(&run.out).unwrap()
    }

    /// A server with this test's topics, and where agents connect to it.
    pub(crate) fn server(&self) -> (Process, String) {
        let id = format!("{}-s", self.name);
        let flags = ["--server-id", &id, "--grpc-listen", "127.0.0.1:0"];
        let server = self.role("server", &flags);
        let grpc = server.wait_for("gRPC").split_whitespace().nth(1).unwrap().to_owned();
        (server, grpc)
    }

    fn role(&self, role: &str, flags: &[&str]) -> Process {
        let data = self.data.path().display().to_string();
        let (bus, registry) = (format!("kafka://{}", self.kafka), format!("etcd://{}", self.etcd));
        let backends = ["--bus", &bus, "--registry", &registry];
        let fixed = [role, "--data-dir", &data, "--http-listen", "127.0.0.1:0"];
        Process::spawn(self.command(&[&fixed[..], &backends, flags].concat()))
    }

    /// One of Kafka's console tools on one of the topics, to its end.
    pub(crate) fn tool(&self, name: &str, topic: &str, arguments: &[&str], typed: &str) -> Run {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev/kafka");
        let topic = self.topic(topic);
        let fixed = ["tool", name, "--bootstrap-server", &self.kafka, "--topic", &topic];
        let mut tool = Command::new(script);
        tool.args([&fixed[..], arguments].concat());
        tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tool = tool.spawn().unwrap();
        std::io::Write::write_all(&mut tool.stdin.take().unwrap(), typed.as_bytes()).unwrap();
        Run::of(tool.wait_with_output().unwrap())
    }
}

impl Fleet {
    /// With so many agents, each known to be ONLINE. They carry the label `fleet`.
    pub(crate) fn start(agents: usize) -> Self {
        let turn = ONE_MONITOR.lock().unwrap_or_else(PoisonError::into_inner);
        let world = World::new();
        let (server, grpc) = world.server();
        let monitor = world.role("monitor", &["--monitor-id", &format!("{}-m", world.name)]);
        let data = world.data.path().display().to_string();
        let label = format!("fleet={}", world.name);
        let agents = (1..=agents).map(|number| {
            let id = world.agent(number);
            let flags =
                ["agent", "--agent-id", &id, "--server", &grpc, "--data-dir", &data, "--label", &label];
            let agent = Process::spawn(world.command(&flags));
            monitor.wait_for(&format!("ONLINE {id}"));
            agent
        });
        let agents = agents.collect();
        Self { world, monitor: Some(monitor), _agents: agents, _server: server, _turn: turn }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // In order, so that the next test's monitor leads at once.
        if let Some(monitor) = self.monitor.take() {
            monitor.interrupt();
        }
    }
}

fn address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("set {variable}=host:port: `deploy/dev/kafka start` and `deploy/dev/etcd start` make them be there")
    })
}
