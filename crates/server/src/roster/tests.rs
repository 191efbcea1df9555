//! One agent id, several claimants, and the time: what the roster says of it.

use super::*;
use backends::registry::LeaseId;
use bytes::Bytes;
use model::presence::Reason;
use proptest::prelude::*;

fn at(ms: u64) -> Now {
    Now {
        monotonic: Duration::from_secs(86_400) + Duration::from_millis(ms),
        wall: Timestamp::from_unix_ms(1_767_225_600_000 + i64::try_from(ms).unwrap()),
    }
}

fn roster() -> Roster {
    Roster::new(ServerId::new("s1").unwrap(), Incarnation::new("run1").unwrap(), Timing::default())
}

fn who(incarnation: &str, host: &str) -> Introduction {
    Introduction {
        agent_id: AgentId::new("a").unwrap(),
        client: Client::Session,
        incarnation: Incarnation::new(incarnation).unwrap(),
        connection: 0,
        host: host.to_owned(),
        os: String::new(),
        version: String::new(),
        boot_id: String::new(),
        labels: BTreeMap::new(),
        truth: ConfigTruth::default(),
        collection: Collection::Collecting,
        interval: Duration::from_secs(5),
    }
}

fn status(roster: &Roster) -> (Presence, Reason) {
    let entry = roster.entry(&AgentId::new("a").unwrap()).unwrap();
    (entry.status, entry.reason)
}

/// Settles every write as a registry that agrees would; returns them.
fn settle(roster: &mut Roster) -> Vec<Write> {
    let mut writes = Vec::new();
    while let Some(write) = roster.next_write() {
        let heartbeat = write.hold.then(|| (Bytes::from_static(b"ours"), LeaseId(1)));
        let known = Known { heartbeat };
        let (first_seen, connected_at) = (write.entry.first_seen, write.entry.connected_at);
        assert_eq!(roster.written(&write, Written::Done { known, first_seen, connected_at }), None);
        writes.push(write);
    }
    writes
}

#[test]
fn a_second_live_agent_with_the_same_id_wins_and_both_show() {
    let mut roster = roster();
    let first = roster.admit(&who("i1", "web-1"), at(0)).unwrap();
    assert_eq!(first.displaced, None);
    let second = roster.admit(&who("i2", "web-2"), at(1_000)).unwrap();
    let retry_after = Duration::from_secs(60);
    assert_eq!(second.displaced, Some((first.session, Displacement::Superseded { retry_after })));
    assert_eq!(status(&roster), (Presence::Duplicate, Reason::TwoSessions));
    let entry = roster.entry(&AgentId::new("a").unwrap()).unwrap();
    assert_eq!((entry.host.as_str(), entry.rivals.as_slice()), ("web-2", &["web-1".to_owned()][..]));
}

#[test]
fn a_superseded_agent_that_comes_back_early_is_told_how_long_to_wait_and_each_time_longer() {
    let mut roster = roster();
    roster.admit(&who("i1", ""), at(0)).unwrap();
    roster.admit(&who("i2", ""), at(0)).unwrap();
    let remaining = Duration::from_secs(50);
    assert_eq!(roster.admit(&who("i1", ""), at(10_000)), Err(Refusal::Banned { remaining }));
    // It comes back in time, loses its turn, and is sent away for twice as long.
    let back = roster.admit(&who("i1", ""), at(60_000)).unwrap();
    assert_eq!(back.displaced.unwrap().1, Displacement::Replaced, "i2 was silent for a minute");
    let third = roster.admit(&who("i3", ""), at(60_000)).unwrap();
    let retry_after = Duration::from_secs(120);
    assert_eq!(third.displaced.unwrap().1, Displacement::Superseded { retry_after });
}

#[test]
fn a_reconnect_of_the_same_incarnation_is_no_duplicate() {
    let mut roster = roster();
    let first = roster.admit(&who("i1", ""), at(0)).unwrap();
    let again = roster.admit(&who("i1", ""), at(100)).unwrap();
    assert_eq!(again.displaced, Some((first.session, Displacement::Replaced)));
    assert_eq!(status(&roster), (Presence::Online, Reason::Connected));
    roster.closed(first.session, Ending::Lost, at(200));
    assert_eq!(status(&roster), (Presence::Online, Reason::Connected), "the old stream's end is no news");
}

#[test]
fn a_new_run_of_an_agent_whose_old_stream_fell_silent_is_no_duplicate() {
    let mut roster = roster();
    roster.admit(&who("i1", ""), at(0)).unwrap();
    let restarted = roster.admit(&who("i2", ""), at(5_000)).unwrap();
    assert_eq!(restarted.displaced.unwrap().1, Displacement::Replaced);
}

#[test]
fn time_alone_makes_late_and_offline_and_evidence_brings_back() {
    let mut roster = roster();
    let session = roster.admit(&who("i1", ""), at(0)).unwrap().session;
    settle(&mut roster);
    roster.advance(at(5_000));
    assert_eq!(status(&roster), (Presence::Late, Reason::Silence));
    roster.advance(at(11_500));
    assert_eq!(status(&roster), (Presence::Offline, Reason::Silence));
    let offline = settle(&mut roster);
    assert!(offline.iter().all(|write| !write.hold), "an offline agent is not held");
    roster.heard(session, at(12_000));
    assert_eq!(status(&roster), (Presence::Online, Reason::Connected));
    assert!(settle(&mut roster)[0].hold);
}

#[test]
fn a_lost_connection_shows_at_once_and_a_goodbye_as_one() {
    let mut roster = roster();
    let session = roster.admit(&who("i1", ""), at(0)).unwrap().session;
    roster.closed(session, Ending::Lost, at(100));
    assert_eq!(status(&roster), (Presence::Late, Reason::ConnectionLost));
    let session = roster.admit(&who("i1", ""), at(200)).unwrap().session;
    roster.closed(session, Ending::Goodbye { restarting: false }, at(300));
    assert_eq!(status(&roster), (Presence::Shutdown, Reason::Goodbye));
    settle(&mut roster);
    assert_eq!(roster.members.len(), 0, "an agent that left and is written down needs no place");
}

#[test]
fn a_client_without_announced_interval_is_judged_by_its_rhythm() {
    let mut roster = roster();
    let client = Introduction { client: Client::StreamMetrics, ..who("i1", "") };
    let session = roster.admit(&client, at(0)).unwrap().session;
    roster.advance(at(25_000));
    assert_eq!(status(&roster).0, Presence::Online, "nobody knows its interval yet");
    roster.heard(session, at(30_000));
    roster.rhythm(session, Some(Duration::from_secs(30)), at(30_000));
    roster.advance(at(74_000));
    assert_eq!(status(&roster).0, Presence::Online);
    roster.advance(at(30_000 + 91_500));
    assert_eq!(status(&roster), (Presence::Offline, Reason::Silence));
}

#[test]
fn changes_while_a_write_is_under_way_become_one_more_write() {
    let mut roster = roster();
    let session = roster.admit(&who("i1", ""), at(0)).unwrap().session;
    let write = roster.next_write().unwrap();
    roster.facts(session, Collection::Paused, Duration::from_secs(1));
    roster.facts(session, Collection::Collecting, Duration::from_secs(2));
    assert_eq!(roster.next_write(), None, "one write per agent at a time");
    let (first_seen, connected_at) = (write.entry.first_seen, write.entry.connected_at);
    roster.written(&write, Written::Done { known: Known::default(), first_seen, connected_at });
    assert_eq!(settle(&mut roster).len(), 1);
}

#[test]
fn an_agent_that_another_server_took_is_no_longer_judged_here() {
    let mut roster = roster();
    let session = roster.admit(&who("i1", ""), at(0)).unwrap().session;
    settle(&mut roster);
    roster.facts(session, Collection::Paused, Duration::ZERO);
    let write = roster.next_write().unwrap();
    let by = Some(Incarnation::new("i2").unwrap());
    let retry_after = Duration::from_secs(60);
    let lost = roster.written(&write, Written::Usurped { by });
    assert_eq!(lost, Some((session, Displacement::Superseded { retry_after })));
    assert_eq!((roster.session_of(&write.entry.agent_id), roster.next_due()), (None, None));
}

#[test]
fn what_is_left_of_the_stream_of_an_agent_that_moved_is_no_rival() {
    let mut roster = roster();
    let session = roster.admit(&who("i1", ""), at(0)).unwrap().session;
    settle(&mut roster);
    roster.claimed_elsewhere(&AgentId::new("a").unwrap());
    let write = roster.next_write().unwrap();
    let by = Some(Incarnation::new("i1").unwrap());
    let lost = roster.written(&write, Written::Usurped { by });
    assert_eq!(lost, Some((session, Displacement::Replaced)));
}

#[test]
fn silence_while_the_server_itself_did_not_listen_does_not_count() {
    let mut roster = roster();
    roster.admit(&who("i1", ""), at(0)).unwrap();
    roster.advance(at(3_000));
    roster.woke(Duration::from_secs(30));
    roster.advance(at(34_999));
    assert_eq!(status(&roster), (Presence::Online, Reason::Connected));
    roster.advance(at(35_000));
    assert_eq!(status(&roster), (Presence::Late, Reason::Silence), "the five seconds that it listened do");
}

#[test]
fn a_leaving_server_writes_goodbyes_and_nothing_else() {
    let mut roster = roster();
    let session = roster.admit(&who("i1", ""), at(0)).unwrap().session;
    settle(&mut roster);
    roster.freeze();
    roster.advance(at(20_000));
    roster.closed(session, Ending::Lost, at(20_000));
    assert_eq!(roster.next_write(), None);
    let session = roster.admit(&who("i1", ""), at(30_000)).unwrap().session;
    settle(&mut roster);
    roster.closed(session, Ending::Goodbye { restarting: false }, at(30_000));
    assert_eq!(settle(&mut roster)[0].entry.status, Presence::Shutdown);
}

#[derive(Clone, Debug)]
enum Event {
    Hello(u8),
    Heard,
    Lost,
    Goodbye,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u8..3).prop_map(Event::Hello),
        3 => Just(Event::Heard),
        1 => Just(Event::Lost),
        1 => Just(Event::Goodbye),
        3 => (0u64..90_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn one_session_speaks_the_newest_wins_and_bans_hold(events in proptest::collection::vec(event(), 1..60)) {
        let mut roster = roster();
        let agent = AgentId::new("a").unwrap();
        let (mut now, mut newest) = (0u64, None);
        let mut banned: BTreeMap<u8, u64> = BTreeMap::new();
        let mut speaking: Option<u8> = None;
        for event in events {
            match event {
                Event::Wait(ms) => { now += ms; roster.advance(at(now)); }
                Event::Heard => if let Some(session) = newest { roster.heard(session, at(now)); },
                Event::Lost | Event::Goodbye => if let Some(session) = newest.take() {
                    let goodbye = matches!(event, Event::Goodbye);
                    let ending = if goodbye { Ending::Goodbye { restarting: false } } else { Ending::Lost };
                    roster.closed(session, ending, at(now));
                    speaking = None;
                },
                Event::Hello(incarnation) => match roster.admit(&who(&format!("i{incarnation}"), ""), at(now)) {
                    Ok(admitted) => {
                        prop_assert!(banned.get(&incarnation).is_none_or(|until| now >= *until));
                        prop_assert_eq!(admitted.displaced.map(|(old, _)| old), newest);
                        if let Some((_, Displacement::Superseded { retry_after })) = admitted.displaced {
                            let loser = speaking.unwrap();
                            prop_assert_ne!(loser, incarnation);
                            prop_assert!(retry_after >= limit::DUPLICATE_RETRY_MIN);
                            prop_assert!(retry_after <= limit::DUPLICATE_RETRY_MAX);
                            banned.insert(loser, now + u64::try_from(retry_after.as_millis()).unwrap());
                        }
                        (newest, speaking) = (Some(admitted.session), Some(incarnation));
                    }
                    Err(Refusal::Banned { remaining }) => {
                        let until = banned.get(&incarnation).copied().unwrap_or_default();
                        prop_assert_eq!(u128::from(until - now), remaining.as_millis());
                    }
                    Err(Refusal::Full) => prop_assert!(false, "one agent fills nothing"),
                },
            }
            prop_assert_eq!(roster.session_of(&agent), newest);
            prop_assert_eq!(roster.sessions(), usize::from(newest.is_some()));
            if let (Some(member), Some(entry)) = (roster.members.get(&agent), roster.entry(&agent)) {
                prop_assert_eq!(member.tracker.verdict(at(now).monotonic), entry.verdict());
            }
        }
    }
}
