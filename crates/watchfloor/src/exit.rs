//! How the process ends: a closed set of exit codes, listed in `--help`, and the failure that leads to one.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

/// Public: scripts test these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    /// Some agent did not succeed, or the API or Kafka refused or was not there.
    Failed = 1,
    /// The command line was wrong; clap uses the same number.
    Usage = 2,
    /// Flags or environment ask for what cannot be.
    Config = 3,
    /// A port, a directory or a store could not be had.
    Unavailable = 4,
    /// It ran, and did not end in order.
    Dirty = 5,
}

/// The table in `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  everything asked for succeeded
  1  an agent did not succeed, or the API or Kafka refused or was not reachable
  2  wrong usage
  3  flags or environment that cannot be
  4  a port, data directory or store could not be had
  5  stopped, but not in order";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended early, and with which code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    error: anyhow::Error,
}

/// What every command gives back.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub(crate) fn message(
        exit: Exit,
        message: impl fmt::Display + fmt::Debug + Send + Sync + 'static,
    ) -> Self {
        Self { exit, error: anyhow::Error::msg(message) }
    }

    pub(crate) fn cause<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.error.downcast_ref()
    }

    /// Somebody closed our output, as `head` does: no failure of ours.
    pub(crate) fn is_closed_output(&self) -> bool {
        let causes = self.error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        causes.into_iter().any(|cause| cause.kind() == ErrorKind::BrokenPipe)
    }
}

/// One line: the failure and its causes, less those that the text before them quotes.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if line.is_empty() {
                line = cause;
            } else if !line.contains(&cause) {
                line = format!("{line}: {cause}");
            }
        }
        f.write_str(&line)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("disk full");
        let told = |context: &'static str| {
            Failure::new(Exit::Failed, anyhow::Error::new(cause()).context(context)).to_string()
        };
        assert_eq!(told("cannot write a"), "cannot write a: disk full");
        assert_eq!(told("cannot write a (disk full): free some"), "cannot write a (disk full): free some");
    }
}
