//! Several endpoints, of which some do not answer.

use std::time::Duration;

use backends::registry::Event;
use backends::registry::etcd::Options;
use tokio::time::{Instant, timeout};

use crate::proxy::{Proxy, Way};
use crate::world::{PATIENCE, World, address, answers, connect, next};

crate::tests! {
    a_dead_endpoint_is_passed_over_unnoticed
    a_silent_endpoint_costs_one_call_and_then_nothing
    a_cluster_goes_on_when_the_member_in_use_is_killed
    a_watch_leaves_a_member_that_hangs
}

async fn a_dead_endpoint_is_passed_over_unnoticed() {
    let world = World::new().await;
    let endpoints = vec![format!("{}:2379", address()), world.etcd().endpoint()];
    let registry = connect(&Options::new(endpoints));
    let start = registry.put("/a", "1").await.unwrap();
    let mut watch = registry.watch("/", start).await.unwrap();
    let put = registry.put("/a", "2").await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(Event::Put(entry)) if entry.modified == put));
}

async fn a_silent_endpoint_costs_one_call_and_then_nothing() {
    let world = World::new().await;
    let silent = Proxy::before(String::new(), Way::Silent).await;
    let options = Options::new(vec![silent.endpoint(), world.etcd().endpoint()]);
    let registry = connect(&options);
    let began = Instant::now();
    assert!(registry.put("/a", "1").await.unwrap_err().is_transient());
    assert!(began.elapsed() < options.call_timeout + Duration::from_secs(1));
    registry.put("/a", "2").await.unwrap();
}

async fn a_cluster_goes_on_when_the_member_in_use_is_killed() {
    let world = World::of(3).await;
    let registry = connect(&world.options());
    let start = registry.put("/a", "0").await.unwrap();
    let mut watch = registry.watch("/", start).await.unwrap();
    let lease = registry.grant(Duration::from_secs(30)).await.unwrap();
    for etcd in &world.etcds[..2] {
        etcd.kill();
        answers(&registry).await;
        let put = registry.put("/a", "1").await.unwrap();
        assert!(matches!(next(&mut watch).await, Ok(Event::Put(entry)) if entry.modified == put));
        registry.keep_alive(lease).await.unwrap();
        etcd.start();
        answers(&connect(&Options::new(vec![etcd.endpoint()]))).await;
    }
}

async fn a_watch_leaves_a_member_that_hangs() {
    let world = World::of(3).await;
    let mut options = world.options();
    options.call_timeout = Duration::from_secs(2);
    options.ping_interval = Duration::from_secs(5);
    options.ping_timeout = Duration::from_secs(2);
    let registry = connect(&options);
    let start = registry.put("/a", "0").await.unwrap();
    let mut watch = registry.watch("/", start).await.unwrap();
    let first = registry.put("/a", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(Event::Put(entry)) if entry.modified == first));
    world.etcd().signal("STOP");
    answers(&registry).await;
    let put = registry.put("/a", "2").await.unwrap();
    // A put whose answer was lost may have happened too.
    let seen =
        async { while !matches!(next(&mut watch).await, Ok(Event::Put(entry)) if entry.modified == put) {} };
    timeout(PATIENCE, seen).await.unwrap();
    world.etcd().signal("CONT");
}
