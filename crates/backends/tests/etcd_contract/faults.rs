//! Lost connections, killed etcds and compactions.

use std::time::Duration;

use backends::registry::etcd::Options;
use backends::registry::{Event, Operation, RegistryError, Txn};
use model::id::Revision;
use tokio::time::{Instant, sleep, timeout};

use crate::proxy::{Proxy, Way};
use crate::world::{PATIENCE, World, answers, connect, next};

crate::tests! {
    a_watch_that_was_cut_goes_on_where_it_was
    a_watch_that_was_cut_within_a_revision_gets_the_rest_of_it
    a_watch_that_was_cut_over_a_compaction_gets_everything
    a_long_interruption_is_told_and_its_end_too
    a_watch_from_another_stores_revision_gets_everything
    etcd_that_is_away_is_told_within_bounds_and_found_when_it_comes
    a_server_that_hangs_up_is_not_pestered
    a_killed_etcd_loses_nothing_a_watch_was_to_see
    a_lease_outlives_a_killed_etcd_while_it_is_kept_alive
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.to_owned(), value: value.to_owned().into(), lease: None }
}

fn modified(event: &Event) -> Revision {
    match event {
        Event::Put(entry) => entry.modified,
        Event::Delete { revision, .. } => *revision,
        Event::Resync(snapshot) => snapshot.revision,
    }
}

async fn a_watch_that_was_cut_goes_on_where_it_was() {
    let world = World::new().await;
    let proxy = Proxy::before(world.etcd().endpoint(), Way::Open).await;
    let (near, far) = (connect(&world.options()), connect(&Options::new(vec![proxy.endpoint()])));
    let start = near.list("/").await.unwrap().revision;
    let mut watch = far.watch("/", start).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        expected.push(near.put("/a", "x").await.unwrap());
        assert_eq!(modified(&next(&mut watch).await.unwrap()), expected[round * 4]);
        proxy.set(Way::Cut);
        for _ in 0..3 {
            expected.push(near.put("/a", "x").await.unwrap());
        }
        proxy.set(Way::Open);
        for missed in &expected[round * 4 + 1..] {
            assert_eq!(modified(&next(&mut watch).await.unwrap()), *missed);
        }
    }
}

async fn a_watch_that_was_cut_within_a_revision_gets_the_rest_of_it() {
    let world = World::new().await;
    let proxy = Proxy::before(world.etcd().endpoint(), Way::Open).await;
    let (near, far) = (connect(&world.options()), connect(&Options::new(vec![proxy.endpoint()])));
    let start = near.list("/").await.unwrap().revision;
    let mut watch = far.watch("/", start).await.unwrap();
    // Larger than what a watch buffers, in as few revisions as etcd allows.
    let mut keys = Vec::new();
    for half in 0..6 {
        let batch: Vec<String> = (0..100).map(|n| format!("/{half}/{n:03}")).collect();
        let operations = batch.iter().map(|key| put(key, &"x".repeat(10_000))).collect();
        near.commit(Txn { compares: Vec::new(), operations }).await.unwrap();
        keys.extend(batch);
    }
    let mut seen = Vec::new();
    while seen.len() < keys.len() {
        if seen.len() % 150 == 75 {
            proxy.set(Way::Cut);
            proxy.set(Way::Open);
        }
        let Event::Put(entry) = next(&mut watch).await.unwrap() else { panic!("only puts happen") };
        seen.push(entry.key);
    }
    assert_eq!(seen, keys);
}

async fn a_watch_that_was_cut_over_a_compaction_gets_everything() {
    let world = World::new().await;
    let proxy = Proxy::before(world.etcd().endpoint(), Way::Open).await;
    let (near, far) = (connect(&world.options()), connect(&Options::new(vec![proxy.endpoint()])));
    let start = near.put("/gone", "x").await.unwrap();
    let mut watch = far.watch("/", start).await.unwrap();
    near.put("/a", "1").await.unwrap();
    next(&mut watch).await.unwrap();
    proxy.set(Way::Cut);
    // The delete itself is where etcd is compacted: some versions would lose it silently.
    let deleted = near.delete("/gone").await.unwrap();
    world.etcd().etcdctl(&["compaction", &deleted.to_string()]);
    proxy.set(Way::Open);
    let Event::Resync(snapshot) = next(&mut watch).await.unwrap() else { panic!("a resync comes first") };
    assert_eq!(snapshot, near.list("/").await.unwrap());
    let later = near.put("/b", "2").await.unwrap();
    assert_eq!(modified(&next(&mut watch).await.unwrap()), later);
}

async fn a_long_interruption_is_told_and_its_end_too() {
    let world = World::new().await;
    let proxy = Proxy::before(world.etcd().endpoint(), Way::Open).await;
    let mut options = Options::new(vec![proxy.endpoint()]);
    options.interruption = Duration::from_millis(200);
    let far = connect(&options);
    let start = far.put("/a", "x").await.unwrap();
    let mut watch = far.watch("/", start).await.unwrap();
    far.put("/a", "y").await.unwrap();
    next(&mut watch).await.unwrap();
    proxy.set(Way::Cut);
    let told = next(&mut watch).await.unwrap_err();
    assert!(told.is_transient(), "{told}");
    proxy.set(Way::Open);
    // Nothing has changed, and yet the reader hears that all is well.
    assert!(matches!(next(&mut watch).await, Ok(Event::Resync(snapshot)) if snapshot.entries.len() == 1));
    let later = far.put("/a", "z").await.unwrap();
    assert_eq!(modified(&next(&mut watch).await.unwrap()), later);
}

async fn a_watch_from_another_stores_revision_gets_everything() {
    let world = World::new().await;
    let registry = connect(&world.options());
    registry.put("/a", "x").await.unwrap();
    let mut watch = registry.watch("/", Revision(1_000_000)).await.unwrap();
    let Event::Resync(snapshot) = next(&mut watch).await.unwrap() else { panic!("a resync comes first") };
    assert_eq!(snapshot, registry.list("/").await.unwrap());
}

async fn etcd_that_is_away_is_told_within_bounds_and_found_when_it_comes() {
    let world = World::new().await;
    world.etcd().kill();
    let mut options = world.options();
    options.interruption = Duration::ZERO;
    let registry = connect(&options);
    let began = Instant::now();
    let refused = registry.put("/a", "x").await.unwrap_err();
    assert!(refused.is_transient() && began.elapsed() < options.call_timeout, "{refused}");
    let mut watch = registry.watch("/", Revision(1)).await.unwrap();
    assert!(next(&mut watch).await.unwrap_err().is_transient());
    world.etcd().start();
    assert!(matches!(next(&mut watch).await, Ok(Event::Resync(_))));
    let put = registry.put("/a", "x").await.unwrap();
    assert_eq!(modified(&next(&mut watch).await.unwrap()), put);
}

async fn a_server_that_hangs_up_is_not_pestered() {
    let proxy = Proxy::before(String::new(), Way::Cut).await;
    let registry = connect(&Options::new(vec![proxy.endpoint()]));
    let mut watch = registry.watch("/", Revision(1)).await.unwrap();
    let told = next(&mut watch).await.unwrap_err();
    assert!(told.is_transient(), "{told}");
    assert!(timeout(Duration::from_secs(3), watch.next()).await.is_err(), "trouble is told once");
    // Delays double from 50 ms to 2 s; the draw may be short many times over.
    assert!(proxy.accepted() < 40, "{} connections within seconds", proxy.accepted());
}

async fn a_killed_etcd_loses_nothing_a_watch_was_to_see() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let start = registry.list("/").await.unwrap().revision;
    let mut watch = registry.watch("/", start).await.unwrap();
    let writing = async {
        let mut acknowledged = Vec::new();
        for n in 0..300 {
            if n % 100 == 50 {
                world.etcd().kill();
                world.etcd().start();
                answers(&registry).await;
            }
            if let Ok(revision) = registry.put("/a", n.to_string()).await {
                acknowledged.push(revision);
            }
        }
        acknowledged
    };
    let reading = async {
        let mut seen = Vec::new();
        loop {
            match next(&mut watch).await.unwrap() {
                Event::Put(entry) => {
                    let is_last = entry.value == "299";
                    seen.push(entry.modified);
                    if is_last {
                        return seen;
                    }
                }
                other => panic!("nothing else happens: {other:?}"),
            }
        }
    };
    let (acknowledged, seen) = tokio::join!(writing, reading);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "each once, in order");
    assert!(acknowledged.iter().all(|revision| seen.contains(revision)));
}

async fn a_lease_outlives_a_killed_etcd_while_it_is_kept_alive() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let lease = registry.grant(Duration::from_secs(5)).await.unwrap();
    let attached = Operation::Put { key: "/a".to_owned(), value: "x".into(), lease: Some(lease) };
    let put = registry.commit(Txn { compares: Vec::new(), operations: vec![attached] }).await.unwrap();
    let mut watch = registry.watch("/", put.revision).await.unwrap();
    for _ in 0..3 {
        world.etcd().kill();
        assert!(registry.keep_alive(lease).await.unwrap_err().is_transient(), "it is not known to be gone");
        world.etcd().start();
        answers(&registry).await;
        timeout(PATIENCE, async {
            while registry.keep_alive(lease).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
    }
    assert!(registry.get("/a").await.unwrap().is_some());
    assert!(matches!(next(&mut watch).await, Ok(Event::Delete { key, .. }) if key == "/a"));
    assert!(matches!(registry.keep_alive(lease).await, Err(RegistryError::NoSuchLease(_))));
}
