//! Who of a group reads which partitions. Members live in this process, as the embedded bus does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The partitions of one member.
pub(super) type Share = BTreeSet<u32>;

/// Every group with its members.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<BTreeMap<Name, Vec<Member>>>);

type Name = (String, String);

#[derive(Debug)]
struct Member {
    id: u64,
    share: watch::Sender<Share>,
}

/// One member's place in its group; dropping it leaves the group.
#[derive(Debug)]
pub(super) struct Membership {
    groups: Arc<Groups>,
    name: Name,
    id: u64,
    partitions: u32,
    pub(super) share: watch::Receiver<Share>,
}

impl Membership {
    /// Joins `group` on `topic`; the partitions are dealt anew among all its members.
    pub(super) fn new(groups: &Arc<Groups>, topic: &str, group: &str, partitions: u32) -> Self {
        let name = (topic.to_owned(), group.to_owned());
        let mut all = groups.lock();
        let members = all.entry(name.clone()).or_default();
        let id = members.last().map_or(0, |last| last.id + 1);
        let (sender, share) = watch::channel(Share::new());
        members.push(Member { id, share: sender });
        rebalance(members, partitions);
        drop(all);
        Self { groups: Arc::clone(groups), name, id, partitions, share }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut all = self.groups.lock();
        let Some(members) = all.get_mut(&self.name) else { return };
        members.retain(|member| member.id != self.id);
        rebalance(members, self.partitions);
        if members.is_empty() {
            all.remove(&self.name);
        }
    }
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Vec<Member>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn rebalance(members: &[Member], partitions: u32) {
    let mut shares: Vec<Share> = members.iter().map(|member| member.share.borrow().clone()).collect();
    deal(&mut shares, partitions);
    for (member, share) in members.iter().zip(shares) {
        member.share.send_if_modified(|current| {
            let changed = *current != share;
            *current = share;
            changed
        });
    }
}

/// Evens the shares out, moving as few partitions as possible.
fn deal(shares: &mut [Share], partitions: u32) {
    let Some(members) = u32::try_from(shares.len()).ok().filter(|members| *members > 0) else { return };
    let (quota, mut larger) = (partitions / members, partitions % members);
    // Who has most keeps the larger shares.
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|member| std::cmp::Reverse(shares[*member].len()));
    let mut quotas = vec![0; shares.len()];
    for member in &order {
        quotas[*member] = (quota + u32::from(larger > 0)) as usize;
        larger = larger.saturating_sub(1);
    }
    for (share, quota) in shares.iter_mut().zip(&quotas) {
        while share.len() > *quota {
            share.pop_last();
        }
    }
    let taken: Share = shares.iter().flatten().copied().collect();
    let mut free = (0..partitions).filter(|partition| !taken.contains(partition));
    for (share, quota) in shares.iter_mut().zip(&quotas) {
        let missing = quota - share.len();
        share.extend(free.by_ref().take(missing));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_partition_has_one_owner_and_shares_differ_by_one_at_most(
            members in 1..8_usize, partitions in 1..40_u32, leaver in 0..8_usize
        ) {
            let mut shares: Vec<Share> = Vec::new();
            for _ in 0..members {
                shares.push(Share::new());
                deal(&mut shares, partitions);
            }
            if leaver < shares.len() && shares.len() > 1 {
                shares.remove(leaver);
                deal(&mut shares, partitions);
            }
            let mut owned: Vec<u32> = shares.iter().flatten().copied().collect();
            owned.sort_unstable();
            prop_assert_eq!(owned, (0..partitions).collect::<Vec<_>>());
            let sizes: Vec<usize> = shares.iter().map(Share::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn who_stays_keeps_what_it_has_when_another_leaves() {
        let mut shares = [Share::from([0, 1]), Share::from([4, 5])];
        deal(&mut shares, 6);
        assert!(shares[0].is_superset(&Share::from([0, 1])), "{shares:?}");
        assert!(shares[1].is_superset(&Share::from([4, 5])), "{shares:?}");
    }

    #[test]
    fn a_member_that_leaves_hands_over_its_share() {
        let groups = Arc::default();
        let first = Membership::new(&groups, "t", "g", 4);
        let second = Membership::new(&groups, "t", "g", 4);
        assert_eq!((first.share.borrow().len(), second.share.borrow().len()), (2, 2));
        drop(first);
        assert_eq!(*second.share.borrow(), Share::from([0, 1, 2, 3]));
    }
}
