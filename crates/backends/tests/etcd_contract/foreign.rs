//! What other people's clients write.

use std::time::Duration;

use backends::registry::{Event, LeaseId};

use crate::world::{World, connect, next};

crate::tests! {
    a_value_put_with_etcdctl_is_seen_exactly_as_it_is
    a_heartbeat_under_a_foreign_lease_comes_and_goes
    a_key_that_is_not_text_is_passed_over
}

async fn a_value_put_with_etcdctl_is_seen_exactly_as_it_is() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let start = registry.list("/monitor/config/").await.unwrap().revision;
    let mut watch = registry.watch("/monitor/config/", start).await.unwrap();
    let config = r#"{"interval": 1, "plugins": ["aggregation"]}"#;
    world.etcd().etcdctl(&["put", "/monitor/config/agent-001", config]);
    let Event::Put(entry) = next(&mut watch).await.unwrap() else { panic!("it was put") };
    assert_eq!((entry.key.as_str(), entry.value.as_ref()), ("/monitor/config/agent-001", config.as_bytes()));
    assert_eq!(registry.get("/monitor/config/agent-001").await.unwrap(), Some(entry));
    registry.put("/monitor/config/agent-002", "{}").await.unwrap();
    let listed = world.etcd().etcdctl(&["get", "--prefix", "/monitor/config/"]);
    assert_eq!(listed, format!("/monitor/config/agent-001\n{config}\n/monitor/config/agent-002\n{{}}\n"));
}

async fn a_heartbeat_under_a_foreign_lease_comes_and_goes() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let start = registry.list("/monitor/heartbeat/").await.unwrap().revision;
    let mut watch = registry.watch("/monitor/heartbeat/", start).await.unwrap();
    let granted = world.etcd().etcdctl(&["lease", "grant", "2"]);
    let lease = granted.split_whitespace().nth(1).unwrap();
    world.etcd().etcdctl(&["put", "--lease", lease, "/monitor/heartbeat/worker1", "alive"]);
    let Event::Put(entry) = next(&mut watch).await.unwrap() else { panic!("it was put") };
    assert_eq!(entry.lease, Some(LeaseId(i64::from_str_radix(lease, 16).unwrap())));
    assert_eq!(entry.value, "alive");
    assert!(matches!(next(&mut watch).await, Ok(Event::Delete { .. })), "its lease has ended");
}

async fn a_key_that_is_not_text_is_passed_over() {
    let world = World::new().await;
    let registry = connect(&world.options());
    let start = registry.list("/").await.unwrap().revision;
    let mut watch = registry.watch("/", start).await.unwrap();
    // One transaction, so that the key is among others.
    let script = "\nput \"/\\xff\" x\nput /a x\n\n\n";
    world.etcd().etcdctl_with(&["txn", "--interactive=false"], script);
    assert!(matches!(next(&mut watch).await, Ok(Event::Put(entry)) if entry.key == "/a"));
    let snapshot = registry.list("/").await.unwrap();
    assert_eq!(snapshot.entries.len(), 1);
    assert!(tokio::time::timeout(Duration::from_millis(200), watch.next()).await.is_err());
}
