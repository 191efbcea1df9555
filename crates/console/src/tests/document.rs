//! The document tells of every route, and nothing it names is missing.

use super::*;

/// Every `$ref` in a document.
fn references(json: &Value, found: &mut Vec<String>) {
    match json {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref") {
                found.push(to.clone());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere() {
    let world = World::new().await;
    let document = world.get("/api/v1/openapi.json").await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    world.end().await;
}

#[tokio::test]
async fn every_path_of_the_document_is_served() {
    let world = World::new().await;
    let document = world.get("/api/v1/openapi.json").await.ok();
    let paths = document["paths"].as_object().unwrap();
    let names: Vec<&str> = paths.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "/api/v1/agents",
            "/api/v1/agents/{id}",
            "/api/v1/commands",
            "/api/v1/commands/{id}",
            "/api/v1/commands/{id}/live",
            "/api/v1/config",
            "/api/v1/config/effective/{agent}",
            "/api/v1/config/validate",
            "/api/v1/config/{kind}/{name}",
            "/api/v1/config/{kind}/{name}/history",
            "/api/v1/config/{kind}/{name}/rollback",
            "/api/v1/health",
            "/api/v1/metrics",
            "/api/v1/metrics/live",
            "/api/v1/openapi.json",
            "/api/v1/topology",
            "/livez",
            "/metrics",
            "/readyz",
        ]
    );
    for (path, operations) in paths {
        let path = path.replace("{kind}", "agents").replace(['{', '}'], "");
        for method in operations.as_object().unwrap().keys() {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(&path);
            let response = world.ask(request.body(Body::empty()).unwrap()).await;
            let text = format!("{method} {path}: {}", response.status());
            assert_ne!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{text}");
            if response.status() == StatusCode::NOT_FOUND {
                // It knows the path and not the thing.
                let message = read(response).await.body["message"].as_str().unwrap().to_owned();
                assert!(!message.contains("there is nothing at"), "{text}: {message}");
            }
        }
    }
    world.end().await;
}

#[tokio::test]
async fn the_plain_page_names_paths_that_work() {
    let world = World::new().await;
    let page = world.get("/").await.ok();
    let page = page.as_str().unwrap();
    let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.len() > 5);
    for link in links {
        let response = world.ask(Request::get(link).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{link}");
    }
    world.end().await;
}
