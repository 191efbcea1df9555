//! The real Kafka and the real etcd, started by the scripts that developers use, and their own tools.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// One broker and one etcd, in one folder. They end with the value.
pub(crate) struct Outside {
    directory: PathBuf,
    kafka: u16,
    etcd: u16,
    etcdctl: PathBuf,
}

impl Outside {
    /// Both, on free ports.
    pub(crate) fn start(directory: &Path) -> Self {
        let [etcd] = free_ports();
        Self::with_etcd_at(directory, etcd)
    }

    /// Where commands that somebody wrote down look for etcd.
    pub(crate) fn with_etcd_at(directory: &Path, etcd: u16) -> Self {
        let [kafka, controller, peer] = free_ports();
        let mut outside =
            Self { directory: directory.to_owned(), kafka, etcd, etcdctl: PathBuf::from("etcdctl") };
        let program = text(outside.script("etcd", &["path"])).trim().to_owned();
        outside.etcdctl = Path::new(&program).with_file_name("etcdctl");
        outside
            .script("kafka", &["start", &outside.home("kafka"), &kafka.to_string(), &controller.to_string()]);
        outside.script("etcd", &["start", &outside.home("etcd"), &etcd.to_string(), &peer.to_string()]);
        outside
    }

    /// What every role is started with.
    pub(crate) fn flags(&self) -> [String; 4] {
        let kafka = format!("kafka://127.0.0.1:{}", self.kafka);
        ["--bus".to_owned(), kafka, "--registry".to_owned(), format!("etcd://127.0.0.1:{}", self.etcd)]
    }

    /// kill -9: what the broker had not written yet is up to the kernel.
    pub(crate) fn kill_kafka(&self) {
        self.script("kafka", &["stop", &self.home("kafka"), "KILL"]);
    }

    /// Goes on with what is in its folder.
    pub(crate) fn start_kafka(&self) {
        self.script("kafka", &["start", &self.home("kafka")]);
    }

    pub(crate) fn stop_etcd(&self) {
        self.script("etcd", &["stop", &self.home("etcd")]);
    }

    pub(crate) fn start_etcd(&self) {
        // Only clients have to find it again.
        let [peer] = free_ports();
        self.script("etcd", &["start", &self.home("etcd"), &self.etcd.to_string(), &peer.to_string()]);
    }

    /// etcd's own client, as an operator types it.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> String {
        text(succeeded(&mut self.etcdctl_command(arguments)))
    }

    pub(crate) fn etcdctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.etcdctl);
        command.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", format!("127.0.0.1:{}", self.etcd));
        command.args(arguments);
        command
    }

    /// Forgets every older revision, so that whoever was away cannot go on where it was.
    pub(crate) fn compact(&self) {
        let answer: Value = serde_json::from_str(&self.etcdctl(&["get", "/", "-w", "json"])).unwrap();
        self.etcdctl(&["compact", &answer["header"]["revision"].to_string()]);
    }

    /// Everything on a topic, read by Kafka's own console consumer. It ends when nothing has come for a while.
    pub(crate) fn consume(&self, topic: &str) -> Vec<Value> {
        let server = format!("127.0.0.1:{}", self.kafka);
        let arguments = ["tool", "kafka-console-consumer", "--bootstrap-server", &server, "--topic", topic];
        let all = ["--from-beginning", "--timeout-ms", "5000"];
        let output = self.script("kafka", &[&arguments[..], &all].concat());
        text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn home(&self, what: &str) -> String {
        self.directory.join(what).display().to_string()
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev").join(name);
        succeeded(Command::new(script).args(arguments))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for name in ["kafka", "etcd"] {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev").join(name);
            let signal: &[&str] = if name == "kafka" { &["KILL"] } else { &[] };
            // What is left when this fails is named by the script.
            drop(Command::new(script).args(["stop", &self.home(name)]).args(signal).status());
        }
    }
}

pub(crate) fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

pub(crate) fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// Free when looked at: nobody else asks for ports on a machine that runs this.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
