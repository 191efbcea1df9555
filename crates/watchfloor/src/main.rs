//! One binary, every role: parse, run, exit code. See `cli.rs` for what can be asked and `roles.rs` for how roles run.

mod api;
mod cli;
mod environment;
mod exit;
mod external;
mod roles;

use std::process::ExitCode;

use crate::cli::Cli;
use crate::environment::Environment;
use crate::exit::Exit;

fn main() -> ExitCode {
    match Cli::read().run(&Environment::read()) {
        Ok(exit) => exit.into(),
        Err(failure) if failure.is_closed_output() => Exit::Ok.into(),
        Err(failure) => {
            anstream::eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}
