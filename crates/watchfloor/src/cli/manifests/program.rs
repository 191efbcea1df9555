//! What the binary understands: its commands, their listeners, the environment it reads.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use clap::{ArgMatches, CommandFactory};

use crate::cli::Cli;
use crate::environment::Environment;

/// A command as a manifest gives it, understood.
pub(super) struct Understood {
    pub(super) verb: String,
    matches: ArgMatches,
}

/// Fails on what the command line does not take. `words` are those after the program's name.
#[track_caller]
pub(super) fn understand(place: &str, words: &[String]) -> Understood {
    let line = std::iter::once("watchfloor").chain(words.iter().map(String::as_str));
    let parsed = Cli::command().try_get_matches_from(line);
    let matches = parsed.unwrap_or_else(|error| panic!("{place}: {words:?}\n{error}"));
    let (verb, matches) = matches.subcommand().unwrap_or_else(|| panic!("{place}: no command"));
    Understood { verb: verb.to_owned(), matches: matches.clone() }
}

impl Understood {
    /// Where it listens: `grpc_listen` or `http_listen`.
    pub(super) fn listener(&self, flag: &str) -> Option<SocketAddr> {
        self.matches.try_get_one::<SocketAddr>(flag).ok().flatten().copied()
    }

    /// Whether gRPC is encrypted there.
    pub(super) fn has_tls(&self) -> bool {
        ["tls_cert", "tls_ca"].iter().any(|flag| self.matches.contains_id(flag) && self.is_given(flag))
    }

    fn is_given(&self, flag: &str) -> bool {
        self.matches.value_source(flag) == Some(clap::parser::ValueSource::CommandLine)
    }

    /// The process a `health` asks.
    pub(super) fn asks(&self) -> Option<SocketAddr> {
        let url = self.matches.get_one::<url::Url>("api")?;
        url.socket_addrs(|| None).ok()?.first().copied()
    }
}

/// Every name the binary looks up in its environment.
pub(super) fn variables() -> BTreeSet<String> {
    fn walk(command: &clap::Command, names: &mut BTreeSet<String>) {
        let given = command.get_arguments().filter_map(clap::Arg::get_env);
        names.extend(given.map(|name| name.to_string_lossy().into_owned()));
        command.get_subcommands().for_each(|command| walk(command, names));
    }
    let names = RefCell::new(BTreeSet::new());
    walk(&Cli::command(), &mut names.borrow_mut());
    Environment::from(|name| {
        names.borrow_mut().insert(name.to_owned());
        None
    });
    names.into_inner()
}

#[test]
fn the_environment_is_known_from_flags_and_from_the_seeds() {
    let known = variables();
    for name in ["WATCHFLOOR_INSECURE", "WATCHFLOOR_DATA_DIR", "KAFKA_BOOTSTRAP_SERVERS", "ETCD_PORT"] {
        assert!(known.contains(name), "{name} is not among {known:?}");
    }
}
