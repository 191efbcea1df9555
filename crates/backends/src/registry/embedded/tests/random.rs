//! Random sequences of everything one can do with a registry, against a model of a few maps.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use model::id::Revision;
use proptest::prelude::*;

use crate::power_loss::Disk;
use crate::registry::embedded::{EmbeddedRegistry, Options};
use crate::registry::{
    Committed, Compare, Entry, Event, LeaseId, Operation, Registry, RegistryError, Snapshot, Txn, Watch,
};
use crate::store::Source;

#[derive(Clone, Debug)]
enum Action {
    Commit(Txn),
    /// Seconds.
    Grant(u64),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    /// Seconds.
    Pass(u64),
    Reopen,
    WatchFrom(u64),
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["/a", "/a/b", "/a/c", "/b", "/c"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "x", "y"]).prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..5_i64).prop_map(LeaseId)
}

fn action() -> impl Strategy<Value = Action> {
    let compare = prop_oneof![
        key().prop_map(|key| Compare::Absent { key }),
        key().prop_map(|key| Compare::Present { key }),
        (key(), 0..30_u64)
            .prop_map(|(key, revision)| Compare::Modified { key, revision: Revision(revision) }),
        (key(), value()).prop_map(|(key, value)| Compare::Value { key, value }),
    ];
    let operation = prop_oneof![
        3 => (key(), value(), prop::option::of(lease()))
            .prop_map(|(key, value, lease)| Operation::Put { key, value, lease }),
        1 => key().prop_map(|key| Operation::Delete { key }),
    ];
    let txn = (prop::collection::vec(compare, 0..2), prop::collection::vec(operation, 0..4))
        .prop_map(|(compares, operations)| Txn { compares, operations });
    prop_oneof![
        8 => txn.prop_map(Action::Commit),
        2 => (5..20_u64).prop_map(Action::Grant),
        1 => lease().prop_map(Action::KeepAlive),
        1 => lease().prop_map(Action::Revoke),
        2 => (1..12_u64).prop_map(Action::Pass),
        1 => Just(Action::Reopen),
        1 => (0..30_u64).prop_map(Action::WatchFrom),
    ]
}

#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    events: Vec<Event>,
    /// Time to live and end, in seconds.
    leases: BTreeMap<LeaseId, (u64, u64)>,
    granted: i64,
    now: u64,
}

impl Model {
    fn commit(&mut self, txn: &Txn) -> Result<Committed, LeaseId> {
        let dead = txn.operations.iter().filter_map(Operation::lease);
        if let Some(dead) = dead.into_iter().find(|lease| !self.leases.contains_key(lease)) {
            return Err(dead);
        }
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        if succeeded {
            let at = Revision(self.revision.0 + 1);
            for operation in &txn.operations {
                match operation {
                    Operation::Put { key, value, lease } => self.put(at, key, value, *lease),
                    Operation::Delete { key } => self.delete(at, key),
                }
            }
        }
        Ok(Committed { succeeded, revision: self.revision })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !self.entries.contains_key(key),
            Compare::Present { key } => self.entries.contains_key(key),
            Compare::Modified { key, revision } => {
                self.entries.get(key).is_some_and(|entry| entry.modified == *revision)
            }
            Compare::Value { key, value } => self.entries.get(key).is_some_and(|entry| entry.value == *value),
        }
    }

    fn put(&mut self, at: Revision, key: &str, value: &Bytes, lease: Option<LeaseId>) {
        let (created, version) =
            self.entries.get(key).map_or((at, 0), |entry| (entry.created, entry.version));
        let entry = Entry {
            key: key.to_owned(),
            value: value.clone(),
            created,
            modified: at,
            version: version + 1,
            lease,
        };
        self.entries.insert(key.to_owned(), entry.clone());
        self.events.push(Event::Put(entry));
        self.revision = at;
    }

    fn delete(&mut self, at: Revision, key: &str) {
        if self.entries.remove(key).is_some() {
            self.events.push(Event::Delete { key: key.to_owned(), revision: at });
            self.revision = at;
        }
    }

    fn end(&mut self, lease: LeaseId) -> bool {
        let at = Revision(self.revision.0 + 1);
        let held = self.entries.values().filter(|entry| entry.lease == Some(lease));
        for key in held.map(|entry| entry.key.clone()).collect::<Vec<_>>() {
            self.delete(at, &key);
        }
        self.leases.remove(&lease).is_some()
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let due = self.leases.iter().filter(|(_, (_, until))| *until <= self.now);
        for lease in due.map(|(lease, _)| *lease).collect::<Vec<_>>() {
            self.end(lease);
        }
    }

    fn restart(&mut self) {
        for (ttl, until) in self.leases.values_mut() {
            *until = self.now + *ttl;
        }
    }

    fn snapshot(&self, prefix: &str) -> Snapshot {
        let entries = self.entries.values().filter(|entry| entry.key.starts_with(prefix));
        Snapshot { revision: self.revision, entries: entries.cloned().collect() }
    }
}

fn start(disk: &Disk) -> EmbeddedRegistry {
    EmbeddedRegistry::start(Source::Disk(disk.clone()), &Options::default()).unwrap()
}

async fn read(watch: &mut Watch) -> Event {
    // The clock is paused: this ends at once when nothing is to come.
    let next = tokio::time::timeout(Duration::from_millis(1), watch.next()).await;
    next.expect("an event is missing").unwrap().unwrap()
}

async fn run(actions: Vec<Action>) {
    let disk = Disk::default();
    let mut model = Model::default();
    let mut registry = start(&disk);
    let mut changes = registry.watch("", Revision(0)).await.unwrap();
    let mut forgotten = Revision(0);
    for action in actions {
        let seen = model.events.len();
        match action {
            Action::Commit(txn) => match (registry.commit(txn.clone()).await, model.commit(&txn)) {
                (Ok(committed), Ok(expected)) => assert_eq!(committed, expected),
                (Err(RegistryError::NoSuchLease(_)), Err(_)) => {}
                (found, expected) => panic!("{txn:?}: {found:?}, expected {expected:?}"),
            },
            Action::Grant(seconds) => {
                let lease = registry.grant(Duration::from_secs(seconds)).await.unwrap();
                model.granted += 1;
                assert_eq!(lease, LeaseId(model.granted));
                model.leases.insert(lease, (seconds, model.now + seconds));
            }
            Action::KeepAlive(lease) => {
                let now = model.now;
                let known = model.leases.get_mut(&lease).map(|(ttl, until)| *until = now + *ttl);
                assert_eq!(registry.keep_alive(lease).await.is_ok(), known.is_some());
            }
            Action::Revoke(lease) => {
                assert_eq!(registry.revoke(lease).await.is_ok(), model.end(lease));
            }
            Action::Pass(seconds) => {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                model.pass(seconds);
                // A lease that ended and is not deleted yet would have a second life after a restart.
                while !registry.shared.leases.due_at(tokio::time::Instant::now()).is_empty() {
                    tokio::task::yield_now().await;
                }
            }
            Action::Reopen => {
                registry.close().await.unwrap();
                registry = start(&disk);
                model.restart();
                changes = registry.watch("", model.revision).await.unwrap();
                forgotten = model.revision;
            }
            Action::WatchFrom(after) => {
                let after = Revision(after.min(model.revision.0));
                let mut watch = registry.watch("/a", after).await.unwrap();
                if after < forgotten {
                    assert_eq!(read(&mut watch).await, Event::Resync(model.snapshot("/a")));
                } else {
                    for event in model.events.iter().filter(|event| is_after(event, after)) {
                        assert_eq!(read(&mut watch).await, *event);
                    }
                }
            }
        }
        for event in &model.events[seen..] {
            assert_eq!(read(&mut changes).await, *event);
        }
        assert_eq!(registry.list("").await.unwrap(), model.snapshot(""));
    }
}

fn is_after(event: &Event, after: Revision) -> bool {
    match event {
        Event::Put(entry) => entry.key.starts_with("/a") && entry.modified > after,
        Event::Delete { key, revision } => key.starts_with("/a") && *revision > after,
        Event::Resync(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn the_registry_does_what_the_model_does(actions in prop::collection::vec(action(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(actions));
    }
}
