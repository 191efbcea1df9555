//! Much of everything.

use std::time::Duration;

use backends::registry::{Event, Operation, RegistryError, Txn};
use tokio::time::timeout;

use crate::world::{World, connect, next};

crate::tests! {
    a_listing_of_many_keys_is_whole_and_in_order
    a_listing_larger_than_one_answer_comes_in_parts
    a_catch_up_larger_than_one_message_comes_whole
    watches_that_nobody_reads_stall_no_call
    of_several_leases_the_one_that_ended_is_named
    what_etcd_will_never_take_is_not_called_passing
}

fn put(key: String, value: String) -> Operation {
    Operation::Put { key, value: value.into(), lease: None }
}

async fn a_listing_of_many_keys_is_whole_and_in_order() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let keys: Vec<String> = (0..2_500).map(|n| format!("/t/{n:04}")).collect();
    for some in keys.chunks(100) {
        let operations = some.iter().map(|key| put(key.clone(), String::new())).collect();
        registry.commit(Txn { compares: Vec::new(), operations }).await.unwrap();
    }
    let listed: Vec<String> =
        registry.list("/t/").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(listed, keys);
}

async fn a_listing_larger_than_one_answer_comes_in_parts() {
    let world = World::new().await;
    let registry = connect(&world.options());
    for n in 0..70 {
        registry.put(&format!("/t/{n:02}"), "x".repeat(1024 * 1024)).await.unwrap();
    }
    assert_eq!(registry.list("/t/").await.unwrap().entries.len(), 70);
}

async fn a_catch_up_larger_than_one_message_comes_whole() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let start = registry.list("/").await.unwrap().revision;
    for n in 0..80 {
        registry.put(&format!("/t/{n:02}"), "x".repeat(1024 * 1024)).await.unwrap();
    }
    let mut watch = registry.watch("/t/", start).await.unwrap();
    for n in 0..80 {
        let Event::Put(entry) = next(&mut watch).await.unwrap() else { panic!("only puts happen") };
        assert_eq!(entry.key, format!("/t/{n:02}"));
    }
}

async fn watches_that_nobody_reads_stall_no_call() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let start = registry.list("/").await.unwrap().revision;
    let mut watches = Vec::new();
    for _ in 0..40 {
        watches.push(registry.watch("/", start).await.unwrap());
    }
    // More events than a watch buffers, and more bytes than the connection's window.
    let value = "x".repeat(20_000);
    for n in 0..400 {
        let put = registry.put("/a", format!("{n} {value}"));
        timeout(Duration::from_secs(4), put).await.expect("calls go on").unwrap();
    }
    for watch in &mut watches {
        for n in 0..400 {
            let Event::Put(entry) = next(watch).await.unwrap() else { panic!("only puts happen") };
            assert!(entry.value.starts_with(format!("{n} ").as_bytes()));
        }
    }
}

async fn of_several_leases_the_one_that_ended_is_named() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(registry.grant(Duration::from_secs(30)).await.unwrap());
    }
    for ended in leases.clone() {
        registry.revoke(ended).await.unwrap();
        let attached =
            |lease: &_| Operation::Put { key: format!("/{lease:?}"), value: "x".into(), lease: Some(*lease) };
        let operations = leases.iter().map(attached).collect();
        let refused = registry.commit(Txn { compares: Vec::new(), operations }).await.unwrap_err();
        assert!(matches!(refused, RegistryError::NoSuchLease(lease) if lease == ended), "{refused}");
        leases.retain(|lease| *lease != ended);
    }
}

async fn what_etcd_will_never_take_is_not_called_passing() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let many: Vec<Operation> = (0..200).map(|n| put(format!("/{n}"), String::new())).collect();
    let large = (0..4).map(|n| put(format!("/{n}"), "x".repeat(1024 * 1024))).collect();
    let twice = vec![put("/a".to_owned(), String::new()), put("/a".to_owned(), String::new())];
    for operations in [many, large, twice] {
        let refused = registry.commit(Txn { compares: Vec::new(), operations }).await.unwrap_err();
        assert!(matches!(refused, RegistryError::Store { .. }), "{refused}");
    }
}
