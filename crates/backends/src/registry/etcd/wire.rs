//! Our notions in etcd's words and back. Field numbers and names are in `proto/etcd.proto`.

use bytes::Bytes;
use model::id::Revision;

use self::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use self::pb::request_op::Request;
use crate::registry::{Compare, Entry, Event, LeaseId, Operation, Txn};

/// What `tonic-prost-build` generates from `proto/etcd.proto`.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations, reason = "generated code")]
pub(super) mod pb {
    tonic::include_proto!("etcdserverpb");
}

/// First key and end of the keys under `prefix`: etcd's ranges exclude their end, and a zero byte means "no end".
pub(super) fn range_of(prefix: &str) -> (Bytes, Bytes) {
    const NO_END: &[u8] = &[0];
    if prefix.is_empty() {
        return (Bytes::from_static(NO_END), Bytes::from_static(NO_END));
    }
    let mut end = prefix.as_bytes().to_vec();
    // The last byte of a text is never 0xff, so adding one to it always gives the end.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    (Bytes::copy_from_slice(prefix.as_bytes()), Bytes::from(end))
}

/// The key that follows `key` directly.
pub(super) fn after(key: &[u8]) -> Bytes {
    Bytes::from([key, &[0]].concat())
}

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, |header| unsigned(header.revision)))
}

/// etcd's numbers are signed and never negative.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// `None` when the key is not text: none of ours, and one that could not be asked for.
pub(super) fn entry(found: pb::KeyValue) -> Option<Entry> {
    Some(Entry {
        key: text(&found.key)?,
        value: found.value,
        created: Revision(unsigned(found.create_revision)),
        modified: Revision(unsigned(found.mod_revision)),
        version: unsigned(found.version),
        lease: (found.lease != 0).then_some(LeaseId(found.lease)),
    })
}

/// As for [`entry`].
pub(super) fn event(found: pb::Event) -> Option<Event> {
    let is_delete = found.r#type() == pb::event::EventType::Delete;
    let kv = found.kv?;
    if is_delete {
        Some(Event::Delete { key: text(&kv.key)?, revision: Revision(unsigned(kv.mod_revision)) })
    } else {
        entry(kv).map(Event::Put)
    }
}

fn text(key: &[u8]) -> Option<String> {
    std::str::from_utf8(key).ok().map(str::to_owned)
}

pub(super) fn txn(txn: Txn) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: txn.compares.into_iter().map(compare).collect(),
        success: txn.operations.into_iter().map(operation).collect(),
    }
}

fn compare(compare: Compare) -> pb::Compare {
    let (key, result, target, value) = match compare {
        Compare::Absent { key } => {
            (key, CompareResult::Equal, CompareTarget::Version, TargetUnion::Version(0))
        }
        Compare::Present { key } => {
            (key, CompareResult::Greater, CompareTarget::Version, TargetUnion::Version(0))
        }
        Compare::Modified { key, revision } => {
            // To etcd an absent key was last written at 0; here it equals no revision.
            let revision = if revision.0 == 0 { -1 } else { signed(revision) };
            (key, CompareResult::Equal, CompareTarget::Mod, TargetUnion::ModRevision(revision))
        }
        Compare::Value { key, value } => {
            (key, CompareResult::Equal, CompareTarget::Value, TargetUnion::Value(value))
        }
    };
    pb::Compare { result: result.into(), target: target.into(), key: key.into(), target_union: Some(value) }
}

fn operation(operation: Operation) -> pb::RequestOp {
    let request = match operation {
        Operation::Put { key, value, lease } => {
            let lease = lease.map_or(0, |lease| lease.0);
            Request::RequestPut(pb::PutRequest { key: key.into(), value, lease })
        }
        Operation::Delete { key } => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.into() }),
    };
    pb::RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_holds_exactly_the_keys_under_its_prefix(prefix in ".{1,4}", rest in ".{0,3}", other in ".{1,6}") {
            let (first, end) = range_of(&prefix);
            let holds = |key: &str| first.as_ref() <= key.as_bytes() && key.as_bytes() < end.as_ref();
            let under = format!("{prefix}{rest}");
            prop_assert!(holds(&under));
            prop_assert_eq!(holds(&other), other.starts_with(&prefix));
        }
    }

    #[test]
    fn the_empty_prefix_is_everything() {
        assert_eq!(range_of(""), (Bytes::from_static(&[0]), Bytes::from_static(&[0])));
    }

    #[test]
    fn an_absent_key_was_modified_at_no_revision() {
        let modified = compare(Compare::Modified { key: "a".to_owned(), revision: Revision(0) });
        assert_eq!(modified.target_union, Some(TargetUnion::ModRevision(-1)));
    }

    #[test]
    fn a_key_that_is_not_text_is_left_out() {
        let kv = pb::KeyValue { key: Bytes::from_static(&[0xff]), ..Default::default() };
        assert_eq!(entry(kv.clone()), None);
        assert_eq!(event(pb::Event { r#type: 1, kv: Some(kv) }), None);
    }
}
