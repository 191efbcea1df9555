//! The laws of [`Registry`](super), as tests that every implementation runs with
//! [`registry_contract`](crate::registry_contract).
//!
//! One function checks one law and panics where it is broken. All keys begin with `/t/`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use model::id::Revision;

use super::{
    Committed, Compare, Entry, Event, LeaseId, Operation, Registry, RegistryError, Txn, VALUE_BYTES_MAX,
    Watch,
};

/// A law's name and its check in a fresh world.
pub type Law = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// Makes the implementation under test. One fixture is one world: what is opened later sees what was left earlier.
#[async_trait]
pub trait Fixture: Send + Sync {
    async fn open(&self) -> Arc<dyn Registry>;

    /// Ends `registry` in good order.
    async fn close(&self, registry: Arc<dyn Registry>);

    /// Lets `duration` pass by the clock that leases run by.
    async fn pass(&self, duration: Duration);

    /// Makes the store forget all revisions before the current one; it may write outside `/t/` to do so.
    async fn compact(&self, registry: &Arc<dyn Registry>);
}

/// Far beyond what any of this takes; a registry that is silent for so long has lost something.
const PATIENCE: Duration = Duration::from_secs(120);
const TTL: Duration = Duration::from_secs(10);

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), lease: None }
}

fn attached(key: &str, lease: LeaseId) -> Operation {
    Operation::Put { key: key.to_owned(), value: Bytes::from_static(b"x"), lease: Some(lease) }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.to_owned() }
}

async fn commit(registry: &Arc<dyn Registry>, operations: Vec<Operation>) -> Revision {
    commit_if(registry, Vec::new(), operations).await.revision
}

async fn commit_if(
    registry: &Arc<dyn Registry>,
    compares: Vec<Compare>,
    operations: Vec<Operation>,
) -> Committed {
    registry.commit(Txn { compares, operations }).await.expect("a commit is answered")
}

async fn get(registry: &Arc<dyn Registry>, key: &str) -> Option<Entry> {
    registry.get(key).await.expect("a key can be read")
}

async fn value(registry: &Arc<dyn Registry>, key: &str) -> Option<String> {
    get(registry, key).await.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

async fn watch(registry: &Arc<dyn Registry>, prefix: &str, after: Revision) -> Watch {
    registry.watch(prefix, after).await.expect("a prefix can be watched")
}

async fn now(registry: &Arc<dyn Registry>) -> Revision {
    registry.list("/t/").await.expect("keys can be listed").revision
}

async fn next(watch: &mut Watch) -> Event {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes in time");
    next.expect("the watch goes on").expect("the event can be read")
}

/// `key=value@revision`, `-key@revision`.
fn short(event: &Event) -> String {
    match event {
        Event::Put(entry) => {
            format!("{}={}@{}", entry.key, String::from_utf8_lossy(&entry.value), entry.modified)
        }
        Event::Delete { key, revision } => format!("-{key}@{revision}"),
        Event::Resync(snapshot) => format!("{} keys@{}", snapshot.entries.len(), snapshot.revision),
    }
}

async fn shorts(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        events.push(short(&next(watch).await));
    }
    events
}

/// Law 1.
pub async fn what_was_committed_survives_reopening(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    commit(&registry, vec![put("/t/a", "1"), put("/t/b", "2")]).await;
    let revision = commit(&registry, vec![delete("/t/b"), put("/t/a", "3")]).await;
    let before = registry.list("/t/").await.expect("keys can be listed");
    assert_eq!(before.revision, revision);
    fixture.close(registry).await;
    let registry = fixture.open().await;
    assert_eq!(registry.list("/t/").await.expect("keys can be listed"), before);
    assert!(commit(&registry, vec![put("/t/a", "4")]).await > revision);
}

/// Laws 1 and 2.
pub async fn a_commit_happens_at_one_revision(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let first = commit(&registry, vec![put("/t/a", "1"), put("/t/b", "1")]).await;
    for key in ["/t/a", "/t/b"] {
        let entry = get(&registry, key).await.expect("it was put");
        assert_eq!((entry.created, entry.modified, entry.version), (first, first, 1));
    }
    let second = commit(&registry, vec![put("/t/a", "2")]).await;
    assert!(second > first);
    let entry = get(&registry, "/t/a").await.expect("it was put");
    assert_eq!((entry.created, entry.modified, entry.version), (first, second, 2));
}

/// Law 2: a key that comes again is a new one.
pub async fn a_deleted_key_begins_anew(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    commit(&registry, vec![put("/t/a", "1")]).await;
    commit(&registry, vec![put("/t/a", "2")]).await;
    commit(&registry, vec![delete("/t/a")]).await;
    assert_eq!(get(&registry, "/t/a").await, None);
    let again = commit(&registry, vec![put("/t/a", "3")]).await;
    let entry = get(&registry, "/t/a").await.expect("it was put");
    assert_eq!((entry.created, entry.version), (again, 1));
}

/// Law 2: what changes nothing has no revision.
pub async fn deleting_nothing_changes_nothing(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let before = commit(&registry, vec![put("/t/a", "1")]).await;
    assert_eq!(commit(&registry, vec![delete("/t/absent")]).await, before);
}

/// Law 3, for each kind of compare.
pub async fn compares_decide(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let key = || "/t/there".to_owned();
    let absent = || "/t/absent".to_owned();
    let at = commit(&registry, vec![put("/t/there", "v")]).await;
    let earlier = Revision(at.0 - 1);
    let v = Bytes::from_static(b"v");
    let w = Bytes::from_static(b"w");
    for (holds, compare) in [
        (true, Compare::Absent { key: absent() }),
        (false, Compare::Absent { key: key() }),
        (true, Compare::Present { key: key() }),
        (false, Compare::Present { key: absent() }),
        (true, Compare::Modified { key: key(), revision: at }),
        (false, Compare::Modified { key: key(), revision: earlier }),
        (false, Compare::Modified { key: absent(), revision: at }),
        (true, Compare::Value { key: key(), value: v.clone() }),
        (false, Compare::Value { key: key(), value: w }),
        (false, Compare::Value { key: absent(), value: v }),
    ] {
        let asked = format!("{compare:?}");
        let committed = commit_if(&registry, vec![compare], vec![put("/t/out", &asked)]).await;
        assert_eq!(committed.succeeded, holds, "{asked}");
        assert_eq!(value(&registry, "/t/out").await.as_deref() == Some(&asked), holds, "{asked}");
    }
}

/// Laws 1 and 3: one compare that does not hold, and no operation happens.
pub async fn a_failed_compare_changes_nothing(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let before = commit(&registry, vec![put("/t/a", "1")]).await;
    let compares =
        vec![Compare::Present { key: "/t/a".to_owned() }, Compare::Absent { key: "/t/a".to_owned() }];
    let committed = commit_if(&registry, compares, vec![put("/t/a", "2"), put("/t/b", "2")]).await;
    assert_eq!(committed, Committed { succeeded: false, revision: before });
    assert_eq!(value(&registry, "/t/a").await.as_deref(), Some("1"));
    assert_eq!(get(&registry, "/t/b").await, None);
}

/// Law 3: of all who compare with the same revision, one wins.
pub async fn one_of_many_writers_wins_each_round(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    commit(&registry, vec![put("/t/n", "0")]).await;
    let writers = (0..8).map(|_| async {
        let mut won = 0;
        while won < 5 {
            let entry = get(&registry, "/t/n").await.expect("it was put");
            let n: u32 = String::from_utf8_lossy(&entry.value).parse().expect("it is a number");
            let unchanged = Compare::Modified { key: "/t/n".to_owned(), revision: entry.modified };
            let written = vec![put("/t/n", &(n + 1).to_string())];
            won += u32::from(commit_if(&registry, vec![unchanged], written).await.succeeded);
        }
    });
    join_all(writers).await;
    assert_eq!(value(&registry, "/t/n").await.as_deref(), Some("40"));
}

pub async fn a_prefix_is_listed_in_order(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let written = vec![put("/t/b/2", ""), put("/t/b/1", ""), put("/t/a", ""), put("/t/c", "")];
    let revision = commit(&registry, written).await;
    let snapshot = registry.list("/t/b/").await.expect("keys can be listed");
    assert_eq!(snapshot.revision, revision);
    let keys: Vec<&str> = snapshot.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["/t/b/1", "/t/b/2"]);
}

/// Law 4.
pub async fn a_watch_sees_the_changes_under_its_prefix_in_order(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let r0 = commit(&registry, vec![put("/t/w/a", "0"), put("/t/x", "0")]).await;
    let mut changes = watch(&registry, "/t/w/", r0).await;
    let r1 = commit(&registry, vec![put("/t/w/a", "1")]).await;
    commit(&registry, vec![put("/t/x", "1")]).await;
    let r2 = commit(&registry, vec![delete("/t/w/a"), put("/t/w/b", "2")]).await;
    let mut seen = shorts(&mut changes, 3).await;
    // Within one revision the order is free.
    seen[1..].sort();
    assert_eq!(seen, [format!("/t/w/a=1@{r1}"), format!("-/t/w/a@{r2}"), format!("/t/w/b=2@{r2}")]);
}

/// Law 4: a watch from an earlier revision sees what happened since.
pub async fn a_watch_begins_where_it_is_told(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let mut revisions = Vec::new();
    for n in 0..5 {
        revisions.push(commit(&registry, vec![put("/t/a", &n.to_string())]).await);
    }
    let mut changes = watch(&registry, "/t/", revisions[1]).await;
    let expected: Vec<String> = (2..5).map(|n| format!("/t/a={n}@{}", revisions[n])).collect();
    assert_eq!(shorts(&mut changes, 3).await, expected);
}

/// Law 4: neither a gap nor a double, whenever the watch begins.
pub async fn a_watch_beside_commits_sees_each_change_once(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let writing = async {
        for n in 0..100 {
            commit(&registry, vec![put("/t/a", &n.to_string())]).await;
        }
    };
    let watching = join_all((0..20).map(|_| async {
        let snapshot = registry.list("/t/").await.expect("keys can be listed");
        let known = snapshot.entries.first().map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        let first = known.map_or(0, |value| value.parse::<u32>().expect("it is a number") + 1);
        let mut changes = watch(&registry, "/t/", snapshot.revision).await;
        for n in first..100 {
            let Event::Put(entry) = next(&mut changes).await else { panic!("only puts happen") };
            assert_eq!(String::from_utf8_lossy(&entry.value), n.to_string());
        }
    }));
    tokio::join!(writing, watching);
}

/// Law 4: what is no longer kept comes as a resync, and the watch goes on from there.
pub async fn a_watch_from_a_forgotten_revision_gets_everything_then_goes_on(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let old = commit(&registry, vec![put("/t/gone", "1"), put("/t/kept", "1")]).await;
    commit(&registry, vec![delete("/t/gone")]).await;
    fixture.compact(&registry).await;
    let mut changes = watch(&registry, "/t/", old).await;
    let Event::Resync(snapshot) = next(&mut changes).await else { panic!("a resync comes first") };
    assert_eq!(snapshot, registry.list("/t/").await.expect("keys can be listed"));
    let later = commit(&registry, vec![put("/t/new", "2")]).await;
    assert_eq!(shorts(&mut changes, 1).await, [format!("/t/new=2@{later}")]);
}

/// Law 5.
pub async fn a_lease_that_is_not_kept_alive_takes_its_keys_along(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    let put_at = commit(&registry, vec![attached("/t/a", lease), attached("/t/b", lease)]).await;
    assert_eq!(get(&registry, "/t/a").await.and_then(|entry| entry.lease), Some(lease));
    let mut changes = watch(&registry, "/t/", put_at).await;
    fixture.pass(TTL / 2).await;
    assert!(get(&registry, "/t/a").await.is_some(), "it has half its time left");
    fixture.pass(TTL).await;
    for _ in 0..2 {
        assert!(matches!(next(&mut changes).await, Event::Delete { .. }));
    }
    assert!(get(&registry, "/t/a").await.is_none() && get(&registry, "/t/b").await.is_none());
    let kept_alive = registry.keep_alive(lease).await;
    assert!(matches!(kept_alive, Err(RegistryError::NoSuchLease(gone)) if gone == lease));
}

/// Law 5.
pub async fn a_lease_that_is_kept_alive_stays(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    commit(&registry, vec![attached("/t/a", lease)]).await;
    for _ in 0..4 {
        fixture.pass(TTL * 6 / 10).await;
        registry.keep_alive(lease).await.expect("it is still there");
    }
    assert!(get(&registry, "/t/a").await.is_some());
}

/// Law 5.
pub async fn a_revoked_lease_takes_its_keys_along(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    let other = registry.grant(TTL).await.expect("a lease is granted");
    let put_at = commit(&registry, vec![attached("/t/a", lease), attached("/t/b", other)]).await;
    let mut changes = watch(&registry, "/t/", put_at).await;
    registry.revoke(lease).await.expect("it is there");
    assert!(matches!(next(&mut changes).await, Event::Delete { key, .. } if key == "/t/a"));
    assert!(get(&registry, "/t/b").await.is_some(), "it is another lease's");
    assert!(matches!(registry.revoke(lease).await, Err(RegistryError::NoSuchLease(_))));
}

/// Laws 1 and 5.
pub async fn a_put_on_a_lease_that_ended_is_refused_whole(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    registry.revoke(lease).await.expect("it is there");
    let before = now(&registry).await;
    let operations = vec![put("/t/a", "1"), attached("/t/b", lease)];
    let refused = registry.commit(Txn { compares: Vec::new(), operations }).await;
    assert!(matches!(refused, Err(RegistryError::NoSuchLease(gone)) if gone == lease));
    assert_eq!((get(&registry, "/t/a").await, now(&registry).await), (None, before));
}

/// Law 5: the last put decides what a key is attached to.
pub async fn a_key_put_without_its_lease_outlives_it(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    commit(&registry, vec![attached("/t/a", lease), attached("/t/b", lease)]).await;
    commit(&registry, vec![put("/t/a", "free")]).await;
    registry.revoke(lease).await.expect("it is there");
    assert_eq!(value(&registry, "/t/a").await.as_deref(), Some("free"));
    assert_eq!(get(&registry, "/t/b").await, None);
}

/// Law 5.
pub async fn a_restart_gives_a_lease_its_full_time_once(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    commit(&registry, vec![attached("/t/a", lease)]).await;
    fixture.pass(TTL * 8 / 10).await;
    fixture.close(registry).await;
    let registry = fixture.open().await;
    let mut changes = watch(&registry, "/t/", now(&registry).await).await;
    fixture.pass(TTL / 2).await;
    assert!(get(&registry, "/t/a").await.is_some(), "the restart gave it a full time to live");
    fixture.pass(TTL).await;
    assert!(matches!(next(&mut changes).await, Event::Delete { key, .. } if key == "/t/a"));
}

/// Law 6.
pub async fn a_slow_watcher_holds_back_nobody(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let start = now(&registry).await;
    let mut slow = watch(&registry, "/t/", start).await;
    let mut quick = watch(&registry, "/t/", start).await;
    let writing = async {
        for n in 0..1_000 {
            commit(&registry, vec![put("/t/a", &n.to_string())]).await;
        }
    };
    let reading = async {
        for n in 0..1_000 {
            let Event::Put(entry) = next(&mut quick).await else { panic!("the quick one misses nothing") };
            assert_eq!(String::from_utf8_lossy(&entry.value), n.to_string());
        }
    };
    tokio::join!(writing, reading);
    // The slow one may have been told to start over; it ends where everybody does.
    let last = now(&registry).await;
    loop {
        match next(&mut slow).await {
            Event::Put(entry) if entry.modified == last => break,
            Event::Resync(snapshot) if snapshot.revision == last => break,
            _ => {}
        }
    }
}

/// A value past the limit is refused, with everything else of its commit, before anything is written.
pub async fn an_oversize_value_is_refused_before_anything_is_written(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let full = "x".repeat(VALUE_BYTES_MAX);
    commit(&registry, vec![put("/t/full", &full)]).await;
    assert_eq!(value(&registry, "/t/full").await.map(|value| value.len()), Some(VALUE_BYTES_MAX));
    let operations = vec![put("/t/a", "1"), put("/t/b", &format!("{full}x"))];
    let refused = registry.commit(Txn { compares: Vec::new(), operations }).await;
    assert!(matches!(refused, Err(RegistryError::TooLarge { key, .. }) if key == "/t/b"));
    assert_eq!(get(&registry, "/t/a").await, None);
}

pub async fn after_closing_every_call_says_so_and_watches_end(fixture: &impl Fixture) {
    let registry = fixture.open().await;
    let lease = registry.grant(TTL).await.expect("a lease is granted");
    let mut changes = watch(&registry, "/t/", now(&registry).await).await;
    fixture.close(Arc::clone(&registry)).await;
    assert!(changes.next().await.is_none());
    let is_closed = |error: RegistryError| matches!(error, RegistryError::Closed);
    assert!(registry.get("/t/a").await.is_err_and(is_closed));
    assert!(registry.list("/t/").await.is_err_and(is_closed));
    assert!(registry.commit(Txn::default()).await.is_err_and(is_closed));
    assert!(registry.watch("/t/", Revision(0)).await.is_err_and(is_closed));
    assert!(registry.grant(TTL).await.is_err_and(is_closed));
    assert!(registry.keep_alive(lease).await.is_err_and(is_closed));
    assert!(registry.revoke(lease).await.is_err_and(is_closed));
}

/// One test for each law of the registry. `$fixture` makes a fresh world each time; `paused` runs the tests on tokio's
/// paused clock, for fixtures whose leases run by it; `laws` gives names and futures to a test harness that is not Rust's.
#[macro_export]
macro_rules! registry_contract {
    ($fixture:expr) => {
        $crate::registry_contract!(@all $fixture, #[tokio::test]);
    };
    ($fixture:expr, paused) => {
        $crate::registry_contract!(@all $fixture, #[tokio::test(start_paused = true)]);
    };
    ($fixture:expr, laws) => {
        $crate::registry_contract! { @all $fixture, #[laws] }
    };
    (@all $fixture:expr, #[$($test:tt)*]) => {
        // With braces it may stand for items and for an expression.
        $crate::registry_contract! { @each $fixture, [$($test)*],
            what_was_committed_survives_reopening
            a_commit_happens_at_one_revision
            a_deleted_key_begins_anew
            deleting_nothing_changes_nothing
            compares_decide
            a_failed_compare_changes_nothing
            one_of_many_writers_wins_each_round
            a_prefix_is_listed_in_order
            a_watch_sees_the_changes_under_its_prefix_in_order
            a_watch_begins_where_it_is_told
            a_watch_beside_commits_sees_each_change_once
            a_watch_from_a_forgotten_revision_gets_everything_then_goes_on
            a_lease_that_is_not_kept_alive_takes_its_keys_along
            a_lease_that_is_kept_alive_stays
            a_revoked_lease_takes_its_keys_along
            a_put_on_a_lease_that_ended_is_refused_whole
            a_key_put_without_its_lease_outlives_it
            a_restart_gives_a_lease_its_full_time_once
            a_slow_watcher_holds_back_nobody
            an_oversize_value_is_refused_before_anything_is_written
            after_closing_every_call_says_so_and_watches_end
        }
    };
    (@each $fixture:expr, [laws], $($law:ident)*) => {{
        let laws: ::std::vec::Vec<$crate::registry::contract::Law> = ::std::vec![$((
            stringify!($law),
            || ::std::boxed::Box::pin(async { $crate::registry::contract::$law(&$fixture).await }),
        )),*];
        laws
    }};
    (@each $fixture:expr, $test:tt, $($law:ident)*) => {
        $($crate::registry_contract!(@one $fixture, $test, $law);)*
    };
    (@one $fixture:expr, [$($test:tt)*], $law:ident) => {
        #[$($test)*]
        async fn $law() {
            $crate::registry::contract::$law(&$fixture).await;
        }
    };
}
