//! The contract on real files, and what only the embedded registry promises.

mod power_loss;
mod random;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use model::id::Revision;
use tempfile::TempDir;

use super::{EmbeddedRegistry, Options};
use crate::power_loss::{Disk, Space};
use crate::registry::contract::Fixture;
use crate::registry::{Event, Operation, Registry, RegistryError, Txn};
use crate::store::Source;

/// A directory, and the registry that is open there now.
struct Files {
    directory: TempDir,
    open: Mutex<Option<Arc<EmbeddedRegistry>>>,
}

/// Enough that no test but those about it forgets anything.
const HISTORY: usize = 2_000;

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), open: Mutex::default() }
    }

    fn start(&self) -> Result<EmbeddedRegistry, RegistryError> {
        let options = Options { history_events: HISTORY, ..Options::default() };
        EmbeddedRegistry::open(self.directory.path(), &options)
    }
}

#[async_trait]
impl Fixture for Files {
    async fn open(&self) -> Arc<dyn Registry> {
        let registry = Arc::new(self.start().unwrap());
        *self.open.lock().unwrap() = Some(Arc::clone(&registry));
        registry
    }

    async fn close(&self, _registry: Arc<dyn Registry>) {
        let open = self.open.lock().unwrap().take().unwrap();
        open.close().await.unwrap();
    }

    async fn pass(&self, duration: Duration) {
        tokio::time::advance(duration).await;
    }

    async fn compact(&self, registry: &Arc<dyn Registry>) {
        let operations = (0..HISTORY + 1).map(|n| put(&format!("/elsewhere/{n}"))).collect();
        registry.commit(Txn { compares: Vec::new(), operations }).await.unwrap();
    }
}

mod contract {
    use super::Files;

    crate::registry_contract!(Files::new(), paused);
}

fn put(key: &str) -> Operation {
    Operation::Put { key: key.to_owned(), value: "x".into(), lease: None }
}

#[tokio::test]
async fn a_full_disk_refuses_commits_until_there_is_space_again() {
    let disk = Disk::default();
    let registry: Box<dyn Registry> =
        Box::new(EmbeddedRegistry::start(Source::Disk(disk.clone()), &Options::default()).unwrap());
    let before = registry.put("/a", "before").await.unwrap();
    let mut watch = registry.watch("/", before).await.unwrap();
    disk.set_space(Space::NoNewBlocks);
    for _ in 0..3 {
        // Five of these are more than the blocks that are there can take.
        let large =
            |n: u8| Operation::Put { key: format!("/{n}"), value: vec![n; 1_000_000].into(), lease: None };
        let txn = Txn { compares: Vec::new(), operations: (0..5).map(large).collect() };
        let error = registry.commit(txn).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("no space"), "{error}");
    }
    assert_eq!(registry.get("/a").await.unwrap().unwrap().value, "before");
    disk.set_space(Space::Plenty);
    let after = registry.put("/a", "after").await.unwrap();
    let Event::Put(entry) = watch.next().await.unwrap().unwrap() else { panic!("a put was made") };
    assert_eq!((entry.value.as_ref(), entry.modified), (&b"after"[..], after));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_while_the_disk_is_full_is_deleted_later() {
    let disk = Disk::default();
    let registry = EmbeddedRegistry::start(Source::Disk(disk.clone()), &Options::default()).unwrap();
    let lease = registry.grant(Duration::from_secs(10)).await.unwrap();
    let operations = vec![Operation::Put { key: "/a".to_owned(), value: "x".into(), lease: Some(lease) }];
    let put_at = registry.commit(Txn { compares: Vec::new(), operations }).await.unwrap().revision;
    let mut watch = registry.watch("/", put_at).await.unwrap();
    disk.set_space(Space::None);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(registry.keep_alive(lease).await.is_err(), "it ended, whether or not its keys are gone");
    disk.set_space(Space::Plenty);
    assert!(matches!(watch.next().await, Some(Ok(Event::Delete { key, .. })) if key == "/a"));
}

#[tokio::test]
async fn a_watch_from_another_stores_revision_gets_everything() {
    let registry = EmbeddedRegistry::in_memory(&Options::default()).unwrap();
    let mut watch = registry.watch("/", Revision(1_000)).await.unwrap();
    let Some(Ok(Event::Resync(snapshot))) = watch.next().await else { panic!("a resync comes first") };
    assert_eq!(snapshot.revision, Revision(0));
}

#[tokio::test]
async fn a_lease_id_is_not_given_twice() {
    let files = Files::new();
    let registry = files.start().unwrap();
    let first = registry.grant(Duration::from_secs(10)).await.unwrap();
    registry.revoke(first).await.unwrap();
    registry.close().await.unwrap();
    let registry = files.start().unwrap();
    assert!(registry.grant(Duration::from_secs(10)).await.unwrap() > first);
}

#[tokio::test]
async fn a_damaged_file_is_named_with_what_to_do() {
    let files = Files::new();
    let path = files.directory.path().join("registry.redb");
    std::fs::write(&path, "no database at all").unwrap();
    let error = files.start().unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("move it aside"), "{error}");
}
