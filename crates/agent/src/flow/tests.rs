//! The data side of a stream against a server that decodes every row and refuses what breaks the protocol.

use model::sample::{Sample, SeriesKey, Tick};
use proptest::prelude::*;
use proto::columns::Decoder;

use super::*;
use crate::parcel::Ledger;

fn parcel(sequence: u64, series: impl IntoIterator<Item = String>) -> Parcel {
    let (first_sequence, sequence) = (Sequence(sequence), Sequence(sequence));
    let series = series.into_iter().map(|name| Sample { key: SeriesKey::new(&name), value: 1.0 }).collect();
    Ledger::default().send(Tick { first_sequence, sequence, series, ..Tick::default() })
}

fn flow(buffer: &Buffer, credits: u32) -> Flow {
    let welcome = Welcome { credits, ..Welcome::default() };
    Flow::new(Incarnation::new("i1").unwrap(), &welcome, buffer)
}

/// What a server makes of one stream: decodes every row, and refuses what breaks the protocol.
#[derive(Default)]
struct Server {
    decoder: Decoder,
    received: Vec<u64>,
    last_batch: u64,
}

impl Server {
    fn take(&mut self, body: Body) {
        match body {
            Body::Schema(schema) => self.decoder.learn(schema).unwrap(),
            Body::Batch(batch) => {
                assert_eq!(batch.batch_id, self.last_batch + 1);
                self.last_batch = batch.batch_id;
                assert!(batch.first_sequence <= batch.last_sequence);
                for row in batch.rows {
                    self.received.push(self.decoder.decode(batch.schema_id, row).unwrap().sequence.0);
                }
            }
            other => panic!("{other:?} is no data"),
        }
    }
}

#[test]
fn without_credits_nothing_is_sent_and_an_acknowledgement_returns_one() {
    let mut buffer = Buffer::default();
    let mut flow = flow(&buffer, 1);
    let mut server = Server::default();
    buffer.push(parcel(1, []));
    while let Some(body) = flow.next(&buffer) {
        server.take(body);
    }
    buffer.push(parcel(2, []));
    assert!(!flow.has_next(&buffer));
    assert_eq!(flow.next(&buffer), None);
    let end = flow.acknowledged(1).unwrap().unwrap();
    buffer.release(end);
    assert!(flow.has_next(&buffer));
    let Some(body @ Body::Batch(_)) = flow.next(&buffer) else {
        panic!("a schema without columns was repeated")
    };
    server.take(body);
    assert_eq!(server.received, [1, 2]);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let mut flow = flow(&Buffer::default(), 1);
    assert_eq!(flow.acknowledged(1), Err(NeverSent { acknowledged: 1, sent: 0 }));
}

#[test]
fn names_that_change_with_every_tick_arrive_whole() {
    let mut buffer = Buffer::default();
    for sequence in 1..=8 {
        buffer.push(parcel(sequence, (0..1_000).map(|name| format!("p{sequence}-{name}"))));
    }
    let mut flow = flow(&buffer, 16);
    let mut server = Server::default();
    while let Some(body) = flow.next(&buffer) {
        server.take(body);
    }
    assert_eq!(server.received, (1..=8).collect::<Vec<_>>());
}

#[test]
fn ticks_without_record_are_one_batch_of_ranges() {
    let mut buffer = Buffer::default();
    let mut ledger = Ledger::default();
    let mut pipeline = model::pipeline::Pipeline::default();
    let output = pipeline.not_collected(Sequence(1));
    assert!(ledger.pack(output, std::time::Duration::ZERO).is_empty());
    buffer.push(ledger.flush().unwrap());
    let Some(Body::Batch(batch)) = flow(&buffer, 1).next(&buffer) else { panic!("no batch") };
    assert_eq!((batch.first_sequence, batch.last_sequence, batch.rows.len()), (1, 1, 0));
    assert_eq!(batch.dispositions[0].action, wire::disposition::Action::NotCollected as i32);
}

#[derive(Clone, Debug)]
enum Step {
    Collect,
    Send,
    Acknowledge,
    Reconnect,
}

proptest! {
    /// Whatever the order of events, everything arrives at least once, in order, and leaves the buffer only acknowledged.
    #[test]
    fn nothing_is_skipped_and_nothing_is_forgotten(
        steps in proptest::collection::vec(
            prop_oneof![Just(Step::Collect), Just(Step::Send), Just(Step::Acknowledge), Just(Step::Reconnect)], 0..200),
        credits in 1u32..4,
    ) {
        let mut buffer = Buffer::default();
        let mut flow_now = flow(&buffer, credits);
        let (mut server, mut sequence, mut stored) = (Server::default(), 0, 0);
        let finish = [Step::Reconnect].into_iter().chain(
            std::iter::repeat_n([Step::Send, Step::Acknowledge], 2 * steps.len() + 2).flatten());
        for step in steps.iter().cloned().chain(finish) {
            match step {
                Step::Collect => {
                    sequence += 1;
                    buffer.push(parcel(sequence, [format!("s{}", sequence % 3)]));
                }
                Step::Send => if let Some(body) = flow_now.next(&buffer) { server.take(body) },
                Step::Acknowledge => {
                    prop_assert!(flow_now.unacknowledged.len() <= credits as usize);
                    for received in std::mem::take(&mut server.received) {
                        prop_assert!(received <= stored + 1, "{} after {}", received, stored);
                        stored = stored.max(received);
                    }
                    if let Some(end) = flow_now.acknowledged(server.last_batch).unwrap() { buffer.release(end); }
                }
                Step::Reconnect => {
                    server = Server::default();
                    flow_now = flow(&buffer, credits);
                }
            }
        }
        prop_assert_eq!(stored, sequence);
        prop_assert_eq!(buffer.fill().ticks, 0);
    }
}
