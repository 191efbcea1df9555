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
    world.get("/api/v1/servers?x=1").await.refused(400);
    world.end().await;
}

#[tokio::test]
async fn servers_and_health_are_shown() {
    let world = World::new().await;
    let server = json!({
        "server_id": "s1", "server_incarnation": "r1", "grpc": "127.0.0.1:1", "version": "0", "started": 1
    });
    world.put("/monitor/servers/s1", &server).await;
    let fleet = &world.console.fleet;
    fleet.changes().wait_for(|_| !fleet.servers().is_empty()).await.unwrap();
    assert_eq!(ids(&world.get("/api/v1/servers").await.ok(), "server_id"), ["s1"]);
    let health = world.get("/api/v1/health").await.ok();
    assert!(health["components"]["analysis monitoring-data"].is_object(), "{health}");
    world.end().await;
}
