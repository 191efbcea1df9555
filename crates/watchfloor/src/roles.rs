//! How roles run in one process: what can fail is bound first, then everything is spawned, then it waits for its end
//! and stops in stages. One file per command; what they share lies beside them.
//!
//! Roles never see one another here either: they get the same bus and registry, and that is all.

mod agent;
mod analysis;
mod backends;
mod banner;
mod central;
mod flags;
mod http;
mod monitor;
mod presence;
mod process;
mod server;
mod up;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use runtime::telemetry;

use crate::cli::LogFormat;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, Outcome};

/// The commands that start roles.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    Up(up::Args),
    Server(server::Args),
    Agent(agent::Args),
    Monitor(monitor::Args),
    Analysis(analysis::Args),
}

/// How a role's process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Exit(Exit),
    /// A command asked for a new process in place of this one.
    Restart,
}

/// What still runs on blocking threads, such as a look at a hung mount, does not hold the process back longer.
const LINGER: Duration = Duration::from_millis(200);

impl Role {
    pub(crate) fn run(&self, format: LogFormat, environment: &Environment) -> Outcome {
        // Looked up now: an upgrade replaces the file, and a restart is to run the new one.
        let program = std::env::current_exe()?;
        telemetry::init(format.into(), self.log_filter());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let end = runtime.block_on(async {
            match self {
                Self::Up(args) => args.run(environment).await.map(End::Exit),
                Self::Server(args) => args.run(environment).await.map(End::Exit),
                Self::Agent(args) => args.run(environment).await,
                Self::Monitor(args) => args.run(environment).await.map(End::Exit),
                Self::Analysis(args) => args.run(environment).await.map(End::Exit),
            }
        });
        runtime.shutdown_timeout(LINGER);
        match end? {
            End::Exit(exit) => Ok(exit),
            End::Restart => {
                let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
                Err(Failure::new(Exit::Dirty, anyhow::Error::new(error).context("restart this process")))
            }
        }
    }

    fn log_filter(&self) -> &'static str {
        match self {
            Self::Up(args) if !args.is_verbose() => "warn",
            Self::Up(_) | Self::Server(_) | Self::Agent(_) | Self::Monitor(_) | Self::Analysis(_) => "info",
        }
    }
}

impl From<LogFormat> for telemetry::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}
