//! The workspace's rules, one per file below `tidy/`; `cargo test -p xtask` runs them on the workspace itself.
//!
//! A rule is a pure function from the [`Tree`] to its faults. Rules read text, not syntax trees: they rely on the house
//! style (tests at a file's end, formatted by rustfmt) and stay short for it.

mod documents;
mod errors;
mod glossary;
mod headers;
mod lengths;
mod links;
mod manifests;
mod promises;
mod ranks;
pub(crate) mod tree;

use std::fmt;

use tree::Tree;

/// What is wrong where, and what to do about it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    path: String,
    line: usize,
    what: String,
    remedy: &'static str,
}

impl Fault {
    fn new(path: &str, line: usize, what: impl Into<String>, remedy: &'static str) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), remedy }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.what, self.remedy)
    }
}

const RULES: [fn(&Tree) -> Vec<Fault>; 9] = [
    ranks::check,
    manifests::check,
    headers::check,
    lengths::check,
    errors::check,
    promises::check,
    documents::check,
    links::check,
    glossary::check,
];

/// Every fault of every rule, by path.
pub(crate) fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults: Vec<Fault> = RULES.iter().flat_map(|rule| rule(tree)).collect();
    faults.sort();
    faults
}

/// The lines a rule complains about, for the rules' own tests.
#[cfg(test)]
fn lines(faults: &[Fault]) -> Vec<usize> {
    faults.iter().map(|fault| fault.line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let faults = check(&Tree::of_workspace().unwrap());
        let text: Vec<String> = faults.iter().map(Fault::to_string).collect();
        assert!(faults.is_empty(), "\n{}", text.join("\n"));
    }

    #[test]
    fn a_fault_says_where_what_and_the_way_out() {
        let fault = Fault::new("docs/a.md", 3, "b.md does not exist", "name what is there");
        assert_eq!(fault.to_string(), "docs/a.md:3: b.md does not exist; name what is there");
    }
}
