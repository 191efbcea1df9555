//! Where the kernel is read from: roots, and files that stay open.
//!
//! A file of /proc is made anew for every read at its start, so one descriptor and `pread` serve for ever; opening and
//! closing each time costs more than twice as much (measured: 66 instead of 27 µs for the four seed files).

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use model::limit::{MOUNT_PATIENCE, PROC_FILE_BYTES_MAX};

use super::CollectError;
use super::filesystem::{Space, space_of};

/// What a first read expects; most files fit.
const BUFFER_BYTES: usize = 4 * 1024;

/// Asks the file system mounted there for its space; may block for ever.
pub type SpaceOf = Arc<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// The machine as the collectors see it: where its files are, what its kernel counts in, and the one question that is
/// no file. In a container that watches its host the roots are mounts such as `/host/proc`.
#[derive(Clone)]
pub struct Host {
    pub proc: PathBuf,
    pub sys: PathBuf,
    pub rootfs: PathBuf,
    /// Unit of the memory fields of `/proc/<pid>/stat`.
    pub(super) page_bytes: u64,
    /// Unit of processor times per process.
    pub(super) ticks_per_second: u64,
    pub(super) space_of: SpaceOf,
    /// How long one collection waits for mounts.
    pub(super) mount_patience: Duration,
    /// Threads that ask mounts: counted here because stuck ones outlive the collector that started them.
    pub(super) mount_threads: Arc<AtomicUsize>,
}

impl Host {
    /// This machine, seen from here.
    pub fn local() -> Self {
        Self::at("/proc", "/sys", "/")
    }

    /// The machine whose files are below these folders.
    pub fn at(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>, rootfs: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            sys: sys.into(),
            rootfs: rootfs.into(),
            page_bytes: u64::try_from(rustix::param::page_size()).unwrap_or(4_096),
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            space_of: Arc::new(space_of),
            mount_patience: MOUNT_PATIENCE,
            mount_threads: Arc::default(),
        }
    }

    /// A recorded machine: what its files do not say is told, so that they mean the same everywhere. Its mounts have a
    /// second to answer, because a busy test machine is not a dead file server.
    #[must_use]
    pub fn recorded(self, page_bytes: u64, ticks_per_second: u64, space_of: SpaceOf) -> Self {
        let mount_patience = Duration::from_secs(1);
        Self { page_bytes, ticks_per_second, space_of, mount_patience, ..self }
    }

    /// A process that lives in the watched machine's mount and network namespaces: in our own /proc we do, in another
    /// one its first process does.
    pub(super) fn resident(&self) -> PathBuf {
        self.proc.join(if self.proc == Path::new("/proc") { "self" } else { "1" })
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proc, sys, rootfs, .. } = self;
        f.debug_struct("Host")
            .field("proc", proc)
            .field("sys", sys)
            .field("rootfs", rootfs)
            .finish_non_exhaustive()
    }
}

/// A file that is read again and again.
#[derive(Debug)]
pub(super) struct KeptFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KeptFile {
    /// Opens nothing yet.
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, buffer: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole content as it is now. A descriptor that went stale (its device left, /proc was mounted anew) is
    /// replaced once.
    pub(super) fn read(&mut self) -> Result<&[u8], CollectError> {
        let kept = self.file.take().and_then(|file| Some((fill(&file, &mut self.buffer).ok()?, file)));
        let (bytes, file) = match kept {
            Some(kept) => kept,
            None => self.open().map_err(|cause| CollectError::Read { path: self.path.clone(), cause })?,
        };
        self.file = Some(file);
        Ok(&self.buffer[..bytes])
    }

    /// Like [`Self::read`], with `None` where this kernel or machine has no such file.
    pub(super) fn read_if_present(&mut self) -> Result<Option<&[u8]>, CollectError> {
        match self.read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The error for content that is not what `what` says.
    pub(super) fn malformed(path: &Path, what: &'static str) -> CollectError {
        CollectError::Malformed { path: path.to_owned(), what }
    }

    fn open(&mut self) -> io::Result<(usize, File)> {
        let file = File::open(&self.path)?;
        Ok((fill(&file, &mut self.buffer)?, file))
    }
}

/// Reads a file once, into a buffer that is used again.
pub(super) fn read_once<'b>(path: &Path, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    let bytes = fill(&File::open(path)?, buffer)?;
    Ok(&buffer[..bytes])
}

/// Reads from the start until nothing comes; a short read is not the end.
fn fill(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            if filled >= PROC_FILE_BYTES_MAX {
                return Err(ErrorKind::FileTooLarge.into());
            }
            buffer.resize((filled * 2).clamp(BUFFER_BYTES, PROC_FILE_BYTES_MAX), 0);
        }
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => return Ok(filled),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8]) -> (tempfile::TempDir, KeptFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        (folder, KeptFile::new(path))
    }

    #[test]
    fn a_kept_file_gives_what_is_there_now() {
        let (_folder, mut file) = kept(b"one, and longer");
        assert_eq!(file.read().unwrap(), b"one, and longer");
        std::fs::write(file.path(), b"two").unwrap();
        assert_eq!(file.read().unwrap(), b"two");
    }

    #[test]
    fn a_file_larger_than_the_buffer_is_read_whole() {
        let (_folder, mut file) = kept(&vec![b'x'; 3 * BUFFER_BYTES + 1]);
        assert_eq!(file.read().unwrap().len(), 3 * BUFFER_BYTES + 1);
    }

    #[test]
    fn a_file_that_never_ends_is_an_error_and_not_our_memory() {
        let mut file = KeptFile::new("/dev/zero");
        let error = file.read().unwrap_err();
        assert!(
            matches!(&error, CollectError::Read { cause, .. } if cause.kind() == ErrorKind::FileTooLarge)
        );
        assert!(file.buffer.len() <= PROC_FILE_BYTES_MAX);
    }

    #[test]
    fn a_stale_descriptor_is_replaced() {
        let (_folder, mut file) = kept(b"text");
        file.file = Some(File::open("/").unwrap()); // Reading a folder fails, as reading a device that left does.
        assert_eq!(file.read().unwrap(), b"text");
    }

    #[test]
    fn what_is_not_there_is_an_error_with_its_path_or_an_absence() {
        let mut file = KeptFile::new("/nowhere/stat");
        assert!(file.read().unwrap_err().to_string().contains("/nowhere/stat"));
        assert!(file.read_if_present().unwrap().is_none());
    }

    #[test]
    fn another_machines_proc_is_seen_through_its_first_process() {
        assert_eq!(Host::local().resident(), Path::new("/proc/self"));
        assert_eq!(Host::at("/host/proc", "/host/sys", "/host").resident(), Path::new("/host/proc/1"));
    }
}
