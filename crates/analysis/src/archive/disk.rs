//! A disk for tests that keeps only what was synced, and that can be full. It lies under redb in place of a file.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// A handle; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    /// What the operating system shows.
    shown: Vec<u8>,
    /// Changes until no more is taken; `None` is endless.
    room: Option<u64>,
}

impl Disk {
    /// The disk as it is found after the process was killed and the power went.
    pub(super) fn after_a_cut(&self) -> Self {
        let synced = self.lock().synced.clone();
        Self(Arc::new(Mutex::new(Platter { shown: synced.clone(), synced, room: None })))
    }

    /// So many more changes succeed, and none after them.
    pub(super) fn fill_up_after(&self, changes: u64) {
        self.lock().room = Some(changes);
    }

    pub(super) fn free_space(&self) {
        self.lock().room = None;
    }

    /// An empty disk from now on.
    pub(super) fn replace(&self) {
        *self.lock() = Platter::default();
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut platter = self.lock();
        if let Some(room) = &mut platter.room {
            *room = room.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        change(&mut platter.shown);
        Ok(())
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
        self.change(|shown| shown.resize(len as usize, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        let platter = &mut *self.lock();
        platter.synced.clone_from(&platter.shown);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|shown| shown[offset as usize..offset as usize + data.len()].copy_from_slice(data))
    }
}
