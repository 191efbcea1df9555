//! The data directory of one role: created private, held by one process at a time.
//!
//! The lock is the kernel's, on a file that is never removed, so it ends with its holder however that dies. What the
//! file says (pid, since when) is for people and for the error message; nothing is decided by it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Holds the lock; closing the file releases it.
    _lock: File,
}

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(
        "data directory {} is in use by process {holder}: stop it, or give another --data-dir",
        directory.display()
    )]
    Held { directory: PathBuf, holder: String },
    #[error("{} is not a directory: move it away, or give another --data-dir", path.display())]
    NotADirectory { path: PathBuf },
    #[error(
        "data directory {} cannot be written: make it writable for this user, or give another --data-dir",
        directory.display()
    )]
    Unwritable { directory: PathBuf, source: io::Error },
    #[error("data directory {} cannot be used: {source}; give another --data-dir", directory.display())]
    Unusable { directory: PathBuf, source: io::Error },
}

impl DataDirectory {
    /// Creates `directory` where it is missing, readable by its owner only, and takes its lock. Never waits.
    pub fn lock(directory: &Path) -> Result<Self, DirectoryError> {
        let refuse = |source| DirectoryError::new(directory, source);
        create(directory).map_err(refuse)?;
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(directory.join("lock"))
            .map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::held(directory, &file)),
            Err(TryLockError::Error(source)) => return Err(refuse(source)),
        }
        sign(&file).map_err(refuse)?;
        Ok(Self { path: directory.to_owned(), _lock: file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl DirectoryError {
    fn new(directory: &Path, source: io::Error) -> Self {
        let directory = directory.to_owned();
        match source.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                // The culprit may be a parent: name the deepest path that exists.
                let culprit = directory.ancestors().find(|path| path.is_file()).unwrap_or(&directory);
                Self::NotADirectory { path: culprit.to_owned() }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::Unwritable { directory, source }
            }
            _ => Self::Unusable { directory, source },
        }
    }

    /// The holder may be about to write its line: then it is unknown, which is no reason to wait.
    fn held(directory: &Path, file: &File) -> Self {
        let line = io::read_to_string(file).unwrap_or_default();
        let holder = match line.trim() {
            "" => "unknown".to_owned(),
            line => line.to_owned(),
        };
        Self::Held { directory: directory.to_owned(), holder }
    }
}

fn create(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // A new directory is durable only once its parent is synced.
    for path in missing {
        sync_directory(
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        )?;
    }
    Ok(())
}

/// Makes the names in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn sign(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    writeln!(file, "{} (since {now})", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_directory_is_private() {
        let root = tempfile::tempdir().unwrap();
        let held = DataDirectory::lock(&root.path().join("server/s1")).unwrap();
        for path in [held.path(), held.path().parent().unwrap()] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_second_holder_learns_which_directory_which_process_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let _held = DataDirectory::lock(root.path()).unwrap();
        let error = DataDirectory::lock(root.path()).unwrap_err().to_string();
        assert!(error.contains(&root.path().display().to_string()), "{error}");
        assert!(error.contains(&format!("process {} (since 2", std::process::id())), "{error}");
        assert!(error.ends_with("stop it, or give another --data-dir"), "{error}");
    }

    #[test]
    fn a_dropped_directory_can_be_locked_again() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDirectory::lock(root.path()).unwrap());
        DataDirectory::lock(root.path()).unwrap();
    }

    #[test]
    fn the_line_of_an_earlier_holder_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("lock"), "x".repeat(1_000)).unwrap();
        let _held = DataDirectory::lock(root.path()).unwrap();
        let line = std::fs::read_to_string(root.path().join("lock")).unwrap();
        assert!(line.starts_with(&std::process::id().to_string()) && line.len() < 100, "{line}");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("agent");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("agent-001")] {
            let error = DataDirectory::lock(&path).unwrap_err();
            assert!(matches!(&error, DirectoryError::NotADirectory { path } if *path == file), "{error}");
        }
    }

    #[test]
    fn a_directory_without_write_permission_is_said_to_be_unwritable() {
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            let error = DirectoryError::new(Path::new("/srv/data"), kind.into());
            assert!(error.to_string().starts_with("data directory /srv/data cannot be written"), "{error}");
        }
    }

    #[test]
    fn a_place_where_nothing_can_be_created_is_an_error_with_its_cause() {
        let error = DataDirectory::lock(Path::new("/proc/nothing/here")).unwrap_err();
        assert!(error.to_string().starts_with("data directory /proc/nothing/here cannot be"), "{error}");
    }
}
