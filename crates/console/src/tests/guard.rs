//! What is refused before anything is done.

use super::*;

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test]
async fn a_foreign_name_for_a_loopback_listener_is_refused_everywhere() {
    let world = World::new().await;
    let ask = async |host: &str, path: &str| {
        read(world.ask(request("GET", path, &[("host", host)], "")).await).await
    };
    for path in ["/", "/api/v1/agents", "/metrics", "/livez"] {
        assert!(ask("evil.example:8090", path).await.refused(421).contains("evil.example"), "{path}");
        assert_eq!(ask("localhost:8090", path).await.status, 200, "{path}");
    }
    let open = router_for(world.console.clone(), Hosts::Any);
    let response = open.oneshot(request("GET", "/livez", &[("host", "monitor.example")], "")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    world.end().await;
}

#[tokio::test]
async fn only_json_is_written() {
    let world = World::new().await;
    let order = r#"{"target":"all","type":"STOP"}"#;
    for (method, path) in [
        ("POST", "/api/v1/commands"),
        ("PUT", "/api/v1/config/agents/web-1"),
        ("POST", "/api/v1/config/agents/web-1/rollback"),
        ("POST", "/api/v1/config/validate"),
    ] {
        for headers in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "application/x-www-form-urlencoded")],
        ] {
            read(world.ask(request(method, path, headers, order)).await).await.refused(415);
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_body_is_bounded_and_read_strictly() {
    let world = World::new().await;
    let json = [("content-type", "application/json")];
    let post =
        async |body: &str| read(world.ask(request("POST", "/api/v1/commands", &json, body)).await).await;
    post(&"x".repeat(limit::HTTP_BODY_BYTES_MAX + 1)).await.refused(413);
    assert!(post("{").await.refused(400).starts_with("the body is not JSON: "));
    assert!(post("[]").await.refused(422).starts_with("the body does not fit: "));
    world.end().await;
}

#[tokio::test]
async fn every_answer_is_marked_and_none_opens_the_door_to_other_sites() {
    let world = World::new().await;
    for path in ["/", "/api/v1/agents", "/nowhere", "/metrics"] {
        let response = world.ask(request("GET", path, &[("origin", "http://evil.example")], "")).await;
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")), "{path}");
    }
    world.end().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let world = World::new().await;
    assert!(world.get("/api/v1/agnets").await.refused(404).contains("/api/v1/agnets"));
    assert!(world.send("POST", "/api/v1/agents", &json!({})).await.refused(405).contains("POST"));
    world.end().await;
}
