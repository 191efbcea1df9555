//! Every route at the role boundary: the real router over a running analysis on embedded backends.

mod commands;
mod config;
mod document;
mod fleet;
mod guard;
mod metrics;

use std::sync::Arc;
use std::time::Duration;

use analysis::{Analysis, Settings};
use axum::body::{Body, BodyDataStream, to_bytes};
use axum::http::{Request, Response, StatusCode};
use backends::bus::embedded::EmbeddedBus;
use backends::bus::{Bus, NewRecord, Retention, TopicSpec};
use backends::registry::Registry;
use backends::registry::embedded::EmbeddedRegistry;
use futures_util::StreamExt;
use model::id::{AgentId, Revision};
use proto::record::{AGENT_STATUS, COMMAND_RESPONSES, COMMANDS, MONITORING_DATA};
use runtime::{Health, Scope, clock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;

/// A console over a running analysis.
struct World {
    bus: Arc<EmbeddedBus>,
    console: Console,
    router: Router,
    stop: CancellationToken,
    scope: Scope,
}

/// An answer, read whole.
struct Got {
    status: u16,
    body: Value,
}

impl World {
    /// With agents `web-1` and `web-2` (role=web), `db-1` (role=db, shut down), and `web-9`, which only has config.
    async fn new() -> Self {
        let world = Self::start().await;
        for (id, role, status, reason) in [
            ("web-1", "web", "ONLINE", "connected"),
            ("web-2", "web", "OFFLINE", "silence"),
            ("db-1", "db", "SHUTDOWN", "goodbye"),
        ] {
            world.put(&format!("/monitor/agents/{id}"), &entry(id, role, status, reason)).await;
        }
        world.put("/monitor/config/web-9", &json!({"interval": 1})).await;
        let fleet = &world.console.fleet;
        let all = |_: &u64| fleet.is_complete() && fleet.agents(&Default::default()).len() == 4;
        fleet.changes().wait_for(all).await.unwrap();
        world
    }

    async fn start() -> Self {
        let bus = Arc::new(EmbeddedBus::in_memory(Default::default()).unwrap());
        let registry: Arc<dyn Registry> = Arc::new(EmbeddedRegistry::in_memory(&Default::default()).unwrap());
        let retention = Retention { age: Duration::from_secs(86_400), bytes: 1 << 30, compacted: false };
        let topics = [MONITORING_DATA, COMMANDS, COMMAND_RESPONSES, AGENT_STATUS].map(|name| TopicSpec {
            name: name.to_owned(),
            partitions: 3,
            retention,
        });
        bus.ensure_topics(&topics).await.unwrap();
        let backends = Backends { bus: bus.clone(), registry };
        let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
        let analysis = Analysis::new(Settings::default(), backends.clone(), ops.clone()).unwrap();
        let console = Console {
            history: analysis.history(),
            commands: analysis.commands(),
            fleet: analysis.fleet(),
            backends,
            ops,
        };
        let (scope, stop) = (Scope::new("test"), CancellationToken::new());
        let token = stop.clone();
        scope.spawn("analysis", async move { drop(analysis.run(token).await) });
        console.history.caught_up().await;
        let router = router(console.clone());
        Self { bus, console, router, stop, scope }
    }

    async fn put(&self, key: &str, value: &Value) -> Revision {
        self.console.backends.registry.put(key, value.to_string()).await.unwrap()
    }

    async fn publish(&self, topic: &str, key: &str, value: &Value) {
        self.console.backends.bus.publish(topic, vec![new_record(key, value)]).await.unwrap();
    }

    /// Ticks of one agent, a second apart and the last one now; waits until they are in the history.
    async fn measure(&self, agent: &str, ticks: u64) {
        let mut live = self.console.history.live();
        let begin = clock::wall().minus(Duration::from_secs(ticks));
        // Fewer at once than the tail holds.
        for first in (1..=ticks).step_by(500) {
            let part = first..=ticks.min(first + 499);
            let records = part.clone().map(|sequence| new_record(agent, &tick(agent, begin, sequence)));
            self.console.backends.bus.publish(MONITORING_DATA, records.collect()).await.unwrap();
            for _ in part {
                live.next().await.unwrap();
            }
        }
    }

    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> Got {
        read(self.ask(Request::get(path).body(Body::empty()).unwrap()).await).await
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Got {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        read(self.ask(request.body(Body::from(body.to_string())).unwrap()).await).await
    }

    async fn delete(&self, path: &str) -> Got {
        read(self.ask(Request::delete(path).body(Body::empty()).unwrap()).await).await
    }

    /// An event stream, open.
    async fn stream(&self, path: &str) -> Events {
        let response = self.ask(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body().into_data_stream(), text: String::new() }
    }

    async fn end(self) {
        self.stop.cancel();
        self.scope.stop(Duration::from_secs(10)).await.unwrap();
    }
}

/// The events of a stream.
struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    /// The next event's name and value; `None` at the end. Comments are passed over.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let found = field("event:").zip(field("data:"));
                let found = found.map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()));
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
                continue;
            }
            let chunk = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

impl Got {
    /// The refusal's word and message, after a look at its status.
    fn refused(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(self.body["error"].is_string(), "{}", self.body);
        self.body["message"].as_str().unwrap()
    }

    fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.body
    }
}

async fn read(response: Response<Body>) -> Got {
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Got { status, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) }
}

fn new_record(key: &str, value: &Value) -> NewRecord {
    NewRecord { key: key.to_owned(), value: value.to_string().into(), headers: Default::default() }
}

fn entry(id: &str, role: &str, status: &str, reason: &str) -> Value {
    json!({
        "agent_id": id, "client": "session", "host": "h", "labels": {"role": role}, "incarnation": "i1",
        "first_seen": 1, "connected_at": 1, "status": status, "reason": reason, "since": 1, "server": "s1",
        "server_incarnation": "r1"
    })
}

fn tick(agent: &str, begin: model::sample::Timestamp, sequence: u64) -> Value {
    json!({
        "agent_id": agent, "timestamp": begin.plus(Duration::from_secs(sequence)), "incarnation": "i1",
        "metrics": {"cpu_percent": sequence as f64}, "sequence": sequence,
        "series": [{"name": "load", "value": 0.5}, {"name": "system.disk.io", "value": sequence as f64}]
    })
}

fn ids(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

fn agent(id: &str) -> AgentId {
    AgentId::new(id).unwrap()
}
