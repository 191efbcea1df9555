//! A whole agent against a server whose every word the test speaks, over real sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use model::command::{CommandState, CommandType};
use model::id::{AgentId, CommandId};
use proto::convert::command_state_from_wire;
use proto::wire::agent_message::Body;
use proto::wire::server_message::Body as Down;
use proto::wire::{self, goodbye};
use serde_json::Value;
use tokio::sync::oneshot;

use self::server::{FakeServer, Peer};
use super::*;
use crate::journal::Entry;

mod server;
mod tls;

/// An agent that runs until it is told to stop.
struct Running {
    stop: CancellationToken,
    ended: oneshot::Receiver<Ended>,
    scope: Scope,
}

impl Running {
    async fn stop(self) -> Ended {
        self.stop.cancel();
        self.end().await
    }

    async fn end(self) -> Ended {
        let ended = self.ended.await.unwrap();
        self.scope.stop(Duration::from_secs(10)).await.unwrap();
        ended
    }
}

fn settings(directory: &Path, servers: &[String]) -> Settings {
    Settings {
        agent_id: AgentId::new("agent-001").unwrap(),
        labels: BTreeMap::from([("role".to_owned(), "test".to_owned())]),
        servers: servers.to_vec(),
        state_directory: directory.to_owned(),
        roots: collect::Host::local(),
        tls: None,
        insecure: false,
    }
}

fn bind(settings: Settings) -> Agent {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    Agent::bind(settings, metrics, Health::default()).unwrap()
}

fn start(settings: Settings) -> Running {
    let agent = bind(settings);
    let (stop, scope) = (CancellationToken::new(), Scope::new("test"));
    let (done, ended) = oneshot::channel();
    let until = stop.clone();
    scope.spawn("agent", async move {
        done.send(agent.run(until).await).ok();
    });
    Running { stop, ended, scope }
}

fn start_at(directory: &Path, server: &FakeServer) -> Running {
    start(settings(directory, &[server.address.to_string()]))
}

fn revision(number: u64, json: &str) -> wire::ConfigRevision {
    let mark = wire::RevisionMark { revision: number, digest: format!("digest-{number}") };
    wire::ConfigRevision {
        mark: Some(mark),
        effective_json: json.to_owned(),
        fault: None,
        registry: "r1".to_owned(),
    }
}

/// Lets the agent tick ten times a second.
async fn hurry(peer: &Peer) {
    peer.say(Down::Config(revision(1, r#"{"interval": 0.1, "metrics": ["memory"]}"#))).await;
}

fn result(report: &wire::CommandReport) -> Value {
    serde_json::from_str(&report.result_json).unwrap()
}

#[tokio::test]
async fn a_hello_says_who_comes() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (_peer, hello) = server.session(1).await;
    assert_eq!((hello.protocol, hello.agent_id.as_str()), (proto::PROTOCOL, "agent-001"));
    assert_eq!(hello.labels["role"], "test");
    assert_eq!((hello.collection(), hello.interval_ms), (wire::Collection::Collecting, 5_000));
    assert!(!hello.host.is_empty() && hello.boot_id.len() == 36 && hello.incarnation.len() == 26);
    drop(agent);
}

#[tokio::test]
async fn an_acknowledged_batch_is_released() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    hurry(&peer).await;
    assert_eq!(peer.batch().await.first_sequence, 1);
    peer.until(|body| matches!(body, Body::Heartbeat(beat) if beat.buffered_ticks > 0).then_some(())).await;
    peer.order("stop", CommandType::Stop).await;
    let mut last = 1;
    loop {
        match peer.next().await {
            Body::Batch(batch) => last = batch.batch_id,
            Body::Heartbeat(beat) if beat.buffered_ticks == 0 => break,
            Body::Heartbeat(_) => peer.acknowledge(last).await,
            _ => {}
        }
    }
    drop(agent);
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_in_order_and_without_a_gap() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, first) = server.session(16).await;
    hurry(&peer).await;
    let acknowledged = peer.batch().await.last_sequence;
    peer.acknowledge(1).await;
    for _ in 0..3 {
        peer.batch().await;
    }
    drop(peer);

    let (mut peer, second) = server.session(16).await;
    assert_eq!(first.incarnation, second.incarnation);
    let mut next = acknowledged + 1;
    let mut knows_schema = false;
    while next < acknowledged + 10 {
        match peer.next().await {
            Body::Schema(_) => knows_schema = true,
            Body::Batch(batch) => {
                assert!(knows_schema, "a batch came before its schema");
                assert_eq!(batch.first_sequence, next);
                let rows: Vec<u64> = batch.rows.iter().map(|row| row.sequence).collect();
                assert_eq!(rows, (next..=batch.last_sequence).collect::<Vec<_>>());
                next = batch.last_sequence + 1;
                peer.acknowledge(batch.batch_id).await;
            }
            _ => {}
        }
    }
    drop(agent);
}

#[tokio::test]
async fn heartbeats_and_commands_flow_while_data_may_not() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(0).await;
    hurry(&peer).await;
    let (mut beats, mut buffered) = (Vec::new(), 0);
    while beats.len() < 5 || buffered < 5 {
        match peer.next().await {
            Body::Heartbeat(beat) => {
                beats.push(beat.number);
                buffered = beat.buffered_ticks;
            }
            Body::Batch(batch) => panic!("batch {} was sent without a credit", batch.batch_id),
            _ => {}
        }
    }
    assert_eq!(beats, (1..=beats.len() as u64).collect::<Vec<_>>());
    peer.order("status", CommandType::Status).await;
    let (state, report) = peer.outcome("status").await;
    assert_eq!(state, CommandState::Succeeded);
    assert!(result(&report)["buffered_ticks"].as_u64() >= Some(5));
    drop(agent);
}

#[tokio::test]
async fn status_tells_what_runs() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    std::fs::write(folder.path().join("state.redb"), "damaged").unwrap();
    let agent = start_at(folder.path(), &server);
    let (mut peer, hello) = server.session(16).await;
    let config = r#"{"interval": 0.1, "metrics": ["cpu", "load"],
        "plugins": [{"name": "filter", "config": {"conditions": [{"field": "cpu_percent", "op": "<", "value": 0}]}}]}"#;
    peer.say(Down::Config(revision(7, config))).await;
    peer.until(|body| {
        matches!(body, Body::Heartbeat(beat) if beat.plugins.iter().any(|p| p.dropped > 0)).then_some(())
    })
    .await;
    peer.order("status", CommandType::Status).await;
    let (_, report) = peer.outcome("status").await;
    let status = result(&report);
    assert_eq!(status["state"], "COLLECTING");
    assert_eq!(status["interval"], 0.1);
    assert_eq!(status["metrics"], serde_json::json!(["cpu", "load"]));
    assert_eq!(status["plugins"][0]["name"], "filter");
    assert_eq!(status["config"]["running"]["revision"], 7);
    assert_eq!(status["incarnation"], hello.incarnation);
    assert_eq!(status["server"], server.address.to_string());
    assert_eq!(status["collectors"][0]["ok"], true);
    assert!(status["agent"]["rss_bytes"].as_u64() > Some(0));
    assert!(status["notice"].as_str().unwrap().contains("damaged-1"), "{}", status["notice"]);
    drop(agent);
}

#[tokio::test]
async fn a_command_sent_twice_acts_once() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    peer.order("c", CommandType::Stop).await;
    let (_, first) = peer.outcome("c").await;
    assert_eq!(result(&first)["was"], "COLLECTING");

    peer.order("c", CommandType::Stop).await;
    assert_eq!(peer.outcome("c").await.1, first, "acting again would have found it paused");

    peer.acknowledge_report(&first).await;
    peer.order("c", CommandType::Stop).await;
    peer.order("after", CommandType::Status).await;
    let mut ids = Vec::new();
    while ids.last().is_none_or(|id| id != "after") {
        ids.push(peer.report().await.command_id);
    }
    assert_eq!(ids, ["after"], "an acknowledged outcome was told again");
    drop(agent);
}

#[tokio::test]
async fn a_command_passes_through_its_states_in_order() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    peer.order("a", CommandType::Stop).await;
    peer.order("b", CommandType::Start).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&("b".to_owned(), CommandState::Succeeded)) {
        let report = peer.report().await;
        seen.push((report.command_id, command_state_from_wire(report.state).unwrap()));
    }
    for id in ["a", "b"] {
        let states: Vec<_> = seen.iter().filter(|(of, _)| of == id).map(|(_, state)| *state).collect();
        assert_eq!(states, [CommandState::Delivered, CommandState::Running, CommandState::Succeeded]);
    }
    let at = |id: &str, state| seen.iter().position(|(of, s)| (of.as_str(), *s) == (id, state)).unwrap();
    assert!(at("a", CommandState::Succeeded) < at("b", CommandState::Running));
    drop(agent);
}

#[tokio::test]
async fn what_cannot_be_obeyed_is_refused_with_the_reason() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, hello) = server.session(16).await;
    let stop = wire::Command {
        command_id: "late".to_owned(),
        r#type: wire::command::CommandType::Stop.into(),
        ..wire::Command::default()
    };
    let strange =
        wire::Command { command_id: "strange".to_owned(), r#type: 99, remaining_ms: 1_000, ..stop.clone() };
    let other = wire::Command {
        command_id: "other".to_owned(),
        agent_id: "agent-002".to_owned(),
        remaining_ms: 1_000,
        ..stop.clone()
    };
    let wordy = wire::Command {
        command_id: "wordy".to_owned(),
        params_json: r#"{"interval": 1, "force": true}"#.to_owned(),
        remaining_ms: 1_000,
        ..stop.clone()
    };
    for (command, state, why) in [
        (wordy, CommandState::Rejected, "STOP takes no parameters, and it was given interval, force"),
        (stop, CommandState::Expired, "time was over"),
        (strange, CommandState::Rejected, "no command type 99"),
        (other, CommandState::Rejected, "agent-002"),
    ] {
        let id = command.command_id.clone();
        peer.command(command).await;
        let (ended, report) = peer.outcome(&id).await;
        assert_eq!(ended, state, "{id}");
        assert!(report.message.contains(why), "{id}: {}", report.message);
    }
    assert_eq!(hello.collection(), wire::Collection::Collecting);
    assert_eq!(peer.heartbeat().await.collection(), wire::Collection::Collecting);
    drop(agent);
}

#[tokio::test]
async fn a_restart_is_reported_by_the_next_incarnation() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, before) = server.session(16).await;
    peer.order("r", CommandType::Restart).await;
    let mut states = Vec::new();
    let last = loop {
        match peer.hear().await {
            Some(Body::CommandReport(report)) => states.push(command_state_from_wire(report.state).unwrap()),
            Some(Body::Batch(batch)) => peer.acknowledge(batch.batch_id).await,
            Some(Body::Goodbye(goodbye)) => break goodbye,
            Some(_) => {}
            None => panic!("no goodbye"),
        }
    };
    assert_eq!(states, [CommandState::Delivered, CommandState::Running]);
    assert_eq!(last.reason(), goodbye::Reason::Restart);
    assert_eq!(peer.hear().await, None);
    drop(peer);
    assert_eq!(agent.end().await, Ended::Restart);

    let agent = start_at(folder.path(), &server);
    let (mut peer, after) = server.session(16).await;
    let (state, report) = peer.outcome("r").await;
    assert_eq!(state, CommandState::Succeeded);
    assert_eq!(result(&report)["old_incarnation"], before.incarnation);
    assert_eq!(result(&report)["new_incarnation"], after.incarnation);
    assert_ne!(before.incarnation, after.incarnation);
    drop(agent);
}

#[tokio::test]
async fn a_command_found_begun_after_a_crash_is_interrupted_and_not_repeated() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let begun = Entry {
        id: CommandId::new("c").unwrap(),
        kind: CommandType::Stop,
        state: CommandState::Running,
        message: String::new(),
        result: serde_json::Map::new(),
        at: wall(),
        incarnation: Incarnation::new("killed").unwrap(),
        acknowledged: false,
    };
    let (state, _) = State::open(folder.path()).unwrap();
    state.write(&[Change::Command(0, Box::new(begun))]).unwrap();
    drop(state);

    let agent = start_at(folder.path(), &server);
    let (mut peer, hello) = server.session(16).await;
    assert_eq!(peer.outcome("c").await.0, CommandState::Interrupted);
    peer.order("c", CommandType::Stop).await;
    assert_eq!(peer.outcome("c").await.0, CommandState::Interrupted);
    assert_eq!(hello.collection(), wire::Collection::Collecting);
    assert_eq!(agent.stop().await, Ended::Stopped);

    // Decided once: the next start tells the same.
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    assert_eq!(peer.outcome("c").await.0, CommandState::Interrupted);
    drop(agent);
}

#[tokio::test]
async fn a_pause_outlives_the_agent_until_it_is_told_to_start() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    hurry(&peer).await;
    peer.batch().await;
    peer.order("stop", CommandType::Stop).await;
    peer.outcome("stop").await;
    agent.stop().await;

    let agent = start_at(folder.path(), &server);
    let (mut peer, hello) = server.session(16).await;
    assert_eq!((hello.collection(), hello.interval_ms), (wire::Collection::Paused, 100));
    while let body = peer.next().await
        && !matches!(&body, Body::Heartbeat(beat) if beat.number == 5)
    {
        assert!(!matches!(body, Body::Batch(_)), "a paused agent collects");
    }
    peer.order("start", CommandType::Start).await;
    assert_eq!(result(&peer.outcome("start").await.1)["was"], "PAUSED");
    peer.batch().await;
    drop(agent);
}

#[tokio::test]
async fn an_invalid_config_is_refused_with_its_path_and_the_old_one_runs_on() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    hurry(&peer).await;
    assert_eq!(peer.truth().await.running.unwrap().revision, 1);
    let update = |id: &str, config| wire::Command {
        command_id: id.to_owned(),
        r#type: wire::command::CommandType::UpdateConfig.into(),
        remaining_ms: 30_000,
        config: Some(config),
        ..wire::Command::default()
    };
    peer.command(update("bad", revision(2, r#"{"interval": 0.2, "plugins": ["filter", "nothing"]}"#))).await;
    let (state, report) = peer.outcome("bad").await;
    assert_eq!((state, &result(&report)["path"]), (CommandState::Failed, &Value::from("plugins[1]")));
    assert_eq!(result(&report)["running"]["revision"], 1);
    assert_eq!(peer.heartbeat().await.interval_ms, 100);

    peer.command(update("good", revision(3, r#"{"interval": 0.2}"#))).await;
    let (mut truth, mut outcome) = (wire::ConfigTruth::default(), None);
    while outcome.is_none() || truth.running.as_ref().is_none_or(|running| running.revision != 3) {
        match peer.next().await {
            Body::ConfigTruth(told) => truth = told,
            Body::CommandReport(report) if report.state() == wire::CommandState::Succeeded => {
                outcome = Some(result(&report));
            }
            _ => {}
        }
    }
    assert_eq!(outcome.unwrap(), serde_json::json!({"revision": 3, "digest": "digest-3"}));
    assert_eq!(truth.last_failed.unwrap().path, "plugins[1]");
    drop(agent);
}

#[tokio::test]
async fn a_config_is_kept_over_a_restart_and_an_older_one_is_not_taken() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    peer.say(Down::Config(revision(5, r#"{"interval": 0.5}"#))).await;
    assert_eq!(peer.truth().await.running.unwrap().revision, 5);
    agent.stop().await;

    let agent = start_at(folder.path(), &server);
    let (mut peer, hello) = server.session(16).await;
    assert_eq!((hello.interval_ms, hello.config_truth.unwrap().running.unwrap().revision), (500, 5));
    peer.say(Down::Config(revision(4, r#"{"interval": 0.4}"#))).await;
    peer.say(Down::Config(revision(6, r#"{"interval": 0.6}"#))).await;
    assert_eq!(peer.truth().await.received.unwrap().revision, 6);
    drop(agent);
}

#[tokio::test]
async fn a_registry_that_counts_anew_is_obeyed_from_its_first_revision_on() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    peer.say(Down::Config(revision(500, r#"{"interval": 0.5}"#))).await;
    assert_eq!(peer.truth().await.running.unwrap().revision, 500);
    agent.stop().await;

    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    let other = wire::ConfigRevision { registry: "r2".to_owned(), ..revision(2, r#"{"interval": 0.2}"#) };
    peer.say(Down::Config(other)).await;
    assert_eq!(peer.truth().await.running.unwrap().revision, 2);
    drop(agent);
}

#[tokio::test]
async fn an_interval_of_an_hour_does_not_hold_up_the_next_one() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    peer.say(Down::Config(revision(1, r#"{"interval": 3600}"#))).await;
    let first = peer.batch().await;
    hurry(&peer).await;
    while peer.batch().await.last_sequence < first.last_sequence + 3 {}
    drop(agent);
}

#[tokio::test]
async fn an_agent_that_stops_sends_the_rest_and_says_goodbye_last() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (mut peer, _) = server.session(16).await;
    // A window that does not fill before the end.
    let config =
        r#"{"interval": 0.1, "metrics": ["memory"], "plugins": ["aggregation"], "window_size": 1000}"#;
    peer.say(Down::Config(revision(1, config))).await;
    peer.until(|body| {
        matches!(body, Body::Heartbeat(b) if b.plugins.iter().any(|p| p.processed >= 3)).then_some(())
    })
    .await;
    agent.stop.cancel();
    let (mut last_sequence, mut goodbye) = (0, None);
    while let Some(body) = peer.hear().await {
        assert_eq!(goodbye, None, "{body:?} came after the goodbye");
        match body {
            Body::Batch(batch) => {
                last_sequence = batch.last_sequence;
                peer.acknowledge(batch.batch_id).await;
            }
            Body::Goodbye(said) => goodbye = Some(said.reason()),
            _ => {}
        }
    }
    assert!(last_sequence >= 3, "the open window was not sent");
    assert_eq!(goodbye, Some(goodbye::Reason::Shutdown));
    drop(peer);
    assert_eq!(agent.end().await, Ended::Stopped);
}

#[tokio::test]
async fn a_dead_server_in_the_list_does_not_matter() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let agent = start(settings(folder.path(), &[dead.to_string(), server.address.to_string()]));
    for _ in 0..4 {
        let (mut peer, _) = server.session(16).await;
        peer.heartbeat().await;
    }
    assert_eq!(agent.stop().await, Ended::Stopped);
}

/// An agent between two servers, and the one it is at first.
async fn between_two() -> (tempfile::TempDir, Running, FakeServer, FakeServer, Peer, wire::Hello) {
    let folder = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (FakeServer::start().await, FakeServer::start().await);
    let agent = start(settings(folder.path(), &[one.address.to_string(), two.address.to_string()]));
    let (first, (peer, hello)) = tokio::select! {
        session = one.session(16) => (true, session),
        session = two.session(16) => (false, session),
    };
    let (here, there) = if first { (one, two) } else { (two, one) };
    (folder, agent, here, there, peer, hello)
}

#[tokio::test]
async fn an_agent_whose_server_breaks_off_is_at_the_other_one_soon_and_counts_its_streams() {
    let (_folder, agent, mut here, mut there, peer, first) = between_two().await;
    let broke = std::time::Instant::now();
    drop(peer);
    let (peer, second) = there.session(16).await;
    assert!(broke.elapsed() < Duration::from_secs(2), "after {:?}", broke.elapsed());
    drop(peer);
    let (_peer, third) = here.session(16).await;
    assert_eq!(
        [first, second, third].map(|hello| (hello.incarnation.len(), hello.connection)),
        [(26, 1), (26, 2), (26, 3)]
    );
    drop(agent);
}

#[tokio::test]
async fn an_agent_that_is_told_to_leave_a_server_that_stops_goes_to_the_other_at_once() {
    let (_folder, agent, _here, mut there, peer, _) = between_two().await;
    let told = std::time::Instant::now();
    let reason = wire::leave::Reason::Draining.into();
    peer.say(Down::Leave(wire::Leave { reason, message: String::new(), retry_after_ms: 60_000 })).await;
    there.session(16).await;
    assert!(told.elapsed() < Duration::from_secs(2), "after {:?}", told.elapsed());
    drop(agent);
}

#[tokio::test]
async fn one_of_two_agents_with_the_same_id_does_not_try_its_luck_at_another_server() {
    let (_folder, agent, mut here, mut there, peer, _) = between_two().await;
    let superseded = |retry_after_ms| {
        let reason = wire::leave::Reason::Superseded.into();
        Down::Leave(wire::Leave { reason, message: String::new(), retry_after_ms })
    };
    peer.say(superseded(0)).await;
    let (peer, _) = there.hello().await;
    peer.say(superseded(1_000)).await;
    let refused = std::time::Instant::now();
    let (_peer, hello) = tokio::select! {
        session = here.session(16) => session,
        session = there.session(16) => session,
    };
    assert_eq!(hello.connection, 3, "one try at each server so far");
    assert!(refused.elapsed() >= Duration::from_secs(1), "after {:?}", refused.elapsed());
    assert!(!here.is_asked() && !there.is_asked());
    drop(agent);
}

#[tokio::test]
async fn an_agent_without_any_server_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let agent = start(settings(folder.path(), &[dead.to_string()]));
    assert_eq!(agent.stop().await, Ended::Stopped);
}

#[tokio::test]
async fn a_server_that_acknowledges_what_was_never_sent_is_left() {
    let (folder, mut server) = (tempfile::tempdir().unwrap(), FakeServer::start().await);
    let agent = start_at(folder.path(), &server);
    let (peer, _) = server.session(16).await;
    peer.acknowledge(1_000).await;
    let (mut again, _) = server.session(16).await;
    again.heartbeat().await;
    drop(agent);
}
