//! The registry on a real etcd: the contract, and what only a store in another process can do to it.
//!
//!     WATCHFLOOR_TEST_ETCD_BINARY=$(deploy/dev/etcd path) cargo test -p backends --features contract,etcd --test etcd_contract
//!
//! Every test starts an etcd of its own, on a loopback address of its own, and kills it. `etcdctl` lies beside the binary
//! or on the PATH. Without the variable nothing runs, and that is said: Rust's own harness could only count it as passed.

#![expect(clippy::unwrap_used, reason = "a test; clippy knows only those of Rust's own harness")]

mod faults;
mod foreign;
mod identity;
mod limits;
mod members;
mod proxy;
mod world;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

const BINARY: &str = "WATCHFLOOR_TEST_ETCD_BINARY";
/// Tests wait for etcd far more than they work.
const THREADS: usize = 8;

type Test = backends::registry::contract::Law;

/// Names and futures of async functions without arguments.
macro_rules! tests {
    ($($name:ident)*) => {
        pub(crate) fn tests() -> Vec<crate::Test> {
            vec![$((stringify!($name), || Box::pin($name()))),*]
        }
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let Some(binary) = std::env::var_os(BINARY).map(PathBuf::from) else {
        println!("registry on etcd: NOT RUN: set {BINARY} to an etcd, such as `deploy/dev/etcd path` prints");
        return ExitCode::SUCCESS;
    };
    world::use_binary(binary);
    arguments.test_threads.get_or_insert(THREADS);
    let groups = [
        ("contract", backends::registry_contract!(world::World::new().await, laws)),
        ("faults", faults::tests()),
        ("foreign", foreign::tests()),
        ("identity", identity::tests()),
        ("limits", limits::tests()),
        ("members", members::tests()),
    ];
    let trials = groups.into_iter().flat_map(|(group, tests)| {
        tests.into_iter().map(move |(name, test)| Trial::test(format!("{group}::{name}"), move || run(test)))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn run(test: fn() -> Pin<Box<dyn Future<Output = ()>>>) -> Result<(), libtest_mimic::Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(test());
    Ok(())
}
