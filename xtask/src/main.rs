//! The project's own tools: `cargo xtask tidy` checks what the compiler cannot, `cargo xtask coverage` measures the
//! tests. No crate of the product depends on this one.

mod coverage;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own tools")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check the workspace's rules: ranks, manifests, headers, lengths, documents
    Tidy,
    /// Run every test with coverage and print the covered lines of each crate (needs cargo-llvm-cov)
    Coverage,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().task {
        Task::Tidy => tidy_here(),
        Task::Coverage => coverage::run(),
    }
}

fn tidy_here() -> anyhow::Result<ExitCode> {
    let faults = tidy::check(&tidy::tree::Tree::of_workspace()?);
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} faults", faults.len());
    Ok(ExitCode::FAILURE)
}
