//! The shapes `-o` can ask for.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// For people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

/// For what comes record by record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordOutput {
    #[default]
    Table,
    /// One array.
    Json,
    /// One `monitoring-data` value per line.
    Jsonl,
    /// The eight metrics, one record per line.
    Csv,
}

/// Indented JSON and a line feed.
pub(crate) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// The same for an array that is never whole in memory.
pub(crate) fn json_array(
    out: &mut dyn Write,
    values: impl Iterator<Item = impl Serialize>,
) -> io::Result<()> {
    serde_json::Serializer::pretty(&mut *out).collect_seq(values)?;
    writeln!(out)
}
