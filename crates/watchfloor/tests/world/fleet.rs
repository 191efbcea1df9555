//! Our own processes: two of each central role, and agents that know both servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::outside::free_ports;
use crate::sandbox::{Process, Run, command, run};

/// Machines under test are busy, and a broker that was killed takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The presence timeout of this fleet.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) const SERVERS: [&str; 2] = ["s1", "s2"];
pub(crate) const MONITORS: [&str; 2] = ["m1", "m2"];
pub(crate) const ANALYSES: [&str; 2] = ["a1", "a2"];
pub(crate) const AGENTS: [&str; 5] = ["agent-001", "agent-002", "agent-003", "agent-004", "agent-005"];

/// Every process by its name.
pub(crate) struct Fleet {
    data: PathBuf,
    backends: [String; 4],
    processes: BTreeMap<&'static str, Member>,
    /// Where each listens for agents; kept, so that a server returns to where agents look for it.
    grpc: BTreeMap<&'static str, String>,
}

struct Member {
    process: Process,
    /// host:port of its API, or of its health and metrics.
    http: String,
}

impl Fleet {
    /// Nothing runs yet.
    pub(crate) fn new(directory: &Path, backends: [String; 4]) -> Self {
        let data = directory.join("data");
        Self { data, backends, processes: BTreeMap::new(), grpc: BTreeMap::new() }
    }

    pub(crate) fn server(&mut self, id: &'static str) {
        let grpc = self.grpc.get(id).cloned().unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let timeout = format!("{}s", TIMEOUT.as_secs());
        let process =
            self.role("server", &["--server-id", id, "--grpc-listen", &grpc, "--timeout", &timeout]);
        self.grpc.insert(id, second_word(&process.wait_for("gRPC")));
        self.add(id, process);
    }

    pub(crate) fn monitor(&mut self, id: &'static str) {
        let process = self.role("monitor", &["--monitor-id", id]);
        self.add(id, process);
    }

    pub(crate) fn analysis(&mut self, id: &'static str) {
        let process = self.role("analysis", &["--analysis-id", id]);
        self.add(id, process);
    }

    pub(crate) fn agent(&mut self, id: &'static str) {
        let servers = self.grpc.values().cloned().collect::<Vec<_>>().join(",");
        let data = self.data.display().to_string();
        // Fixed: a RESTART is to bring it back at the same place.
        let [port] = free_ports();
        let http = format!("127.0.0.1:{port}");
        let fixed = ["agent", "--agent-id", id, "--server", &servers, "--data-dir", &data];
        let process = Process::spawn(command(fixed.iter().chain(&["--http-listen", http.as_str()])));
        self.processes.insert(id, Member { process, http });
    }

    fn role(&self, role: &'static str, flags: &[&str]) -> Process {
        let data = self.data.display().to_string();
        let mut arguments = vec![role, "--data-dir", &data, "--http-listen", "127.0.0.1:0"];
        arguments.extend(flags);
        arguments.extend(self.backends.iter().map(String::as_str));
        Process::spawn(command(arguments))
    }

    fn add(&mut self, id: &'static str, process: Process) {
        let http = address(&process.wait_for("HTTP"));
        self.processes.insert(id, Member { process, http });
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, id: &str) {
        self.processes.remove(id).unwrap().process.kill();
    }

    pub(crate) fn process(&self, id: &str) -> &Process {
        &self.processes[id].process
    }

    /// An operator's command against one analysis.
    pub(crate) fn cli(&self, analysis: &str, arguments: &[&str]) -> Run {
        let api = format!("http://{}", self.processes[analysis].http);
        run(arguments.iter().copied().chain(["--api", &api]))
    }

    pub(crate) fn json(&self, analysis: &str, arguments: &[&str]) -> Value {
        let run = self.cli(analysis, &[arguments, &["-o", "json"]].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        serde_json::from_str(&run.out).unwrap()
    }

    /// Whether one analysis answers, and says that all these agents are ONLINE.
    pub(crate) fn all_online(&self, analysis: &str) -> bool {
        let run = self.cli(analysis, &["agents", "-o", "json"]);
        let agents: Value = serde_json::from_str(&run.out).unwrap_or_default();
        let is_online = |id: &&str| {
            let known = agents.as_array().and_then(|all| all.iter().find(|entry| entry["agent_id"] == **id));
            known.is_some_and(|entry| entry["status"] == "ONLINE")
        };
        run.code == 0 && AGENTS.iter().all(is_online)
    }

    /// The state of one part of a process, such as `kafka`, and why.
    pub(crate) fn health(&self, id: &str) -> Value {
        serde_json::from_str(&self.get(id, "/api/v1/health")).unwrap()
    }

    /// One of its own numbers, without labels.
    pub(crate) fn metric(&self, id: &str, name: &str) -> f64 {
        number(&self.metrics(id), name)
    }

    pub(crate) fn metrics(&self, id: &str) -> String {
        self.get(id, "/metrics")
    }

    /// A process that begins anew answers a moment later.
    fn get(&self, id: &str, path: &str) -> String {
        let Member { process, http } = &self.processes[id];
        let begun = Instant::now();
        loop {
            match ureq::get(format!("http://{http}{path}")).call() {
                Ok(mut answer) => return answer.body_mut().read_to_string().unwrap(),
                Err(error) if begun.elapsed() > PATIENCE => {
                    panic!("{id} does not answer at {http}{path}: {error}: {:#?}", process.told());
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

/// One number among metrics, without labels.
pub(crate) fn number(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("there is no {name} in {metrics}")).parse().unwrap()
}

/// Asks again until `holds`; answers with how long it took.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::yield_now();
    }
    begun.elapsed()
}

fn second_word(line: &str) -> String {
    line.split_whitespace().nth(1).unwrap().to_owned()
}

/// `host:port` of the first URL in a line.
fn address(line: &str) -> String {
    line.split_whitespace().find_map(|word| word.strip_prefix("http://")).unwrap().to_owned()
}
