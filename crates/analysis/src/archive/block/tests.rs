//! Blocks by their properties: what goes in comes out, and what was altered is seen.

use std::sync::Arc;

use model::id::{AgentId, Incarnation};
use model::sample::Sample;
use proptest::prelude::*;
use proto::record::{DataRecord, NotSentAction};

use super::*;
use crate::archive::tests::{history, query_all};
use crate::history::{History, Taken};

prop_compose! {
    /// Whatever a producer may have written: sequences, times and names without any order.
    fn any_record()(
        sequence in any::<u64>(),
        first in proptest::option::of(any::<u64>()),
        at in any::<i64>(),
        metrics in any::<[Option<i32>; 8]>(),
        series in proptest::collection::vec(("[ab.]{0,3}", "[xy]{0,2}", any::<f64>()), 0..6),
        metadata in proptest::collection::btree_map(".{0,5}", ".{0,5}", 0..2),
        not_sent in proptest::option::of(any::<u64>()),
    ) -> DataRecord {
        let key = |name: &str, value: String| SeriesKey::new(name).with("a", value);
        let not_sent = not_sent.map(|first| NotSent {
            first: Sequence(first),
            last: Sequence(7),
            action: NotSentAction::Merged,
            plugin: "p".to_owned(),
        });
        DataRecord {
            agent_id: AgentId::new("a").unwrap(),
            timestamp: Timestamp::from_unix_ms(at),
            metrics: SystemMetrics::from_values(metrics.map(|value| value.map(f64::from))),
            metadata,
            incarnation: Incarnation::new("i").unwrap(),
            sequence: Sequence(sequence),
            first_sequence: first.map(Sequence),
            series: series.into_iter().map(|(n, v, value)| Sample { key: key(&n, v), value }).collect(),
            not_sent: not_sent.into_iter().collect(),
        }
    }
}

/// The points of `records` as one run has them: by sequence, each once.
fn points(history: &History, records: &[DataRecord]) -> Vec<Arc<Point>> {
    let taken = records.iter().filter_map(|record| {
        match history.take(record.clone(), Timestamp::from_unix_ms(record.timestamp.unix_ms() / 2)) {
            Taken::New(stored) => Some(stored.point),
            Taken::Repeated(_) | Taken::Late(_) => None,
        }
    });
    let mut points: Vec<_> = taken.collect();
    points.sort_by_key(|point| point.sequence);
    points
}

fn encoded(points: &[Arc<Point>]) -> Vec<u8> {
    compress(&columns(&points.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn a_block_gives_back_what_went_in(records in proptest::collection::vec(any_record(), 0..20)) {
        let (first, second) = (history(), history());
        let points = points(&first, &records);
        let block = decode(&encoded(&points)).unwrap();
        let received: Vec<_> = block.rows.iter().map(|row| row.received).collect();
        prop_assert_eq!(received, points.iter().map(|point| point.received).collect::<Vec<_>>());
        let (agent, incarnation) = (AgentId::new("a").unwrap(), Incarnation::new("i").unwrap());
        let restored = second.restore(&agent, &incarnation, block, Timestamp::from_unix_ms(i64::MIN));
        prop_assert_eq!(restored, points.len());
        // As text: not every f64 equals itself.
        prop_assert_eq!(format!("{:?}", query_all(&second)), format!("{:?}", query_all(&first)));
    }

    #[test]
    fn no_bytes_panic_the_decoder(bytes in any::<Vec<u8>>()) {
        drop(decode(&bytes));
        drop(decode(&compress(&bytes).unwrap()));
    }

    #[test]
    fn a_flipped_bit_is_seen(
        records in proptest::collection::vec(any_record(), 1..5), place in any::<prop::sample::Index>(), bit in 0u8..8
    ) {
        let bytes = encoded(&points(&history(), &records));
        let mut flipped = bytes.clone();
        flipped[place.index(bytes.len())] ^= 1 << bit;
        // Some bits of a zstd frame mean nothing: then nothing has changed either.
        if let Ok(block) = decode(&flipped) {
            prop_assert_eq!(format!("{block:?}"), format!("{:?}", decode(&bytes).unwrap()));
        }
    }

    #[test]
    fn what_was_cut_off_is_seen(
        records in proptest::collection::vec(any_record(), 1..5), end in any::<prop::sample::Index>()
    ) {
        let points = points(&history(), &records);
        let bytes = columns(&points.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap();
        prop_assert!(decode(&compress(&bytes[..end.index(bytes.len())]).unwrap()).is_err());
    }
}

#[test]
fn a_block_is_small_where_little_changes() {
    let history = history();
    let keys: Vec<_> = (0..100).map(|cpu| SeriesKey::new("cpu.time").with("cpu", cpu.to_string())).collect();
    let record = |tick: u32| DataRecord {
        agent_id: AgentId::new("a").unwrap(),
        timestamp: Timestamp::from_unix_seconds(i64::from(tick)),
        metrics: SystemMetrics::default(),
        metadata: BTreeMap::new(),
        incarnation: Incarnation::new("i").unwrap(),
        sequence: Sequence(u64::from(tick)),
        first_sequence: None,
        series: keys.iter().map(|key| Sample { key: key.clone(), value: f64::from(tick / 10) }).collect(),
        not_sent: Vec::new(),
    };
    let records: Vec<_> = (0..30).map(record).collect();
    let samples = 30 * 100;
    assert!(encoded(&points(&history, &records)).len() < samples, "more than a byte a sample");
}
