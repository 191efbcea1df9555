//! A command in a document or in `--help` is a claim; here each of them is held against the real command line.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::{Cli, kafka};

/// Words that end one command of a shell line.
const ENDS: [&str; 5] = ["&&", "|", ">", "&", ";"];

/// The commands of a text: whole lines, or in backticks. Those with a placeholder are left out.
fn commands(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().flat_map(|line| {
        let quoted = line.split('`').skip(1).step_by(2);
        std::iter::once(line).chain(quoted).map(str::trim)
    });
    let ours = lines.filter_map(|line| {
        let line = line
            .strip_prefix("cargo run --release -- ")
            .map(|rest| format!("watchfloor {rest}"))
            .unwrap_or(line.to_owned());
        line.starts_with("watchfloor ").then_some(line)
    });
    ours.filter(|line| !line.contains(['…', '<', '`']))
}

/// Two blanks separate an example from what it does.
fn words(command: &str) -> Vec<String> {
    let command = command.split("  ").next().unwrap_or(command);
    let words = shlex::split(command).unwrap_or_else(|| panic!("quotes do not match: {command}"));
    words.into_iter().take_while(|word| !ENDS.contains(&word.as_str())).collect()
}

fn check(place: &str, text: &str) -> usize {
    let mut count = 0;
    for command in commands(text) {
        let parsed = Cli::try_parse_from(kafka::joined(words(&command).into_iter().map(Into::into)));
        let fault = parsed.err().filter(clap::Error::use_stderr);
        assert!(fault.is_none(), "{place}: {command}\n{}", fault.unwrap());
        count += 1;
    }
    count
}

#[test]
fn every_command_in_the_documents_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.chain(["README.md", "ARCHITECTURE.md", "deploy/README.md"].map(|page| root.join(page)));
    // The known gaps name what is not there.
    let tells_what_is = |page: &PathBuf| !page.ends_with("known-gaps.md");
    let pages = pages
        .filter(|page| page.extension().is_some_and(|extension| extension == "md") && tells_what_is(page));
    let counted: usize =
        pages.map(|page| check(&page.display().to_string(), &std::fs::read_to_string(&page).unwrap())).sum();
    assert!(counted > 30, "only {counted} commands were found");
}

#[test]
fn every_example_in_the_help_is_understood() {
    fn walk(command: &clap::Command) -> usize {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        check(command.get_name(), &help) + command.get_subcommands().map(walk).sum::<usize>()
    }
    let counted = walk(&Cli::command());
    assert!(counted > 30, "only {counted} examples were found");
}

#[test]
fn a_command_that_cannot_be_is_found() {
    assert!(std::panic::catch_unwind(|| check("a page", "Say `watchfloor agents --no-such-flag`.")).is_err());
}
