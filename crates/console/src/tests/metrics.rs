//! What was measured and is being measured.

use super::*;

fn sequences(records: &Value) -> Vec<u64> {
    records.as_array().unwrap().iter().map(|record| record["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn records_come_oldest_first_as_they_were_measured() {
    let world = World::new().await;
    world.measure("web-1", 5).await;
    let records = world.get("/api/v1/metrics?agent=web-1&since=1h").await.ok();
    assert_eq!(sequences(&records), [1, 2, 3, 4, 5]);
    assert_eq!(records[0]["series"][1], json!({"name": "system.disk.io", "value": 1.0}));
    assert_eq!(sequences(&world.get("/api/v1/metrics?agent=web-1&agent=web-2").await.ok()), [1, 2, 3, 4, 5]);
    assert_eq!(world.get("/api/v1/metrics?agent=web-2").await.ok(), json!([]));
    world.end().await;
}

#[tokio::test]
async fn a_window_a_selector_and_a_limit_choose_records() {
    let world = World::new().await;
    world.measure("web-1", 5).await;
    world.measure("db-1", 2).await;
    let all = world.get("/api/v1/metrics?agent=web-1").await.ok();
    let (since, until) = (all[1]["timestamp"].as_str().unwrap(), all[3]["timestamp"].as_str().unwrap());
    let window = format!("/api/v1/metrics?agent=web-1&since={since}&until={until}");
    assert_eq!(sequences(&world.get(&window).await.ok()), [2, 3]);
    assert_eq!(sequences(&world.get("/api/v1/metrics?selector=role%3Ddb").await.ok()), [1, 2]);
    assert_eq!(world.get("/api/v1/metrics?selector=role%3Ddb&agent=web-1").await.ok(), json!([]));
    let request = Request::get("/api/v1/metrics?agent=web-1&limit=2").body(Body::empty()).unwrap();
    let response = world.ask(request).await;
    assert_eq!(response.headers()["watchfloor-left-out"], "3");
    assert_eq!(sequences(&read(response).await.ok()), [4, 5]);
    world.end().await;
}

#[tokio::test]
async fn a_step_makes_one_record_of_many() {
    let world = World::new().await;
    world.measure("web-1", 4).await;
    let records = world.get("/api/v1/metrics?agent=web-1&step=1d&series=system").await.ok();
    let records = records.as_array().unwrap();
    // At midnight there are two.
    assert!((1..=2).contains(&records.len()), "{records:?}");
    let last = records.last().unwrap();
    assert_eq!(last["series"], json!([{"name": "system.disk.io", "value": 4.0}]));
    assert_eq!(last["sequence"], 4);
    world.end().await;
}

#[tokio::test]
async fn the_latest_is_one_record_per_agent() {
    let world = World::new().await;
    world.measure("web-1", 3).await;
    world.measure("db-1", 2).await;
    let latest = world.get("/api/v1/metrics?latest=true").await.ok();
    assert_eq!(ids(&latest, "agent_id"), ["db-1", "web-1"]);
    assert_eq!(sequences(&latest), [2, 3]);
    let chosen = world.get("/api/v1/metrics?latest=true&selector=role%3Ddb&series=load").await.ok();
    assert_eq!(
        (ids(&chosen, "agent_id"), chosen[0]["series"].as_array().unwrap().len()),
        (vec!["db-1".to_owned()], 1)
    );
    world.end().await;
}

#[tokio::test]
async fn a_large_answer_is_one_valid_array() {
    let world = World::new().await;
    world.measure("web-1", 1_500).await;
    let records = world.get("/api/v1/metrics?agent=web-1").await.ok();
    assert_eq!(sequences(&records), (1..=1_500).collect::<Vec<_>>());
    world.end().await;
}

#[tokio::test]
async fn questions_that_mean_nothing_are_refused() {
    let world = World::new().await;
    for (query, said) in [
        ("limit=0", "limit"),
        ("limit=100001", "100000"),
        ("limit=x", "limit is \"x\": give 1 to 100000"),
        ("since=yesterday", "since"),
        ("since=-1h", "since"),
        ("step=0", "step"),
        ("step=1ms", "step"),
        ("latest=yes", "true or false"),
        ("latest=true&since=1h", "exclude"),
        ("agents=web-1", "did you mean \"agent\""),
        ("agent=a/b", "agent id"),
    ] {
        let got = world.get(&format!("/api/v1/metrics?{query}")).await;
        assert!(got.refused(400).contains(said), "{query}: {}", got.body);
    }
    assert!(world.get("/api/v1/metrics?agent=web-7").await.refused(404).contains("web-7"));
    world.get("/api/v1/metrics/live?agent=web-7").await.refused(404);
    world.get("/api/v1/metrics/live?since=1h").await.refused(400);
    world.end().await;
}

#[tokio::test]
async fn the_live_tail_gives_what_comes_and_was_asked_for() {
    let world = World::new().await;
    world.measure("web-1", 2).await;
    let mut one = world.stream("/api/v1/metrics/live?agent=web-1&series=load").await;
    let mut labelled = world.stream("/api/v1/metrics/live?selector=role%3Ddb").await;
    let begin = clock::wall();
    world.publish(MONITORING_DATA, "db-1", &tick("db-1", begin, 8)).await;
    world.publish(MONITORING_DATA, "web-1", &tick("web-1", begin, 9)).await;
    let (name, record) = one.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &record["agent_id"], &record["sequence"]),
        ("data", &json!("web-1"), &json!(9))
    );
    assert_eq!(record["series"].as_array().unwrap().len(), 1);
    assert_eq!(labelled.next().await.unwrap().1["sequence"], 8);
    world.stop.cancel();
    assert_eq!(one.next().await, None);
    world.end().await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_how_much_it_lost() {
    let world = World::new().await;
    let mut slow = world.stream("/api/v1/metrics/live").await;
    let sent = limit::LIVE_TAIL_RECORDS_MAX as u64 * 2;
    world.measure("web-1", sent).await;
    let (name, lost) = slow.next().await.unwrap();
    assert_eq!(name, "lost");
    let first = slow.next().await.unwrap().1["sequence"].as_u64().unwrap();
    assert_eq!(lost["records"].as_u64().unwrap(), first - 1);
    world.end().await;
}

#[tokio::test]
async fn live_streams_are_limited_and_a_closed_one_makes_room() {
    let world = World::new().await;
    let mut open = Vec::new();
    for _ in 0..limit::LIVE_STREAMS_MAX {
        open.push(world.stream("/api/v1/metrics/live").await);
    }
    assert!(world.get("/api/v1/metrics/live").await.refused(503).contains("open already"));
    open.pop();
    world.stream("/api/v1/metrics/live").await;
    world.end().await;
}
