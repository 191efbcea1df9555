//! A disk for tests that keeps only what was synced.
//!
//! It lies under redb in place of a file. Every write, resize and sync is one operation; the power can be cut at any of
//! them. What was not synced by then is lost, kept, or kept in part: sector by sector, in no order, as drives do.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// A handle; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

#[derive(Default)]
struct Platter {
    /// What is safe.
    synced: Vec<u8>,
    /// What the operating system shows: the synced image with everything since.
    shown: Vec<u8>,
    unsynced: Vec<Change>,
    operations: u64,
    cut_at: Option<u64>,
    space: Space,
    /// The blocks that were ever written; all others are holes.
    blocks: BTreeSet<usize>,
}

/// What a disk still takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Space {
    #[default]
    Plenty,
    /// Old blocks can be rewritten and holes cannot be filled: a full ext4 or XFS.
    NoNewBlocks,
    /// Nothing can be written: a full file system that copies on write.
    None,
}

const BLOCK: usize = 4_096;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize { len: usize },
}

/// What becomes of the changes that were not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    All,
    Nothing,
    /// Each resize and each sector of each write is lost or kept by the toss of a seeded coin.
    Sectors {
        bytes: usize,
        seed: u64,
    },
}

/// One of each kind of loss; the torn ones differ from one `seed` to the next.
pub(crate) fn losses(seed: u64) -> [Loss; 4] {
    [Loss::All, Loss::Nothing, Loss::Sectors { bytes: 512, seed }, Loss::Sectors { bytes: 4_096, seed }]
}

impl Disk {
    /// Cuts the power at the `operations`-th operation from now, counted from 1: it fails, and each one after it.
    pub(crate) fn cut_power_after(&self, operations: u64) {
        let mut platter = self.lock();
        platter.cut_at = Some(platter.operations + operations);
    }

    /// Whether the power was cut.
    pub(crate) fn is_dark(&self) -> bool {
        let platter = self.lock();
        platter.cut_at.is_some_and(|cut_at| platter.operations >= cut_at)
    }

    /// Lays out an empty disk elsewhere and takes it over in one operation, as renaming a finished file does.
    pub(crate) fn begin_with<E>(&self, lay_out: impl FnOnce(Self) -> Result<(), E>) -> Result<(), E>
    where
        E: From<io::Error>,
    {
        if self.lock().shown.is_empty() {
            let fresh = Self::default();
            lay_out(fresh.clone())?;
            let mut platter = self.lock();
            platter.count()?;
            platter.shown.clone_from(&fresh.lock().synced);
            platter.synced.clone_from(&fresh.lock().synced);
        }
        Ok(())
    }

    pub(crate) fn set_space(&self, space: Space) {
        self.lock().space = space;
    }

    /// The disk as it is found when the power is back.
    pub(crate) fn after(&self, loss: Loss) -> Self {
        let platter = self.lock();
        let mut found = platter.synced.clone();
        let mut coin = Coin(match loss {
            Loss::Sectors { seed, .. } => seed,
            Loss::All | Loss::Nothing => 0,
        });
        for change in &platter.unsynced {
            match (loss, change) {
                (Loss::All, _) => {}
                (Loss::Nothing, change) => apply(&mut found, change),
                (Loss::Sectors { .. }, Change::Resize { .. }) => {
                    if coin.toss() {
                        apply(&mut found, change);
                    }
                }
                (Loss::Sectors { bytes: sector, .. }, Change::Write { offset, bytes }) => {
                    for part in sectors(*offset, bytes, sector) {
                        if coin.toss() {
                            apply(&mut found, &part);
                        }
                    }
                }
            }
        }
        Self(Arc::new(Mutex::new(Platter { synced: found.clone(), shown: found, ..Platter::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one operation; the one that is cut may still reach the disk in part.
    fn change(&self, change: Change) -> io::Result<()> {
        let mut platter = self.lock();
        platter.allocate(&change)?;
        let cut = platter.count();
        if !platter.was_dark_before() {
            apply(&mut platter.shown, &change);
            platter.unsynced.push(change);
        }
        cut
    }
}

impl Platter {
    fn allocate(&mut self, change: &Change) -> io::Result<()> {
        let touched = match change {
            Change::Write { offset, bytes } => offset / BLOCK..(offset + bytes.len()).div_ceil(BLOCK),
            Change::Resize { .. } => 0..0,
        };
        let fits = match self.space {
            Space::Plenty => true,
            Space::NoNewBlocks => touched.clone().all(|block| self.blocks.contains(&block)),
            Space::None => false,
        };
        if !fits {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.blocks.extend(touched);
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.cut_at {
            Some(cut_at) if self.operations >= cut_at => Err(io::Error::other("the power is out")),
            _ => Ok(()),
        }
    }

    fn was_dark_before(&self) -> bool {
        self.cut_at.is_some_and(|cut_at| self.operations > cut_at)
    }
}

impl std::fmt::Debug for Platter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platter").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().shown.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.lock();
        let start = offset as usize;
        let bytes = platter.shown.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Resize { len: len as usize })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.lock();
        let platter = &mut *guard;
        platter.count()?;
        for change in platter.unsynced.drain(..) {
            apply(&mut platter.synced, &change);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset: offset as usize, bytes: data.to_vec() })
    }
}

/// Bytes past the end do not exist: their resize was lost.
fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Resize { len } => image.resize(*len, 0),
        Change::Write { offset, bytes } => {
            let end = (offset + bytes.len()).min(image.len());
            if let Some(target) = image.get_mut(*offset..end) {
                target.copy_from_slice(&bytes[..target.len()]);
            }
        }
    }
}

fn sectors(offset: usize, bytes: &[u8], sector: usize) -> Vec<Change> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let end = (start + sector - (offset + start) % sector).min(bytes.len());
        parts.push(Change::Write { offset: offset + start, bytes: bytes[start..end].to_vec() });
        start = end;
    }
    parts
}

/// SplitMix64: enough to choose sectors, and the same choice for the same seed.
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & 1 == 1
    }
}

mod tests {
    use super::*;

    fn shown(disk: &Disk) -> Vec<u8> {
        let mut bytes = vec![0; disk.len().unwrap() as usize];
        disk.read(0, &mut bytes).unwrap();
        bytes
    }

    fn disk_with_an_unsynced_write() -> Disk {
        let disk = Disk::default();
        disk.set_len(1_024).unwrap();
        disk.write(0, &[1; 1_024]).unwrap();
        disk.sync_data().unwrap();
        disk.write(0, &[2; 1_024]).unwrap();
        disk
    }

    #[test]
    fn a_write_that_was_not_synced_is_lost() {
        let disk = disk_with_an_unsynced_write();
        assert_eq!(shown(&disk), [2; 1_024]);
        assert_eq!(shown(&disk.after(Loss::All)), [1; 1_024]);
        assert_eq!(shown(&disk.after(Loss::Nothing)), [2; 1_024]);
    }

    #[test]
    fn a_write_tears_at_sectors() {
        let disk = disk_with_an_unsynced_write();
        let found: Vec<Vec<u8>> =
            (0..32).map(|seed| shown(&disk.after(Loss::Sectors { bytes: 512, seed }))).collect();
        for torn in [[1, 2], [2, 1]] {
            let image = [[torn[0]; 512], [torn[1]; 512]].concat();
            assert!(found.contains(&image), "no seed gave {torn:?}");
        }
    }

    #[test]
    fn nothing_happens_after_the_power_was_cut() {
        let disk = disk_with_an_unsynced_write();
        disk.cut_power_after(1);
        assert!(disk.sync_data().is_err() && disk.is_dark());
        assert!(disk.write(0, &[3; 1_024]).is_err());
        assert_eq!(shown(&disk.after(Loss::All)), [1; 1_024]);
        assert_eq!(shown(&disk.after(Loss::Nothing)), [2; 1_024]);
    }
}
