//! A fleet in a folder: starts the binary, reads what it prints, and kills only what it started.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use tempfile::TempDir;

/// How long a test is willing to wait where no promise names a shorter time; machines under test are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One data directory, and where its `up` or `server` listens.
pub(crate) struct Sandbox {
    directory: TempDir,
    pub(crate) grpc: String,
    pub(crate) http: String,
}

/// A process that is killed when it is no longer needed.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

/// What a command that ended left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn program() -> PathBuf {
    std::env::var_os("WATCHFLOOR_BIN").map_or_else(|| env!("CARGO_BIN_EXE_watchfloor").into(), PathBuf::from)
}

/// The binary with none of the caller's settings.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"WATCHFLOOR_") {
            command.env_remove(name);
        }
    }
    for name in ["KAFKA_BOOTSTRAP_SERVERS", "ETCD_HOST", "ETCD_PORT", "GRPC_SERVER_HOST", "GRPC_SERVER_PORT"]
    {
        command.env_remove(name);
    }
    for name in ["VISUAL", "EDITOR", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command that needs no sandbox to its end.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    Run::of(command(arguments).output().unwrap())
}

impl Sandbox {
    /// `up -v` with these flags besides, once it listens.
    pub(crate) fn up(flags: &[&str]) -> (Self, Process) {
        let mut sandbox = Self {
            directory: tempfile::tempdir().unwrap(),
            grpc: "127.0.0.1:0".to_owned(),
            http: "127.0.0.1:0".to_owned(),
        };
        let up = sandbox.start(flags);
        (sandbox, up)
    }

    /// Starts `up` (again) where it was; what it listens on is known afterwards.
    pub(crate) fn start(&mut self, flags: &[&str]) -> Process {
        let listen = ["--grpc-listen", &self.grpc, "--http-listen", &self.http].map(str::to_owned);
        let mut arguments = vec!["up".to_owned(), "-v".to_owned(), "--data-dir".to_owned(), self.data()];
        arguments.extend(listen);
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let up = Process::spawn(command(&arguments));
        self.grpc = up.wait_for("gRPC").split_whitespace().nth(1).unwrap().to_owned();
        let http = up.wait_for("HTTP").split_whitespace().nth(1).unwrap().to_owned();
        self.http = http.trim_start_matches("http://").to_owned();
        up
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> String {
        self.path().join("data").display().to_string()
    }

    /// An agent process of this fleet.
    pub(crate) fn agent(&self, id: &str, flags: &[&str]) -> Process {
        let data = self.data();
        let fixed = ["agent", "--agent-id", id, "--server", &self.grpc, "--data-dir", &data];
        Process::spawn(command(fixed.iter().chain(flags)))
    }

    /// An operator's command, to its end.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Run {
        Run::of(self.operator(arguments).output().unwrap())
    }

    /// An operator's command that goes on.
    pub(crate) fn follow(&self, arguments: &[&str]) -> Process {
        Process::spawn(self.operator(arguments))
    }

    fn operator(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("WATCHFLOOR_API", format!("http://{}", self.http));
        command
    }

    /// The JSON of a command that is to succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let run = self.cli(&[arguments, &["-o", "json"]].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        serde_json::from_str(&run.out).unwrap()
    }

    /// One agent as the inventory has it.
    pub(crate) fn known(&self, agent: &str) -> Value {
        let agents = self.json(&["agents"]);
        let found = agents.as_array().unwrap().iter().find(|entry| entry["agent_id"] == agent);
        found.unwrap_or_else(|| panic!("{agent} is not in {agents}")).clone()
    }

    /// Asks again until `holds` is true of the answer; the question is the event.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not happen in {PATIENCE:?}");
            std::thread::yield_now();
        }
    }
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().expect("a command is not ended by a signal");
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    /// The next line of its standard output that has all these words.
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.wait_within(words, PATIENCE).0
    }

    /// The same within a promised time, and the lines passed over.
    pub(crate) fn wait_within(&self, words: &str, within: Duration) -> (String, Vec<String>) {
        let deadline = Instant::now() + within;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if words.split(' ').all(|word| line.contains(word)) => return (line, others),
                Ok(line) => others.push(line),
                Err(error) => {
                    panic!("no line with {words:?} in {within:?} ({error}): {others:#?} {:#?}", self.told());
                }
            }
        }
    }

    /// The next line of its standard output.
    pub(crate) fn line(&self) -> String {
        self.wait_for("")
    }

    /// What it has printed and nobody has read.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// What it has told in its log and nobody has read; last, how it ended, if it has.
    pub(crate) fn told(&self) -> Vec<String> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), options).ok().flatten();
        self.errors.try_iter().chain(ended.map(|status| format!("{status:?}"))).collect()
    }

    pub(crate) fn wait_for_error(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.errors.recv_timeout(left).unwrap_or_else(|error| panic!("no {words:?}: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, which something else brings about.
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        // Its output must be read on, or it would wait for us.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }

    /// As a user ends it.
    pub(crate) fn interrupt(self) -> Option<i32> {
        self.signal(Signal::INT);
        self.exit_code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The lines of a pipe, read for as long as it is open, so that nobody waits for us to read.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    const LINES: usize = 100_000;
    let (sender, lines) = sync_channel(LINES);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
