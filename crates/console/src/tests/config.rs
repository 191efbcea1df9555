//! Config: read, written with its author, checked, rolled back.

use proto::key::{self, HistoryEntry, Target};

use super::*;

const WEB: &str = "/api/v1/config/agents/web-1";

async fn put(world: &World, path: &str, text: &str) -> Got {
    world.send("PUT", path, &json!({ "text": text })).await
}

/// As the monitor records it.
async fn observed(world: &World, of: &Target, revision: u64, text: Option<&str>) {
    let version = HistoryEntry {
        revision: Revision(revision),
        at: clock::wall(),
        by: "ann".to_owned(),
        value: text.map(str::to_owned),
    };
    world.put(&key::history(of, version.revision), &serde_json::to_value(&version).unwrap()).await;
}

fn web() -> Target {
    Target::Agent(agent("web-1"))
}

#[tokio::test]
async fn a_config_is_written_as_it_is_with_its_author_at_one_revision() {
    let world = World::new().await;
    let text = "{ \"interval\": 2 }\n";
    let revision = world.send("PUT", WEB, &json!({"text": text, "by": "ann"})).await.ok()["revision"].clone();
    assert_eq!(world.get(WEB).await.ok(), json!({"text": text, "revision": revision}));
    let registry = &world.console.backends.registry;
    let author = registry.get(&key::author(&web())).await.unwrap().unwrap();
    assert_eq!((json!(author.modified), &author.value[..]), (revision.clone(), &br#"{"by":"ann"}"#[..]));
    let fleet = &world.console.fleet;
    fleet.changes().wait_for(|_| fleet.configs().len() == 2).await.unwrap();
    let listed = world.get("/api/v1/config").await.ok();
    assert_eq!(listed[0], json!({"kind": "agent", "name": "web-1", "revision": revision}));
    world.end().await;
}

#[tokio::test]
async fn an_expected_revision_guards_against_others() {
    let world = World::new().await;
    let write = |text: &str, expect: Value| json!({"text": text, "expect_revision": expect});
    let first = world.send("PUT", WEB, &write("{}", json!(0))).await.ok()["revision"].clone();
    let again = world.send("PUT", WEB, &write("{}", json!(0))).await;
    assert!(again.refused(409).contains(&first.to_string()), "{}", again.body);
    let second =
        world.send("PUT", WEB, &write(r#"{"interval":2}"#, first.clone())).await.ok()["revision"].clone();
    let late = world.send("PUT", WEB, &write(r#"{"interval":3}"#, first.clone())).await;
    assert!(late.refused(409).contains(&second.to_string()), "{}", late.body);
    assert_eq!(world.get(WEB).await.ok()["text"], r#"{"interval":2}"#);
    world.delete(&format!("{WEB}?expect_revision={first}")).await.refused(409);
    world.delete(&format!("{WEB}?expect_revision={second}&by=ann")).await.ok();
    world.get(WEB).await.refused(404);
    world.delete(WEB).await.refused(404);
    world.delete(&format!("{WEB}?expect_revision=0")).await.refused(400);
    world.delete(&format!("{WEB}?expect_revision={second}")).await.refused(404);
    world.send("PUT", WEB, &write("{}", second)).await.refused(409);
    world.end().await;
}

#[tokio::test]
async fn a_faulty_config_is_refused_with_every_fault_unless_unchecked() {
    let world = World::new().await;
    let text = r#"{"interval":0,"colour":1}"#;
    let got = put(&world, WEB, text).await;
    assert!(got.refused(422).contains("agent web-1"), "{}", got.body);
    assert_eq!(ids(&got.body["faults"], "path"), ["colour", "interval"]);
    assert_eq!(ids(&put(&world, WEB, "nonsense").await.body["faults"], "stage"), ["PARSE"]);
    world.get(WEB).await.refused(404);
    world.send("PUT", WEB, &json!({"text": text, "unchecked": true})).await.ok();
    assert_eq!(world.get(WEB).await.ok()["text"], text);
    world.end().await;
}

#[tokio::test]
async fn what_is_right_alone_and_wrong_with_the_groups_is_refused() {
    let world = World::new().await;
    let rules = |from: usize, to: usize| -> Value {
        let named = (from..to).map(|n| (format!("series.{n}"), json!(1)));
        json!({"thresholds": serde_json::Map::from_iter(named)})
    };
    let half = limit::RULES_PER_PLUGIN_MAX / 2 + 1;
    let group = json!({"selector": "role=web", "config": rules(0, half)});
    put(&world, "/api/v1/config/groups/web", &group.to_string()).await.ok();
    let own = rules(half, 2 * half).to_string();
    put(&world, "/api/v1/config/agents/db-1", &own).await.ok();
    let got = put(&world, WEB, &own).await;
    got.refused(422);
    assert_eq!(ids(&got.body["faults"], "path"), ["thresholds"]);
    let check = |agent: &str| json!({"text": own, "agent": agent});
    let verdict = world.send("POST", "/api/v1/config/validate", &check("web-1")).await.ok();
    assert_eq!(verdict["ok"], false);
    assert_eq!(world.send("POST", "/api/v1/config/validate", &check("db-1")).await.ok()["ok"], true);
    world.end().await;
}

#[tokio::test]
async fn a_group_needs_a_selector_and_a_sound_config() {
    let world = World::new().await;
    let path = "/api/v1/config/groups/web";
    for (text, fault) in [
        (r#"{"config":{}}"#, "selector"),
        (r#"{"selector":"role","config":{}}"#, "selector"),
        (r#"{"selector":"role=web","config":{"interval":0}}"#, "interval"),
    ] {
        let got = put(&world, path, text).await;
        got.refused(422);
        assert_eq!(ids(&got.body["faults"], "path"), [fault], "{text}");
    }
    put(&world, path, r#"{"selector":"role=web","priority":5,"config":{"interval":3}}"#).await.ok();
    world.end().await;
}

#[tokio::test]
async fn the_effective_config_says_where_each_key_came_from() {
    let world = World::new().await;
    let group = r#"{"selector":"role=web","config":{"interval":3,"window_size":5}}"#;
    put(&world, "/api/v1/config/groups/web", group).await.ok();
    let revision = put(&world, WEB, r#"{"interval":2}"#).await.ok()["revision"].clone();
    let effective = world.get("/api/v1/config/effective/web-1").await.ok();
    assert_eq!(effective["config"], json!({"interval": 2, "window_size": 5}));
    assert_eq!(effective["origin"], json!({"interval": "agent", "window_size": "group web"}));
    assert_eq!((&effective["revision"], effective["digest"].as_str().map(str::len)), (&revision, Some(16)));
    assert_eq!(world.get("/api/v1/config/effective/db-1").await.ok()["config"], json!({}));
    world.get("/api/v1/config/effective/web-7").await.refused(404);
    world.put("/monitor/groups/broken", &json!({"selector": "role=web", "config": 5})).await;
    let got = world.get("/api/v1/config/effective/web-1").await;
    got.refused(422);
    assert!(got.body["faults"][0]["message"].as_str().unwrap().contains("group broken"), "{}", got.body);
    // That is not the fault of whoever writes for the agent.
    put(&world, WEB, r#"{"interval":4}"#).await.ok();
    world.end().await;
}

#[tokio::test]
async fn a_rollback_writes_an_observed_version_again() {
    let world = World::new().await;
    let one = put(&world, WEB, r#"{"interval":1}"#).await.ok()["revision"].as_u64().unwrap();
    let two = put(&world, WEB, r#"{"interval":2}"#).await.ok()["revision"].as_u64().unwrap();
    for (revision, text) in [(one, Some(r#"{"interval":1}"#)), (two, Some(r#"{"interval":2}"#))] {
        observed(&world, &web(), revision, text).await;
    }
    let history = world.get(&format!("{WEB}/history")).await.ok();
    assert_eq!((&history[0]["revision"], &history[1]["revision"]), (&json!(two), &json!(one)));
    let rollback = format!("{WEB}/rollback");
    let three = world.send("POST", &rollback, &json!({"by": "ann"})).await.ok()["revision"].as_u64().unwrap();
    assert!(three > two);
    assert_eq!(world.get(WEB).await.ok(), json!({"text": r#"{"interval":1}"#, "revision": three}));
    world.send("POST", &rollback, &json!({"to": two})).await.ok();
    assert_eq!(world.get(WEB).await.ok()["text"], r#"{"interval":2}"#);
    assert!(world.send("POST", &rollback, &json!({"to": 999_999})).await.refused(404).contains("999999"));
    world.delete(WEB).await.ok();
    world.send("POST", &rollback, &json!({})).await.ok();
    assert_eq!(world.get(WEB).await.ok()["text"], r#"{"interval":2}"#);
    world.send("POST", "/api/v1/config/agents/db-1/rollback", &json!({})).await.refused(404);
    world.end().await;
}

#[tokio::test]
async fn a_version_that_was_faulty_or_none_is_not_rolled_back_to() {
    let world = World::new().await;
    observed(&world, &web(), 1, Some("broken")).await;
    observed(&world, &web(), 2, None).await;
    let rollback = format!("{WEB}/rollback");
    world.send("POST", &rollback, &json!({"to": 1})).await.refused(422);
    world.send("POST", &rollback, &json!({"to": 2})).await.refused(404);
    world.get(WEB).await.refused(404);
    world.end().await;
}

#[tokio::test]
async fn a_text_is_judged_without_being_written() {
    let world = World::new().await;
    let judge = async |body: Value| world.send("POST", "/api/v1/config/validate", &body).await;
    assert_eq!(judge(json!({"text": "{}"})).await.ok(), json!({"ok": true, "faults": []}));
    let verdict = judge(json!({"text": r#"{"interval":0}"#})).await.ok();
    assert_eq!(
        (&verdict["ok"], ids(&verdict["faults"], "path")),
        (&json!(false), vec!["interval".to_owned()])
    );
    assert_eq!(judge(json!({"text": "{}", "kind": "group"})).await.ok()["ok"], false);
    judge(json!({"text": "{}", "kind": "group", "agent": "web-1"})).await.refused(422);
    judge(json!({"text": "{}", "kind": "rack"})).await.refused(422);
    world.end().await;
}

#[tokio::test]
async fn paths_and_sizes_are_checked_first() {
    let world = World::new().await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(limit::CONFIG_BYTES_MAX));
    put(&world, WEB, &large).await.refused(413);
    world.send("PUT", WEB, &json!({"text": large, "unchecked": true})).await.refused(413);
    put(&world, "/api/v1/config/agents/a%20b", "{}").await.refused(400);
    assert!(world.get("/api/v1/config/racks/a").await.refused(404).contains("agents or groups"));
    world.send("PUT", WEB, &json!({"text": "{}", "expect": 1})).await.refused(422);
    world.get(&format!("{WEB}?x=1")).await.refused(400);
    world.end().await;
}
