//! The board alone: evidence in, transitions and judgements out.

use std::time::Duration;

use model::id::{AgentId, Incarnation, Revision, ServerId};
use model::presence::{Collection, Presence, Reason};
use model::sample::Timestamp;
use model::truth::ConfigTruth;
use proto::key::{AgentEntry, Client};

use super::Board;

const START: Duration = Duration::from_secs(100);

fn incarnation(text: &str) -> Incarnation {
    Incarnation::new(text).unwrap()
}

fn server() -> ServerId {
    ServerId::new("s1").unwrap()
}

fn entry(status: Presence, reason: Reason) -> AgentEntry {
    AgentEntry {
        agent_id: AgentId::new("agent-001").unwrap(),
        client: Client::Session,
        host: "host".to_owned(),
        os: String::new(),
        version: String::new(),
        labels: Default::default(),
        boot_id: String::new(),
        incarnation: incarnation("a1"),
        first_seen: Timestamp::default(),
        connected_at: Timestamp::default(),
        status,
        reason,
        since: Timestamp::default(),
        server: server(),
        server_incarnation: incarnation("r1"),
        collection: Collection::Collecting,
        interval_ms: 5_000,
        config: ConfigTruth::default(),
        rivals: Vec::new(),
    }
}

/// A board with one ONLINE agent at a live server, all of it published.
fn settled() -> Board {
    let mut board = Board::default();
    board.server(server(), incarnation("r1"));
    board.agent(entry(Presence::Online, Reason::Connected), Revision(1));
    publish(&mut board);
    board
}

fn publish(board: &mut Board) -> Vec<(Presence, Reason)> {
    let records = board.unpublished(Timestamp::default());
    let said = records.iter().map(|record| (record.status, record.reason)).collect();
    records.into_iter().for_each(|record| board.published(record));
    said
}

fn judged(board: &mut Board, seconds: u64) -> Vec<(Presence, Reason)> {
    let judgements = board.judge(START + Duration::from_secs(seconds), Timestamp::default());
    let said = judgements.iter().map(|j| (j.entry.status, j.entry.reason)).collect();
    for (step, judgement) in judgements.into_iter().enumerate() {
        board.agent(judgement.entry, Revision(judgement.judged.0 + 1 + step as u64));
    }
    said
}

#[test]
fn a_transition_is_published_once() {
    let mut board = settled();
    assert_eq!(publish(&mut board), []);
    board.agent(entry(Presence::Offline, Reason::Silence), Revision(2));
    assert_eq!(publish(&mut board), [(Presence::Offline, Reason::Silence)]);
    assert_eq!(publish(&mut board), []);
}

#[test]
fn what_an_earlier_leader_published_is_not_said_again() {
    let mut board = Board::default();
    let mut earlier = settled();
    earlier.published.values().cloned().for_each(|record| board.published(record));
    board.server(server(), incarnation("r1"));
    board.agent(entry(Presence::Online, Reason::Connected), Revision(1));
    assert_eq!(publish(&mut board), []);
    assert_eq!(publish(&mut earlier), []);
}

#[test]
fn a_new_incarnation_is_news_even_when_the_verdict_is_the_same() {
    let mut board = settled();
    board.agent(
        AgentEntry { incarnation: incarnation("a2"), ..entry(Presence::Online, Reason::Connected) },
        Revision(2),
    );
    assert_eq!(publish(&mut board), [(Presence::Online, Reason::Connected)]);
}

#[test]
fn agents_of_a_lost_server_are_late_through_its_grace_and_offline_after_it() {
    let mut board = settled();
    assert_eq!(judged(&mut board, 0), []);
    board.server_gone(&server());
    let at = |seconds| START + Duration::from_secs(seconds);
    assert_eq!(judged(&mut board, 1), [], "they are on their way to another server");
    assert_eq!(board.next_change(at(1)), Some(at(4)));
    assert_eq!(judged(&mut board, 4), [(Presence::Late, Reason::ServerLost)]);
    assert_eq!(judged(&mut board, 60), []);
    assert_eq!(board.next_change(at(60)), Some(at(61)));
    assert_eq!(judged(&mut board, 61), [(Presence::Offline, Reason::ServerLost)]);
    assert_eq!(judged(&mut board, 1_000), []);
}

#[test]
fn a_restarted_server_does_not_hold_the_sessions_of_its_last_run() {
    let mut board = settled();
    board.server(server(), incarnation("r2"));
    judged(&mut board, 0);
    assert_eq!(judged(&mut board, 3), [(Presence::Late, Reason::ServerLost)]);
    let back =
        AgentEntry { server_incarnation: incarnation("r2"), ..entry(Presence::Online, Reason::Connected) };
    board.agent(back, Revision(9));
    assert_eq!(judged(&mut board, 61), []);
}

#[test]
fn an_agent_that_shut_down_in_order_is_nobodys_orphan() {
    let mut board = settled();
    board.agent(entry(Presence::Shutdown, Reason::Goodbye), Revision(2));
    board.server_gone(&server());
    assert_eq!(judged(&mut board, 0), []);
}

#[test]
fn a_second_loss_has_a_grace_of_its_own() {
    let mut board = settled();
    board.server_gone(&server());
    judged(&mut board, 0);
    board.server(server(), incarnation("r1"));
    board.agent(entry(Presence::Online, Reason::Connected), Revision(5));
    judged(&mut board, 50);
    board.server_gone(&server());
    judged(&mut board, 56);
    assert_eq!(judged(&mut board, 59), [(Presence::Late, Reason::ServerLost)]);
    assert_eq!(judged(&mut board, 100), []);
}

#[test]
fn the_grace_of_a_lost_server_runs_while_a_monitor_only_stands_by() {
    let mut board = settled();
    board.server_gone(&server());
    board.look(START);
    assert_eq!(judged(&mut board, 60), [(Presence::Offline, Reason::ServerLost)]);
}

#[test]
fn an_agent_that_is_elsewhere_at_once_was_never_late() {
    let mut board = settled();
    board.server_gone(&server());
    judged(&mut board, 0);
    let other = ServerId::new("s2").unwrap();
    board.server(other.clone(), incarnation("r7"));
    let moved = AgentEntry {
        server: other,
        server_incarnation: incarnation("r7"),
        ..entry(Presence::Online, Reason::Connected)
    };
    board.agent(moved, Revision(2));
    assert_eq!(judged(&mut board, 3), []);
    assert_eq!(publish(&mut board), [], "where an agent is connected is no transition");
}

fn worker() -> AgentId {
    AgentId::new("worker1").unwrap()
}

#[test]
fn a_foreign_heartbeat_key_is_an_agent_that_comes_and_goes() {
    let mut board = Board::default();
    board.foreign(worker(), None);
    assert_eq!(publish(&mut board), []);
    board.foreign(worker(), Some(Revision(1)));
    assert_eq!(publish(&mut board), [(Presence::Online, Reason::ForeignKey)]);
    board.foreign(worker(), None);
    assert_eq!(publish(&mut board), [(Presence::Offline, Reason::ForeignKeyGone)]);
    assert_eq!(publish(&mut board), []);
}

#[test]
fn a_foreign_agent_that_went_while_nobody_led_is_missed_by_the_next_leader() {
    let mut earlier = Board::default();
    earlier.foreign(worker(), Some(Revision(1)));
    publish(&mut earlier);
    let mut board = Board::default();
    earlier.published.into_values().for_each(|record| board.published(record));
    assert_eq!(publish(&mut board), [(Presence::Offline, Reason::ForeignKeyGone)]);
}

#[test]
fn a_foreign_key_speaks_for_an_agent_of_ours_only_when_we_have_nothing_better() {
    let agent = AgentId::new("agent-001").unwrap();
    let mut board = settled();
    board.foreign(agent.clone(), Some(Revision(2)));
    assert_eq!(publish(&mut board), [], "the session is better evidence");
    board.agent(entry(Presence::Shutdown, Reason::Goodbye), Revision(3));
    assert_eq!(
        publish(&mut board),
        [(Presence::Shutdown, Reason::Goodbye)],
        "the key is older than the goodbye"
    );
    board.foreign(agent.clone(), Some(Revision(4)));
    assert_eq!(publish(&mut board), [(Presence::Online, Reason::ForeignKey)]);
    board.foreign(agent, None);
    assert_eq!(publish(&mut board), [(Presence::Shutdown, Reason::Goodbye)]);
}
