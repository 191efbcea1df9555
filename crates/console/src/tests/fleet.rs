//! Who is there.

use super::*;

#[tokio::test]
async fn agents_are_listed_with_presence_standing_and_newest_data() {
    let world = World::new().await;
    world.measure("web-1", 2).await;
    let agents = world.get("/api/v1/agents").await.ok();
    assert_eq!(ids(&agents, "agent_id"), ["db-1", "web-1", "web-2", "web-9"]);
    assert_eq!(ids(&agents, "status"), ["SHUTDOWN", "ONLINE", "OFFLINE", "NEVER_SEEN"]);
    assert_eq!(agents[1]["standing"], "pending");
    assert!(agents[1]["last_data"].is_string() && agents[2]["last_data"].is_null(), "{agents}");
    let web = world.get("/api/v1/agents?selector=role%3Dweb").await.ok();
    assert_eq!(ids(&web, "agent_id"), ["web-1", "web-2"]);
    world.end().await;
}

#[tokio::test]
async fn one_agent_is_found_by_its_id_and_a_stranger_is_not() {
    let world = World::new().await;
    let agent = world.get("/api/v1/agents/web-1").await.ok();
    let read: proto::api::Agent = serde_json::from_value(agent).unwrap();
    assert_eq!(read.entry.labels["role"], "web");
    assert!(world.get("/api/v1/agents/web-7").await.refused(404).contains("web-7"));
    world.get("/api/v1/agents/a%20b").await.refused(400);
    world.end().await;
}

#[tokio::test]
async fn what_nobody_knows_in_a_query_is_named_with_what_was_meant() {
    let world = World::new().await;
    let message = world.get("/api/v1/agents?selektor=role%3Ddb").await.refused(400).to_owned();
    assert!(message.contains("did you mean \"selector\""), "{message}");
    assert!(world.get("/api/v1/agents?selector=role").await.refused(400).contains("no operator"));
    assert!(world.get("/api/v1/agents?selector=a%3Db&selector=c%3Dd").await.refused(400).contains("twice"));
    world.get("/api/v1/agents/web-1?x=1").await.refused(400);
    world.get("/api/v1/topology?x=1").await.refused(400);
    world.end().await;
}

#[tokio::test]
async fn servers_analyses_leaders_and_health_are_shown() {
    let world = World::new().await;
    let server = json!({
        "server_id": "s1", "server_incarnation": "r1", "grpc": "127.0.0.1:1", "version": "0", "started": 1
    });
    world.put("/monitor/servers/s1", &server).await;
    world.put("/monitor/leader/monitor", &json!({"id": "m1", "since": 1})).await;
    let (announcing, registry) = (Scope::new("test"), world.console.backends.registry.clone());
    let component = world.console.ops.health.component("key");
    let (id, http) = ("a1".to_owned(), "127.0.0.1:8090".to_owned());
    announcing.spawn("announce", analysis::announce(registry, id, http, component, announcing.stopping()));
    let fleet = &world.console.fleet;
    let all = || !fleet.servers().is_empty() && !fleet.leaders().is_empty() && !fleet.analyses().is_empty();
    fleet.changes().wait_for(|_| all()).await.unwrap();
    let topology = world.get("/api/v1/topology").await.ok();
    assert_eq!(ids(&topology["servers"], "server_id"), ["s1"]);
    assert_eq!(topology["servers"][0]["agents"], 1, "web-1; the others are not connected");
    assert_eq!(
        (&topology["analysis"][0]["analysis_id"], &topology["analysis"][0]["http"]),
        (&json!("a1"), &json!("127.0.0.1:8090"))
    );
    assert_eq!(topology["leaders"]["monitor"]["id"], "m1");

    announcing.stop(Duration::from_secs(5)).await.unwrap();
    fleet.changes().wait_for(|_| fleet.analyses().is_empty()).await.unwrap();
    let health = world.get("/api/v1/health").await.ok();
    assert!(health["components"]["analysis monitoring-data"].is_object(), "{health}");
    world.end().await;
}

#[tokio::test]
async fn an_agent_of_another_program_is_shown_with_its_presence_and_takes_no_commands() {
    let world = World::new().await;
    let status = |agent: &str, status: &str, reason: &str| json!({"agent_id": agent, "status": status, "reason": reason, "timestamp": "2026-01-01T00:00:00Z"});
    let fleet = &world.console.fleet;
    let is = async |agent: &str, wanted: &str| {
        let id = AgentId::new(agent).unwrap();
        let seen = |_: &u64| fleet.agent(&id).is_some_and(|entry| entry.status.label() == wanted);
        fleet.changes().wait_for(seen).await.unwrap();
        world.get(&format!("/api/v1/agents/{agent}")).await.ok()
    };
    world.publish(AGENT_STATUS, "worker1", &status("worker1", "ONLINE", "foreign_key")).await;
    let worker = is("worker1", "ONLINE").await;
    assert_eq!((&worker["reason"], &worker["client"]), (&json!("foreign_key"), &json!("foreign")));
    assert_eq!(worker["since"], "2026-01-01T00:00:00.000Z");
    assert!(ids(&world.get("/api/v1/agents").await.ok(), "agent_id").contains(&"worker1".to_owned()));
    let order = |target: Value| json!({"target": target, "type": "STATUS"});
    let named = world.send("POST", "/api/v1/commands", &order(json!({"agents": ["worker1"]}))).await;
    assert!(named.refused(422).contains("another program"));
    let all = world.send("POST", "/api/v1/commands", &order(json!("all"))).await;
    assert_eq!(all.body["agents"], json!(["web-1", "web-2"]));

    world.publish(AGENT_STATUS, "worker1", &status("worker1", "OFFLINE", "foreign_key_gone")).await;
    assert_eq!(is("worker1", "OFFLINE").await["reason"], "foreign_key_gone");

    // One of ours that is gone, and whose name another program uses; a session of ours says more than its key.
    for agent in ["web-1", "web-2"] {
        world.publish(AGENT_STATUS, agent, &status(agent, "ONLINE", "foreign_key")).await;
    }
    assert_eq!(is("web-2", "ONLINE").await["reason"], "foreign_key");
    assert_eq!(is("web-1", "ONLINE").await["reason"], "connected");
    world.end().await;
}
