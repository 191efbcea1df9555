//! The laws of [`Bus`](super), as tests that every implementation runs with [`bus_contract`](crate::bus_contract).
//!
//! One function checks one law and panics where it is broken. Nothing sleeps: that a record does *not* come is shown by
//! the one published after it coming next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use model::limit::BUS_VALUE_BYTES_MAX;

use super::{
    Bus, BusError, Extent, Headers, NewRecord, Position, Record, Retention, StartAt, Subscription, TopicSpec,
};

/// Makes the implementation under test. One fixture is one world: what is opened later sees what was left earlier.
#[async_trait]
pub trait Fixture: Send + Sync {
    async fn open(&self) -> Arc<dyn Bus>;

    /// Ends `bus` in good order.
    async fn close(&self, bus: Arc<dyn Bus>);
}

/// A fixture that can let time pass, for the laws about retention.
#[async_trait]
pub trait Ageing: Fixture {
    /// Lets `duration` pass for record times, then applies retention everywhere.
    async fn pass(&self, bus: &Arc<dyn Bus>, duration: Duration);
}

const DAY: Duration = Duration::from_secs(86_400);
const KEEP: Retention = Retention { age: DAY, bytes: u64::MAX, compacted: false };
/// Far beyond what any of this takes; a bus that is silent for so long has lost something.
const PATIENCE: Duration = Duration::from_secs(60);

fn topic(name: &str, partitions: u32, retention: Retention) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, retention }
}

fn record(key: &str, value: impl Into<String>) -> NewRecord {
    NewRecord { key: key.to_owned(), value: Bytes::from(value.into()), headers: Default::default() }
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.value).into_owned()
}

async fn opened(fixture: &dyn Fixture, partitions: u32) -> Arc<dyn Bus> {
    let bus = fixture.open().await;
    bus.ensure_topics(&[topic("t", partitions, KEEP)]).await.expect("the topic can be created");
    bus
}

async fn publish(bus: &Arc<dyn Bus>, key: &str, value: impl Into<String>) -> Position {
    let positions = bus.publish("t", vec![record(key, value)]).await.expect("the record can be published");
    *positions.first().expect("each record has a position")
}

async fn next(subscription: &mut Subscription) -> Record {
    let next = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a record comes in time");
    next.expect("the subscription goes on").expect("the record can be read")
}

async fn take(subscription: &mut Subscription, count: usize) -> Vec<Record> {
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        records.push(next(subscription).await);
    }
    records
}

async fn texts(subscription: &mut Subscription, count: usize) -> Vec<String> {
    take(subscription, count).await.iter().map(text).collect()
}

async fn subscribe(bus: &Arc<dyn Bus>, from: StartAt) -> Subscription {
    bus.subscribe("t", from).await.expect("the topic can be read")
}

async fn join(bus: &Arc<dyn Bus>, group: &str) -> Subscription {
    bus.join("t", group).await.expect("the group can be joined")
}

async fn extent(bus: &Arc<dyn Bus>) -> Extent {
    *bus.extents("t").await.expect("the topic exists").first().expect("it has a partition")
}

/// Law 1.
pub async fn an_acknowledged_record_survives_reopening(fixture: &impl Fixture) {
    let bus = opened(fixture, 3).await;
    let mut published = Vec::new();
    for number in 0..20 {
        published.push((publish(&bus, &format!("k{}", number % 5), number.to_string()).await, number));
    }
    fixture.close(bus).await;
    let bus = opened(fixture, 3).await;
    let read = take(&mut subscribe(&bus, StartAt::Earliest).await, 20).await;
    let mut read: Vec<_> =
        read.iter().map(|record| (record.position, text(record).parse().unwrap_or(-1))).collect();
    read.sort_unstable();
    published.sort_unstable();
    assert_eq!(read, published);
}

/// Law 1: what is read is what was published, to the last byte.
pub async fn key_value_and_headers_come_back_whole(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    let kind = |kind: &str| Headers::from([("content-type".to_owned(), kind.to_owned())]);
    let full = Bytes::from((0..BUS_VALUE_BYTES_MAX).map(|at| at as u8).collect::<Vec<u8>>());
    let records = vec![
        NewRecord { key: "ключ".to_owned(), value: full, headers: kind("application/json") },
        NewRecord { headers: kind("text/plain"), ..NewRecord::default() },
        NewRecord::default(),
        NewRecord { headers: kind("text/plain"), ..NewRecord::default() },
        NewRecord { headers: kind("text/plain"), ..NewRecord::default() },
    ];
    bus.publish("t", records.clone()).await.expect("a value of full size can be published");
    let read = take(&mut subscribe(&bus, StartAt::Earliest).await, records.len()).await;
    let read: Vec<NewRecord> = read
        .into_iter()
        .map(|Record { key, value, headers, .. }| NewRecord { key, value, headers })
        .collect();
    assert!(read == records, "a record changed on its way");
}

/// Law 2.
pub async fn records_of_one_key_keep_their_order_in_one_partition(fixture: &impl Fixture) {
    let bus = opened(fixture, 4).await;
    let publishers = (0..16).map(|publisher| {
        let bus = Arc::clone(&bus);
        async move {
            for number in 0..20 {
                publish(&bus, &format!("key-{publisher}"), number.to_string()).await;
            }
        }
    });
    join_all(publishers).await;
    let mut by_key: BTreeMap<String, (BTreeSet<u32>, Vec<String>)> = BTreeMap::new();
    for record in take(&mut subscribe(&bus, StartAt::Earliest).await, 320).await {
        let entry = by_key.entry(record.key.clone()).or_default();
        entry.0.insert(record.position.partition);
        entry.1.push(text(&record));
    }
    let in_order: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for (key, (partitions, values)) in by_key {
        assert_eq!(partitions.len(), 1, "{key} is in several partitions");
        assert_eq!(values, in_order, "{key}");
    }
}

/// Law 2: many records of one call are no exception.
pub async fn records_of_one_call_keep_their_order(fixture: &impl Fixture) {
    let bus = opened(fixture, 4).await;
    let records: Vec<NewRecord> = (0..50).map(|number| record("k", number.to_string())).collect();
    let positions = bus.publish("t", records).await.expect("many records can be published at once");
    assert!(positions.is_sorted() && positions.len() == 50, "{positions:?}");
    let expected: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(texts(&mut subscribe(&bus, StartAt::Earliest).await, 50).await, expected);
}

/// Law 3: a reader that is there from the first record on sees all of them as they are published.
pub async fn a_reader_sees_each_record_once_in_order(fixture: &impl Fixture) {
    let bus = opened(fixture, 2).await;
    let mut reader = subscribe(&bus, StartAt::Earliest).await;
    let publishing = async {
        for number in 0..100 {
            publish(&bus, &format!("k{number}"), "x").await;
        }
    };
    let (read, ()) = tokio::join!(take(&mut reader, 100), publishing);
    for partition in 0..2 {
        let offsets: Vec<u64> = read
            .iter()
            .filter(|record| record.position.partition == partition)
            .map(|r| r.position.offset)
            .collect();
        assert!(offsets.is_sorted_by(|a, b| a < b), "partition {partition}: {offsets:?}");
    }
    let positions: BTreeSet<Position> = read.iter().map(|record| record.position).collect();
    assert_eq!(positions.len(), 100);
}

/// Law 3: the times of one partition do not go back.
pub async fn times_rise_with_offsets(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    for number in 0..20 {
        publish(&bus, "k", number.to_string()).await;
    }
    let read = take(&mut subscribe(&bus, StartAt::Earliest).await, 20).await;
    assert!(read.is_sorted_by_key(|record| record.at));
}

/// Law 4: the past is not for a reader of the latest; all that comes after `subscribe` returned is.
pub async fn the_latest_begins_after_the_call(fixture: &impl Fixture) {
    let bus = opened(fixture, 3).await;
    for number in 0..9 {
        publish(&bus, &format!("k{number}"), "before").await;
    }
    let mut reader = subscribe(&bus, StartAt::Latest).await;
    let mut published = BTreeSet::new();
    for number in 0..9 {
        published.insert(publish(&bus, &format!("k{number}"), "after").await);
    }
    let read = take(&mut reader, 9).await;
    assert!(read.iter().all(|record| text(record) == "after"), "{read:?}");
    assert_eq!(read.iter().map(|record| record.position).collect::<BTreeSet<_>>(), published);
}

/// Law 4.
pub async fn given_offsets_are_where_reading_begins(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    for number in 0..10 {
        publish(&bus, "k", number.to_string()).await;
    }
    let mut reader = subscribe(&bus, StartAt::Offsets(BTreeMap::from([(0, 7)]))).await;
    assert_eq!(texts(&mut reader, 3).await, ["7", "8", "9"]);
    let mut at_the_end = subscribe(&bus, StartAt::Offsets(BTreeMap::from([(0, 10)]))).await;
    publish(&bus, "k", "10").await;
    assert_eq!(texts(&mut at_the_end, 1).await, ["10"]);
    let mut unnamed = subscribe(&bus, StartAt::Offsets(BTreeMap::new())).await;
    assert_eq!(texts(&mut unnamed, 2).await, ["0", "1"]);
}

/// Law 4: offsets past the end are another log's, and skipping in silence would lose records.
pub async fn an_offset_past_the_end_begins_at_the_earliest(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    publish(&bus, "k", "first").await;
    let mut reader = subscribe(&bus, StartAt::Offsets(BTreeMap::from([(0, 1_000)]))).await;
    assert_eq!(texts(&mut reader, 1).await, ["first"]);
}

/// Law 4: by the records' own times, so that it holds for any clock.
pub async fn a_time_begins_at_the_first_record_not_before_it(fixture: &impl Fixture) {
    let bus = opened(fixture, 2).await;
    for number in 0..60 {
        publish(&bus, &format!("k{number}"), number.to_string()).await;
    }
    let all = take(&mut subscribe(&bus, StartAt::Earliest).await, 60).await;
    let times: BTreeSet<_> = all.iter().map(|record| record.at).collect();
    for at in times {
        let expected: BTreeSet<_> =
            all.iter().filter(|record| record.at >= at).map(|record| record.position).collect();
        let mut reader = subscribe(&bus, StartAt::Time(at)).await;
        let read = take(&mut reader, expected.len()).await;
        assert_eq!(read.iter().map(|record| record.position).collect::<BTreeSet<_>>(), expected, "at {at}");
    }
    let last = all.iter().map(|record| record.at).max().unwrap_or_default();
    let mut future = subscribe(&bus, StartAt::Time(last.plus(DAY))).await;
    publish(&bus, "k", "later").await;
    assert_eq!(texts(&mut future, 1).await, ["later"]);
}

/// Law 5.
pub async fn each_record_goes_to_one_member(fixture: &impl Fixture) {
    let bus = opened(fixture, 4).await;
    let mut members = [join(&bus, "g").await, join(&bus, "g").await];
    let mut published = BTreeSet::new();
    for number in 0..40 {
        published.insert(publish(&bus, &format!("k{number}"), "x").await);
    }
    let [first, second] = &mut members;
    let mut read = Vec::new();
    while read.iter().map(|record: &Record| record.position).collect::<BTreeSet<_>>() != published {
        tokio::select! {
            record = next(first) => read.push(record),
            record = next(second) => read.push(record),
        }
    }
    assert_eq!(read.len(), 40, "a record went to two members");
}

/// Law 5.
pub async fn a_member_continues_at_the_commit(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    for number in 0..10 {
        publish(&bus, "k", number.to_string()).await;
    }
    let mut member = join(&bus, "g").await;
    let read = take(&mut member, 6).await;
    member.commit(read[3].position).await.expect("a member can commit");
    drop(member);
    // 4 and 5 were delivered and not committed.
    let mut successor = join(&bus, "g").await;
    assert_eq!(texts(&mut successor, 6).await, ["4", "5", "6", "7", "8", "9"]);
}

/// Law 5.
pub async fn a_commit_survives_reopening(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    for number in 0..3 {
        publish(&bus, "k", number.to_string()).await;
    }
    let mut member = join(&bus, "g").await;
    let read = take(&mut member, 2).await;
    member.commit(read[1].position).await.expect("a member can commit");
    drop(member);
    fixture.close(bus).await;
    let bus = opened(fixture, 1).await;
    assert_eq!(texts(&mut join(&bus, "g").await, 1).await, ["2"]);
}

/// Law 5: a group without commits begins at the earliest; groups do not know of each other.
pub async fn groups_are_independent(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    publish(&bus, "k", "0").await;
    publish(&bus, "k", "1").await;
    let mut one = join(&bus, "one").await;
    let read = take(&mut one, 2).await;
    one.commit(read[1].position).await.expect("a member can commit");
    assert_eq!(texts(&mut join(&bus, "two").await, 2).await, ["0", "1"]);
}

/// Law 5.
pub async fn who_stays_takes_over_from_who_leaves(fixture: &impl Fixture) {
    let bus = opened(fixture, 4).await;
    let mut stays = join(&bus, "g").await;
    let leaves = join(&bus, "g").await;
    let mut published = BTreeSet::new();
    for number in 0..40 {
        published.insert(publish(&bus, &format!("k{number}"), "x").await);
    }
    drop(leaves);
    let mut read = BTreeSet::new();
    while read != published {
        read.insert(next(&mut stays).await.position);
    }
}

/// Law 6.
pub async fn a_slow_reader_holds_back_nobody(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    let mut slow = subscribe(&bus, StartAt::Earliest).await;
    let mut quick = subscribe(&bus, StartAt::Earliest).await;
    for batch in 0..40 {
        let records = (0..100).map(|number| record("k", (batch * 100 + number).to_string())).collect();
        bus.publish("t", records).await.expect("the record can be published");
    }
    assert_eq!(texts(&mut quick, 4_000).await.last().map(String::as_str), Some("3999"));
    assert_eq!(texts(&mut slow, 4_000).await.last().map(String::as_str), Some("3999"));
}

/// Law 7: by age, oldest first, and no younger one.
pub async fn age_removes_what_is_older_and_nothing_else(fixture: &impl Ageing) {
    let bus = fixture.open().await;
    let hour = Duration::from_secs(3_600);
    let retention = Retention { age: hour, ..KEEP };
    bus.ensure_topics(&[topic("t", 1, retention)]).await.expect("the topic can be created");
    publish(&bus, "k", "old").await;
    fixture.pass(&bus, hour / 2).await;
    publish(&bus, "k", "young").await;
    assert_eq!(extent(&bus).await, Extent { partition: 0, low: 0, high: 2 });
    fixture.pass(&bus, hour / 2 + Duration::from_secs(1)).await;
    assert_eq!(extent(&bus).await, Extent { partition: 0, low: 1, high: 2 });
    // Law 4: an offset that is gone continues at the earliest kept record.
    let mut reader = subscribe(&bus, StartAt::Offsets(BTreeMap::from([(0, 0)]))).await;
    assert_eq!(texts(&mut reader, 1).await, ["young"]);
}

/// Law 7: by bytes over all partitions, oldest first.
pub async fn bytes_remove_the_oldest_of_all_partitions(fixture: &impl Ageing) {
    let bus = fixture.open().await;
    let retention = Retention { bytes: 5_500, ..KEEP };
    bus.ensure_topics(&[topic("t", 3, retention)]).await.expect("the topic can be created");
    let mut published = Vec::new();
    for number in 0..10 {
        published.push(publish(&bus, &format!("k{number}"), "x".repeat(998)).await);
        fixture.pass(&bus, Duration::from_secs(1)).await;
    }
    let read = take(&mut subscribe(&bus, StartAt::Earliest).await, 5).await;
    let kept: BTreeSet<Position> = read.iter().map(|record| record.position).collect();
    assert_eq!(kept, published[5..].iter().copied().collect());
}

/// Law 7: offsets are not given twice, even when everything is gone.
pub async fn offsets_go_on_after_everything_was_removed(fixture: &impl Ageing) {
    let bus = opened(fixture, 1).await;
    for number in 0..3 {
        publish(&bus, "k", number.to_string()).await;
    }
    fixture.pass(&bus, DAY + Duration::from_secs(1)).await;
    assert_eq!(extent(&bus).await, Extent { partition: 0, low: 3, high: 3 });
    fixture.close(bus).await;
    let bus = opened(fixture, 1).await;
    assert_eq!(publish(&bus, "k", "3").await.offset, 3);
}

/// Law 7.
pub async fn compaction_keeps_the_newest_of_each_key(fixture: &impl Ageing) {
    let bus = fixture.open().await;
    let compacted = Retention { age: Duration::from_secs(1), bytes: 1, compacted: true };
    bus.ensure_topics(&[topic("t", 1, compacted)]).await.expect("the topic can be created");
    for (key, value) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("b", "b2")] {
        publish(&bus, key, value).await;
    }
    // All are young: a reader that is a little behind still sees every change.
    fixture.pass(&bus, Duration::from_secs(30)).await;
    assert_eq!(texts(&mut subscribe(&bus, StartAt::Earliest).await, 5).await, ["a1", "b1", "a2", "c1", "b2"]);
    fixture.pass(&bus, 2 * DAY).await;
    publish(&bus, "d", "d1").await;
    let mut reader = subscribe(&bus, StartAt::Earliest).await;
    assert_eq!(texts(&mut reader, 4).await, ["a2", "c1", "b2", "d1"]);
}

/// A value past the limit is refused, with everything else of its call, before anything is written.
pub async fn an_oversize_value_is_refused_before_anything_is_written(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    let records = vec![record("k", "small"), record("k", "x".repeat(BUS_VALUE_BYTES_MAX + 1))];
    let error = bus.publish("t", records).await.expect_err("the value is too large");
    assert!(matches!(error, BusError::TooLarge { bytes, .. } if bytes > BUS_VALUE_BYTES_MAX), "{error}");
    assert_eq!(extent(&bus).await.high, 0);
}

pub async fn an_unknown_topic_is_an_error(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    let is_unknown = |error: BusError| matches!(error, BusError::NoSuchTopic { topic } if topic == "nowhere");
    let published = bus.publish("nowhere", vec![record("k", "v")]).await;
    assert!(published.is_err_and(is_unknown));
    assert!(bus.subscribe("nowhere", StartAt::Earliest).await.is_err_and(is_unknown));
    assert!(bus.join("nowhere", "g").await.is_err_and(is_unknown));
    assert!(bus.extents("nowhere").await.is_err_and(is_unknown));
}

pub async fn topics_are_created_once(fixture: &impl Fixture) {
    let bus = opened(fixture, 2).await;
    publish(&bus, "k", "kept").await;
    bus.ensure_topics(&[topic("t", 2, KEEP), topic("u", 1, KEEP)]).await.expect("both fit");
    assert_eq!(texts(&mut subscribe(&bus, StartAt::Earliest).await, 1).await, ["kept"]);
    assert_eq!(bus.extents("u").await.map(|extents| extents.len()).ok(), Some(1));
}

pub async fn another_width_is_refused_with_both_numbers(fixture: &impl Fixture) {
    let bus = opened(fixture, 2).await;
    let error = bus.ensure_topics(&[topic("t", 3, KEEP)]).await.expect_err("the topic has two partitions");
    assert!(matches!(error, BusError::Unfit { found: 2, wanted: 3, .. }), "{error}");
}

pub async fn after_closing_every_call_says_so_and_subscriptions_end(fixture: &impl Fixture) {
    let bus = opened(fixture, 1).await;
    let mut reader = subscribe(&bus, StartAt::Latest).await;
    fixture.close(Arc::clone(&bus)).await;
    assert!(reader.next().await.is_none());
    let is_closed = |error: BusError| matches!(error, BusError::Closed);
    assert!(bus.publish("t", vec![record("k", "v")]).await.is_err_and(is_closed));
    assert!(bus.subscribe("t", StartAt::Latest).await.is_err_and(is_closed));
    assert!(bus.join("t", "g").await.is_err_and(is_closed));
    assert!(bus.extents("t").await.is_err_and(is_closed));
    assert!(bus.ensure_topics(&[]).await.is_err_and(is_closed));
}

/// One `#[tokio::test]` for each law of the bus. `$fixture` makes a fresh world each time.
///
/// `bus_contract!(fixture)` leaves out the laws that need an [`Ageing`] fixture; `bus_contract!(fixture, ageing)` has
/// them.
#[macro_export]
macro_rules! bus_contract {
    ($fixture:expr) => {
        $crate::bus_contract!(@each $fixture,
            an_acknowledged_record_survives_reopening
            key_value_and_headers_come_back_whole
            records_of_one_key_keep_their_order_in_one_partition
            records_of_one_call_keep_their_order
            a_reader_sees_each_record_once_in_order
            times_rise_with_offsets
            the_latest_begins_after_the_call
            given_offsets_are_where_reading_begins
            an_offset_past_the_end_begins_at_the_earliest
            a_time_begins_at_the_first_record_not_before_it
            each_record_goes_to_one_member
            a_member_continues_at_the_commit
            a_commit_survives_reopening
            groups_are_independent
            who_stays_takes_over_from_who_leaves
            a_slow_reader_holds_back_nobody
            an_oversize_value_is_refused_before_anything_is_written
            an_unknown_topic_is_an_error
            topics_are_created_once
            another_width_is_refused_with_both_numbers
            after_closing_every_call_says_so_and_subscriptions_end
        );
    };
    ($fixture:expr, ageing) => {
        $crate::bus_contract!($fixture);
        $crate::bus_contract!(@each $fixture,
            age_removes_what_is_older_and_nothing_else
            bytes_remove_the_oldest_of_all_partitions
            offsets_go_on_after_everything_was_removed
            compaction_keeps_the_newest_of_each_key
        );
    };
    (@each $fixture:expr, $($law:ident)*) => {
        $(
            #[tokio::test]
            async fn $law() {
                $crate::bus::contract::$law(&$fixture).await;
            }
        )*
    };
}
