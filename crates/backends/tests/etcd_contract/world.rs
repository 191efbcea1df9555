//! One etcd, or a cluster of them, for one test.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use backends::registry::contract::Fixture;
use backends::registry::etcd::{EtcdRegistry, Options};
use backends::registry::{Event, Registry, RegistryError, Watch};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

static BINARY: OnceLock<PathBuf> = OnceLock::new();
static ADDRESSES: AtomicU8 = AtomicU8::new(0);

/// A loaded machine starts an etcd in seconds; one that takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn use_binary(binary: PathBuf) {
    BINARY.set(binary).unwrap();
}

/// An address nobody else on this machine uses: all of 127/8 is loopback, and the process id and a count choose from it.
/// Ports of the one loopback address would have to be guessed, and be free again after a restart.
pub(crate) fn address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.max(1), low, ADDRESSES.fetch_add(1, Ordering::Relaxed) + 1)
}

/// One member, running or killed.
pub(crate) struct Etcd {
    pub(crate) address: Ipv4Addr,
    name: String,
    cluster: String,
    tls: Option<Certificates>,
    pub(crate) directory: TempDir,
    process: Mutex<Option<Child>>,
}

impl Etcd {
    fn new(name: String, address: Ipv4Addr, cluster: String, tls: Option<Certificates>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let etcd = Self { address, name, cluster, tls, directory, process: Mutex::default() };
        etcd.start();
        etcd
    }

    pub(crate) fn start(&self) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}:2379", self.address);
        let peer = format!("http://{}:2380", self.address);
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let mut command = Command::new(BINARY.get().unwrap());
        command.arg("--name").arg(&self.name).arg("--data-dir").arg(self.directory.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.cluster, "--logger", "zap"]);
        if let Some(Certificates { directory }) = &self.tls {
            let file = |name: &str| directory.path().join(name);
            command.arg("--cert-file").arg(file("cert.pem")).arg("--key-file").arg(file("key.pem"));
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(file("authority.pem"));
        }
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.process.lock().unwrap() = Some(started);
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// `STOP` or `CONT`: the process hangs, its connections stay.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.lock().unwrap().as_ref().unwrap().id();
        assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
    }

    pub(crate) fn pem(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.tls.as_ref().unwrap().directory.path().join(name)).unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}:2379", self.address)
    }

    /// Runs etcdctl on it, as a person would.
    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> String {
        self.etcdctl_with(arguments, "")
    }

    pub(crate) fn etcdctl_with(&self, arguments: &[&str], input: &str) -> String {
        let beside = BINARY.get().unwrap().with_file_name("etcdctl");
        let program = if beside.exists() { beside } else { PathBuf::from("etcdctl") };
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoint()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = running.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `authority.pem`, and `cert.pem` with `key.pem` signed by it. etcd's own `--auto-tls` uses a curve that ring has not.
struct Certificates {
    directory: TempDir,
}

impl Certificates {
    fn new(address: Ipv4Addr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = format!("subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n");
        std::fs::write(directory.path().join("names"), names).unwrap();
        const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        for command in [
            format!("req -x509 {KEY} -days 2 -subj /CN=authority -keyout authority.key -out authority.pem"),
            format!("req -new {KEY} -subj /CN=etcd -keyout key.pem -out request"),
            "x509 -req -in request -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names \
             -out cert.pem"
                .to_owned(),
        ] {
            let mut openssl = Command::new("openssl");
            openssl.args(command.split_whitespace()).current_dir(directory.path());
            let output = openssl.output().expect("openssl makes the certificates: install it");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Self { directory }
    }
}

/// A cluster, and the registry that a law has open on it.
pub(crate) struct World {
    pub(crate) etcds: Vec<Etcd>,
    open: Mutex<Option<Arc<EtcdRegistry>>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::of(1).await
    }

    pub(crate) async fn of(members: usize) -> Self {
        let addresses: Vec<Ipv4Addr> = (0..members).map(|_| address()).collect();
        let named = addresses.iter().enumerate().map(|(n, address)| (format!("m{n}"), *address));
        let peers: Vec<String> =
            named.clone().map(|(name, address)| format!("{name}=http://{address}:2380")).collect();
        let cluster = peers.join(",");
        let etcds = named.map(|(name, address)| Etcd::new(name, address, cluster.clone(), None)).collect();
        let world = Self { etcds, open: Mutex::default() };
        answers(&connect(&world.options())).await;
        world
    }

    /// One member that speaks TLS and asks for a certificate. Not waited for.
    pub(crate) fn with_tls() -> Self {
        let address = address();
        let certificates = Certificates::new(address);
        let cluster = format!("m=http://{address}:2380");
        let etcd = Etcd::new("m".to_owned(), address, cluster, Some(certificates));
        Self { etcds: vec![etcd], open: Mutex::default() }
    }

    pub(crate) fn etcd(&self) -> &Etcd {
        &self.etcds[0]
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.etcds.iter().map(Etcd::endpoint).collect())
    }
}

pub(crate) fn connect(options: &Options) -> Arc<dyn Registry> {
    Arc::new(EtcdRegistry::connect(options).unwrap())
}

/// Waits until the registry can be written to. Another process comes up in its own time, so it is asked again and again.
pub(crate) async fn answers(registry: &Arc<dyn Registry>) {
    let asked = async {
        while registry.delete("/absent").await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("etcd comes up");
}

pub(crate) async fn next(watch: &mut Watch) -> Result<Event, RegistryError> {
    timeout(PATIENCE, watch.next()).await.expect("an event comes in time").expect("the watch goes on")
}

#[async_trait]
impl Fixture for World {
    async fn open(&self) -> Arc<dyn Registry> {
        let registry = Arc::new(EtcdRegistry::connect(&self.options()).unwrap());
        *self.open.lock().unwrap() = Some(Arc::clone(&registry));
        registry
    }

    /// The store is killed with its client: what was acknowledged must not need an orderly end.
    async fn close(&self, _registry: Arc<dyn Registry>) {
        let open = self.open.lock().unwrap().take().unwrap();
        open.close().await.unwrap();
        self.etcd().kill();
        self.etcd().start();
        answers(&connect(&self.options())).await;
    }

    /// etcd's leases run by its own clock.
    async fn pass(&self, duration: Duration) {
        sleep(duration).await;
    }

    async fn compact(&self, registry: &Arc<dyn Registry>) {
        let current = registry.put("/elsewhere", "x").await.unwrap();
        self.etcd().etcdctl(&["compaction", &current.to_string()]);
    }
}
