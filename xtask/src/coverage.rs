//! Line coverage of every test of the workspace, measured by cargo-llvm-cov and printed as its table per file.
//!
//! It is a number to look at, not a gate. The processes that acceptance tests start are counted as far as they are
//! started from the instrumented build.

use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

/// Tests and this tool are not what is measured.
const NOT_MEASURED: &str = r"(/tests/|/tests\.rs$|/xtask/|/build\.rs$)";

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let version = Command::new("cargo").args(["llvm-cov", "--version"]).output().context("start cargo")?;
    if !version.status.success() {
        bail!(
            "cargo-llvm-cov is not installed: run `cargo install --locked cargo-llvm-cov` and \
             `rustup component add llvm-tools`"
        );
    }
    let measured = Command::new("cargo")
        .args(["llvm-cov", "--workspace", "--exclude", "xtask", "--summary-only"])
        .args(["--ignore-filename-regex", NOT_MEASURED])
        .status()
        .context("start cargo llvm-cov")?;
    Ok(if measured.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
