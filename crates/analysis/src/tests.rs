//! The role on embedded backends: what it reads, what stops it, what a restart brings back.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use backends::bus::embedded::EmbeddedBus;
use backends::bus::{Bus, NewRecord, Retention, TopicSpec};
use backends::registry::Registry;
use backends::registry::embedded::EmbeddedRegistry;
use model::id::{AgentId, CommandId};
use model::presence::Presence;
use model::selector::Selector;
use proto::record::{AGENT_STATUS, COMMAND_RESPONSES, COMMANDS, DataRecord, MONITORING_DATA};
use runtime::Health;
use serde_json::{Value, json};

use super::*;

struct World {
    bus: Arc<EmbeddedBus>,
    backends: Backends,
}

/// One running analysis.
struct Running {
    history: History,
    commands: CommandBook,
    fleet: Fleet,
    ops: Ops,
    stop: CancellationToken,
    scope: Scope,
}

impl World {
    async fn new() -> Self {
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
        Self { bus, backends }
    }

    async fn start(&self) -> Running {
        self.start_in(None).await
    }

    async fn start_in(&self, directory: Option<&Path>) -> Running {
        let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
        let settings = Settings { directory: directory.map(Path::to_owned), ..Settings::default() };
        let analysis = Analysis::new(settings, self.backends.clone(), ops.clone()).unwrap();
        let (history, commands, fleet) = (analysis.history(), analysis.commands(), analysis.fleet());
        let (scope, stop) = (Scope::new("test"), CancellationToken::new());
        let token = stop.clone();
        scope.spawn("analysis", async move { analysis.run(token).await.unwrap() });
        history.caught_up().await;
        Running { history, commands, fleet, ops, stop, scope }
    }

    async fn publish(&self, topic: &str, key: &str, value: impl Into<Vec<u8>>) {
        let record =
            NewRecord { key: key.to_owned(), value: value.into().into(), headers: Default::default() };
        self.backends.bus.publish(topic, vec![record]).await.unwrap();
    }

    /// Publishes alternately for `a` and `b`, and waits until `running` has it.
    async fn ticks(&self, running: &Running, sequences: RangeInclusive<u64>) {
        let mut live = running.history.live();
        for sequence in sequences {
            self.tick(["a", "b"][sequence as usize % 2], sequence).await;
            assert_eq!(next_record(&mut live).await.sequence.0, sequence);
        }
    }

    async fn tick(&self, agent: &str, sequence: u64) {
        self.publish(MONITORING_DATA, agent, data(agent, sequence).to_string()).await;
    }
}

impl Running {
    fn sequences(&self, agent: &str) -> Vec<u64> {
        let agents = Some([AgentId::new(agent).unwrap()].into());
        let series = SeriesFilter::default();
        let query = Query { agents, since: None, until: None, step: None, series, limit: 1_000 };
        self.history.query(query).map(|record| record.sequence.0).collect()
    }

    fn metrics(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.ops.metrics.gather()).unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.scope.stop(Duration::from_secs(10)).await.unwrap();
    }
}

fn data(agent: &str, sequence: u64) -> Value {
    json!({
        "agent_id": agent, "timestamp": clock::wall(), "metrics": {"cpu_percent": 1.5}, "incarnation": "i1",
        "sequence": sequence, "series": [{"name": "load", "value": 0.5}], "unheard_of": 1
    })
}

async fn next_record(live: &mut Live) -> DataRecord {
    match live.next().await {
        Some(Tail::Record(stored)) => stored.record(&SeriesFilter::default()),
        other => panic!("a record was due, not {other:?}"),
    }
}

#[tokio::test]
async fn a_restart_rebuilds_history_and_commands_from_the_bus() {
    let world = World::new().await;
    let first = world.start().await;
    let mut live = first.history.live();
    for sequence in 1..=20 {
        world.tick(["a", "b"][sequence as usize % 2], sequence).await;
    }
    world.publish(COMMANDS, "a", r#"{"command_id":"c1","agent_id":"a","type":"STATUS"}"#).await;
    for _ in 0..20 {
        next_record(&mut live).await;
    }
    let before = (first.sequences("a"), first.sequences("b"));
    first.stop().await;

    let second = world.start().await;
    assert_eq!((second.sequences("a"), second.sequences("b")), before);
    assert_eq!(before.0.len() + before.1.len(), 20);
    let mut changes = second.commands.clone().changes();
    let id = CommandId::new("c1").unwrap();
    changes.wait_for(|_| second.commands.get(&id).is_some()).await.unwrap();
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_it_goes_on_from_its_archive_and_misses_and_doubles_nothing() {
    let world = World::new().await;
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = world.start_in(Some(before.path())).await;
    world.ticks(&first, 1..=20).await;
    tokio::time::sleep(limit::ARCHIVE_COMMIT_EVERY).await;
    world.ticks(&first, 21..=30).await;
    // What a kill leaves is the file as it is now. The first one knows nothing of it and goes on.
    std::fs::copy(before.path().join("archive.redb"), after.path().join("archive.redb")).unwrap();

    let second = world.start_in(Some(after.path())).await;
    for agent in ["a", "b"] {
        assert_eq!((second.sequences(agent), second.sequences(agent).len()), (first.sequences(agent), 15));
    }
    let metrics = second.metrics();
    for line in ["archive_restored_total 20", "history_stored_total 10", "history_repeated_total 0"] {
        assert!(metrics.contains(&format!("\nwatchfloor_{line}\n")), "{line}: {metrics}");
    }
    world.ticks(&second, 31..=40).await;
    second.stop().await;
    first.stop().await;

    let third = world.start_in(Some(after.path())).await;
    assert_eq!(third.sequences("a").len() + third.sequences("b").len(), 40);
    assert!(third.metrics().contains("\nwatchfloor_archive_restored_total 40\n"), "{}", third.metrics());
    third.stop().await;
}

#[tokio::test]
async fn a_directory_that_another_one_uses_is_refused_by_name() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let running = world.start_in(Some(directory.path())).await;
    let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
    let settings = Settings { directory: Some(directory.path().to_owned()), ..Settings::default() };
    let error = Analysis::new(settings, world.backends.clone(), ops).unwrap_err();
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    running.stop().await;
}

#[tokio::test]
async fn a_record_delivered_again_is_kept_once_and_told_once() {
    let world = World::new().await;
    let running = world.start().await;
    let mut live = running.history.live();
    for sequence in [1, 2, 1, 2, 2, 3] {
        world.tick("a", sequence).await;
    }
    for expected in 1..=3 {
        assert_eq!(next_record(&mut live).await.sequence.0, expected);
    }
    assert_eq!(running.sequences("a"), [1, 2, 3]);
    running.stop().await;
}

#[tokio::test]
async fn a_bad_record_is_counted_and_stops_nothing() {
    let world = World::new().await;
    let running = world.start().await;
    let mut live = running.history.live();
    for bad in ["", "not json", "{}", r#"{"agent_id":"../etc","timestamp":1,"incarnation":"i","sequence":1}"#]
    {
        world.publish(MONITORING_DATA, "a", bad).await;
    }
    world.publish(MONITORING_DATA, "a", [0xff, 0xfe]).await;
    world.tick("a", 7).await;
    assert_eq!(next_record(&mut live).await.sequence.0, 7);
    let metrics = running.metrics();
    assert!(metrics.contains(r#"bad_records_total{topic="monitoring-data"} 5"#), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn a_slow_reader_of_the_tail_is_told_what_it_missed() {
    let world = World::new().await;
    let running = world.start().await;
    let (mut slow, mut quick) = (running.history.live(), running.history.live());
    let sent = limit::LIVE_TAIL_RECORDS_MAX as u64 * 2;
    for sequence in 1..=sent {
        running.history.take(serde_json::from_value(data("a", sequence)).unwrap(), clock::wall());
        next_record(&mut quick).await;
    }
    let Some(Tail::Lost(lost)) = slow.next().await else { panic!("nothing was lost") };
    let mut told = 0;
    let mut last = 0;
    while last < sent {
        last = next_record(&mut slow).await.sequence.0;
        told += 1;
    }
    assert_eq!(lost + told, sent);
    running.stop().await;
}

#[tokio::test]
async fn live_tails_end_with_the_role() {
    let world = World::new().await;
    let running = world.start().await;
    let mut live = running.history.live();
    running.stop().await;
    assert!(live.next().await.is_none());
}

#[tokio::test]
async fn a_closed_bus_ends_the_role_with_its_reason() {
    let world = World::new().await;
    let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
    let analysis = Analysis::new(Settings::default(), world.backends.clone(), ops).unwrap();
    let history = analysis.history();
    let close = async {
        history.caught_up().await;
        world.bus.close().await.unwrap();
    };
    let (ended, ()) = tokio::join!(analysis.run(CancellationToken::new()), close);
    assert!(matches!(ended, Err(RunError::Ended { .. })), "{ended:?}");
}

#[tokio::test]
async fn an_agent_that_only_has_config_was_never_seen() {
    let world = World::new().await;
    let running = world.start().await;
    let mut changes = running.fleet.changes();
    let id = AgentId::new("web-9").unwrap();
    world.backends.registry.put("/monitor/config/web-9", "not even json").await.unwrap();
    changes.wait_for(|_| running.fleet.agent(&id).is_some()).await.unwrap();
    assert_eq!(running.fleet.agent(&id).map(|agent| agent.status), Some(Presence::NeverSeen));
    let chosen = |selector: &str| running.fleet.agents(&selector.parse::<Selector>().unwrap()).len();
    assert_eq!((chosen(""), chosen("agent_id=web-9"), chosen("role=db")), (1, 1, 0));
    world.backends.registry.delete("/monitor/config/web-9").await.unwrap();
    changes.wait_for(|_| running.fleet.agent(&id).is_none()).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn it_starts_once_per_registry_of_metrics() {
    let world = World::new().await;
    let ops = Ops { health: Health::default(), metrics: prometheus::Registry::new() };
    assert!(Analysis::new(Settings::default(), world.backends.clone(), ops.clone()).is_ok());
    assert!(matches!(
        Analysis::new(Settings::default(), world.backends.clone(), ops),
        Err(StartError::Metrics(_))
    ));
}
