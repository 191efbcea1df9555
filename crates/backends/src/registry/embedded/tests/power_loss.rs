//! The power goes at every single write and sync of a small workload; what was acknowledged is there afterwards.

use std::time::Duration;

use model::id::Revision;

use crate::power_loss::{Disk, losses};
use crate::registry::embedded::{EmbeddedRegistry, Options};
use crate::registry::{Compare, LeaseId, Operation, Registry, RegistryError, Snapshot, Txn};
use crate::store::Source;

const STEPS: usize = 9;
const TTL: Duration = Duration::from_secs(10);

fn start(disk: &Disk) -> Result<EmbeddedRegistry, RegistryError> {
    EmbeddedRegistry::start(Source::Disk(disk.clone()), &Options::default())
}

/// Each is one commit.
async fn step(registry: &EmbeddedRegistry, step: usize) -> Result<(), RegistryError> {
    let put = |key: &str, size: usize, lease| Operation::Put {
        key: key.to_owned(),
        value: step.to_string().repeat(size).into(),
        lease,
    };
    let delete = |key: &str| Operation::Delete { key: key.to_owned() };
    let (compares, operations) = match step {
        0 | 2 => return registry.grant(TTL).await.map(drop),
        7 => return registry.revoke(LeaseId(1)).await,
        1 => (Vec::new(), vec![put("/a", 10, Some(LeaseId(1))), put("/b", 10_000, Some(LeaseId(1)))]),
        3 => (vec![Compare::Present { key: "/a".to_owned() }], vec![put("/a", 20, Some(LeaseId(2)))]),
        5 => (Vec::new(), vec![delete("/b"), put("/c", 5, None), put("/b", 7, Some(LeaseId(1)))]),
        _ => (Vec::new(), (0..20).map(|n| put(&format!("/many/{n}"), n * 50, None)).collect()),
    };
    let committed = registry.commit(Txn { compares, operations }).await?;
    assert!(committed.succeeded);
    Ok(())
}

/// Runs until the power goes; the number of steps that were acknowledged.
async fn disturbed(disk: &Disk) -> usize {
    let Ok(registry) = start(disk) else { return 0 };
    let mut acknowledged = 0;
    for number in 0..STEPS {
        if step(&registry, number).await.is_err() {
            break;
        }
        acknowledged += 1;
    }
    registry.close().await.unwrap();
    acknowledged
}

async fn kept(registry: &EmbeddedRegistry) -> Snapshot {
    registry.list("").await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_every_operation() {
    let registry = start(&Disk::default()).unwrap();
    let mut expected = vec![kept(&registry).await];
    for number in 0..STEPS {
        step(&registry, number).await.unwrap();
        expected.push(kept(&registry).await);
    }
    assert_eq!(expected[STEPS].revision, Revision(6 + 1));
    for operation in 1.. {
        let disk = Disk::default();
        disk.cut_power_after(operation);
        let acknowledged = disturbed(&disk).await;
        for loss in losses(operation) {
            let registry = start(&disk.after(loss))
                .unwrap_or_else(|error| panic!("cut at {operation}, {loss:?}: {error}"));
            let found = kept(&registry).await;
            // The step that was under way may have happened, whole.
            let possible = &expected[acknowledged..(acknowledged + 2).min(STEPS + 1)];
            assert!(
                possible.contains(&found),
                "cut at {operation}, {loss:?}: {acknowledged} steps were acknowledged, found {found:?}"
            );
            registry.grant(TTL).await.unwrap();
        }
        if !disk.is_dark() {
            return;
        }
    }
}
