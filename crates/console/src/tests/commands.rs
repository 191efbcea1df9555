//! Orders, and what became of them.

use backends::bus::{StartAt, Subscription};
use proto::record::{CommandRecord, JSON};

use super::*;

async fn published(world: &World) -> Subscription {
    world.bus.subscribe(COMMANDS, StartAt::Earliest).await.unwrap()
}

async fn next(subscription: &mut Subscription) -> CommandRecord {
    let record = subscription.next().await.unwrap().unwrap();
    assert_eq!(record.headers["content-type"], JSON);
    let command: CommandRecord = serde_json::from_slice(&record.value).unwrap();
    assert_eq!(record.key, command.agent_id.as_str());
    command
}

/// How many commands were ever published.
async fn count(world: &World) -> u64 {
    world.bus.extents(COMMANDS).await.unwrap().iter().map(|extent| extent.high).sum()
}

fn response(command: &Value, agent: &str, state: &str, last: bool) -> Value {
    json!({
        "command_id": command, "agent_id": agent, "type": "STOP", "state": state, "final": last,
        "success": state == "SUCCEEDED", "timestamp": clock::wall()
    })
}

#[tokio::test]
async fn an_order_is_on_the_bus_for_each_agent_before_it_is_answered() {
    let world = World::new().await;
    let order = json!({
        "target": {"agents": ["web-1", "web-2", "web-1"]}, "type": "STOP", "params": {"why": "test"},
        "timeout_seconds": 2.5, "issued_by": "ann"
    });
    let got = world.send("POST", "/api/v1/commands", &order).await;
    assert_eq!((got.status, &got.body["agents"]), (202, &json!(["web-1", "web-2"])));
    assert_eq!(count(&world).await, 2);
    let mut bus = published(&world).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let command = next(&mut bus).await;
        assert_eq!(command.command_id.map(String::from).as_deref(), got.body["command_id"].as_str());
        let (from, to) = (command.timestamp.unwrap(), command.expires_at.unwrap());
        assert_eq!(
            (to.since(from), command.issued_by.as_deref()),
            (Duration::from_millis(2_500), Some("ann"))
        );
        assert_eq!(command.params["why"], "test");
        seen.push(command.agent_id);
    }
    seen.sort();
    assert_eq!(seen, [agent("web-1"), agent("web-2")]);
    world.end().await;
}

#[tokio::test]
async fn selectors_and_all_mean_who_is_in_the_inventory_now() {
    let world = World::new().await;
    for (target, agents) in [
        (json!({"selector": "role=web"}), json!(["web-1", "web-2"])),
        (json!({"selector": "role=db"}), json!(["db-1"])),
        // Not the one that is shut down, nor the one that never came.
        (json!("all"), json!(["web-1", "web-2"])),
        // Config is enough to be known by name.
        (json!({"agents": ["web-9"]}), json!(["web-9"])),
    ] {
        let got = world.send("POST", "/api/v1/commands", &json!({"target": target, "type": "STATUS"})).await;
        assert_eq!((got.status, &got.body["agents"]), (202, &agents), "{target}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_refused_order_publishes_nothing() {
    let world = World::new().await;
    let web = json!({"agents": ["web-1"]});
    let large = json!({"text": "x".repeat(70_000)});
    for (status, order, said) in [
        (404, json!({"target": {"agents": ["web-1", "web-7"]}, "type": "STOP"}), "web-7"),
        (422, json!({"target": {"selector": "role=mail"}, "type": "STOP"}), "role=mail"),
        (422, json!({"target": {"selector": "role"}, "type": "STOP"}), "no operator"),
        (422, json!({"target": {"agents": []}, "type": "STOP"}), "empty"),
        (422, json!({"target": {"agents": ["../x"]}, "type": "STOP"}), "agent id"),
        (422, json!({"target": web, "type": "REBOOT"}), "REBOOT"),
        (422, json!({"target": web, "type": "STOP", "timeout_seconds": 0}), "timeout_seconds"),
        (422, json!({"target": web, "type": "STOP", "timeout_seconds": -1e300}), "timeout_seconds"),
        (422, json!({"target": web, "type": "STOP", "timeout_seconds": 86_401}), "86400"),
        (422, json!({"target": web, "type": "STOP", "priority": 1}), "priority"),
        (422, json!({"target": web, "type": "STOP", "issued_by": "a\nb"}), "printable"),
        (422, json!({"target": web, "type": "STOP", "command_id": "a b"}), "command id"),
        (413, json!({"target": web, "type": "STOP", "params": large}), "params"),
    ] {
        let got = world.send("POST", "/api/v1/commands", &order).await;
        assert!(got.refused(status).contains(said), "{said}: {}", got.body);
    }
    assert_eq!(count(&world).await, 0);
    world.end().await;
}

#[tokio::test]
async fn the_same_id_acts_once_and_another_content_under_it_is_refused() {
    let world = World::new().await;
    let order = json!({"target": {"agents": ["web-1"]}, "type": "STOP", "command_id": "mine"});
    let first = world.send("POST", "/api/v1/commands", &order).await.ok();
    let again = world.send("POST", "/api/v1/commands", &order).await.ok();
    assert_eq!(first, again);
    assert_eq!(count(&world).await, 1);
    for (field, value) in [
        ("type", json!("START")),
        ("target", json!({"agents": ["web-2"]})),
        ("params", json!({"a": 1})),
        ("timeout_seconds", json!(31)),
        ("issued_by", json!("bob")),
    ] {
        let mut other = order.clone();
        other[field] = value;
        assert!(
            world.send("POST", "/api/v1/commands", &other).await.refused(409).contains("mine"),
            "{field}"
        );
    }
    assert_eq!(count(&world).await, 1);
    world.end().await;
}

#[tokio::test]
async fn equal_orders_at_one_time_act_once() {
    let world = World::new().await;
    let order = json!({"target": "all", "type": "STATUS", "command_id": "mine"});
    let send = || world.send("POST", "/api/v1/commands", &order);
    let (a, b, c) = tokio::join!(send(), send(), send());
    assert!(a.status == 202 && a.body == b.body && b.body == c.body);
    assert_eq!(count(&world).await, 2);
    world.end().await;
}

#[tokio::test]
async fn a_command_is_found_at_once_and_shows_who_is_still_open() {
    let world = World::new().await;
    let order = json!({"target": {"selector": "role=web"}, "type": "STOP"});
    let id = world.send("POST", "/api/v1/commands", &order).await.ok()["command_id"].clone();
    let path = format!("/api/v1/commands/{}", id.as_str().unwrap());
    let command = world.get(&path).await.ok();
    assert_eq!((&command["open"], &command["responses"]), (&json!(["web-1", "web-2"]), &json!([])));

    let mut live = world.stream(&format!("{path}/live")).await;
    world.publish(COMMAND_RESPONSES, "web-2", &response(&id, "web-2", "SUCCEEDED", true)).await;
    let (name, told) = live.next().await.unwrap();
    assert_eq!((name.as_str(), &told["agent_id"]), ("response", &json!("web-2")));
    let command = world.get(&path).await.ok();
    assert_eq!(
        (&command["open"], ids(&command["responses"], "state")),
        (&json!(["web-1"]), vec!["SUCCEEDED".to_owned()])
    );
    world.publish(COMMAND_RESPONSES, "web-1", &response(&id, "web-1", "EXPIRED", true)).await;
    assert_eq!(live.next().await.unwrap().1["state"], "EXPIRED");
    assert_eq!(live.next().await.unwrap().0, "done");
    assert_eq!(live.next().await, None);
    world.end().await;
}

#[tokio::test]
async fn what_a_person_typed_into_a_kafka_console_is_listed_too() {
    let world = World::new().await;
    world.publish(COMMANDS, "web-1", &json!({"agent_id": "web-1", "type": "STATUS"})).await;
    let book = &world.console.commands;
    book.changes().wait_for(|_| !book.list(1).is_empty()).await.unwrap();
    let listed = world.get("/api/v1/commands?limit=5").await.ok();
    assert!(listed[0]["command_id"].as_str().unwrap().starts_with("c-"), "{listed}");
    world.end().await;
}

#[tokio::test]
async fn strangers_among_commands_are_not_found() {
    let world = World::new().await;
    assert!(world.get("/api/v1/commands/nope").await.refused(404).contains("nope"));
    world.get("/api/v1/commands/nope/live").await.refused(404);
    world.get("/api/v1/commands/a%2Fb").await.refused(400);
    world.get("/api/v1/commands?limit=0").await.refused(400);
    world.end().await;
}

#[tokio::test]
async fn without_a_bus_or_an_inventory_an_order_waits_for_a_better_time() {
    let world = World::new().await;
    world.bus.close().await.unwrap();
    let order = json!({"target": {"agents": ["web-1"]}, "type": "STOP"});
    let message = world.send("POST", "/api/v1/commands", &order).await.refused(503).to_owned();
    assert!(message.contains("closed"), "{message}");
    world.end().await;
}
