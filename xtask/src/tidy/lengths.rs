//! Files fit in a head: past [`SOFT_LIMIT`] lines without tests a file must be listed in `xtask/budget.toml`, past
//! [`HARD_LIMIT`] it may not be. A listed number only shrinks: [`SLACK`] lines below it, it must be lowered.

use std::collections::BTreeMap;

use super::Fault;
use super::tree::Tree;

const SOFT_LIMIT: usize = 400;
const HARD_LIMIT: usize = 800;
/// So that not every deleted line needs a second edit.
const SLACK: usize = 20;
const BUDGET: &str = "xtask/budget.toml";

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let mut listed = budget(tree);
    let mut faults = Vec::new();
    for file in tree.sources() {
        let lines = file.code().count();
        let (allowed, entry) = listed.remove(file.path.as_str()).unwrap_or((SOFT_LIMIT, 0));
        let what = format!("{lines} lines without tests, {allowed} allowed");
        if lines > HARD_LIMIT || lines > allowed {
            faults.push(Fault::new(&file.path, 1, what, "split it along its types"));
        } else if entry > 0 && (lines <= SOFT_LIMIT || lines + SLACK < allowed) {
            let what = format!("{} has shrunk to {lines} lines", file.path);
            faults.push(Fault::new(BUDGET, entry, what, "lower the number, or drop the line at 400"));
        }
    }
    for (path, (_, entry)) in listed {
        faults.push(Fault::new(BUDGET, entry, format!("{path} does not exist"), "drop the line"));
    }
    faults
}

/// Path to allowed lines and the line of its entry: `"crates/a/src/b.rs" = 431`.
fn budget<'tree>(tree: &'tree Tree) -> BTreeMap<&'tree str, (usize, usize)> {
    let text = tree.files.iter().find(|file| file.path == BUDGET).map_or("", |file| file.text.as_str());
    let entry = |(number, line): (usize, &'tree str)| {
        let (path, lines) = line.split_once('=')?;
        Some((path.trim().trim_matches('"'), (lines.trim().parse().ok()?, number)))
    };
    (1..).zip(text.lines()).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: usize, budget: &str) -> Vec<String> {
        let text = "//! A.\n".repeat(lines);
        let tree = Tree::of_files([("crates/a/src/a.rs", &text), (BUDGET, budget)]);
        check(&tree)
            .into_iter()
            .map(|fault| format!("{}:{} {}", fault.path, fault.line, fault.what))
            .collect()
    }

    #[test]
    fn a_long_file_is_a_fault_unless_listed() {
        assert_eq!(said(400, ""), [""; 0]);
        assert_eq!(said(401, ""), ["crates/a/src/a.rs:1 401 lines without tests, 400 allowed"]);
        assert_eq!(said(450, "\"crates/a/src/a.rs\" = 450\n"), [""; 0]);
        assert_eq!(said(451, "\"crates/a/src/a.rs\" = 450\n").len(), 1);
    }

    #[test]
    fn past_the_hard_limit_no_listing_helps() {
        assert_eq!(said(801, "\"crates/a/src/a.rs\" = 801\n").len(), 1);
    }

    #[test]
    fn a_listed_number_only_shrinks() {
        let budget = "# why\n\"crates/a/src/a.rs\" = 600\n";
        assert_eq!(said(580, budget), [""; 0]);
        assert_eq!(said(579, budget), ["xtask/budget.toml:2 crates/a/src/a.rs has shrunk to 579 lines"]);
        assert_eq!(said(400, "\"crates/a/src/a.rs\" = 401\n").len(), 1);
        assert_eq!(
            said(1, "\"crates/gone.rs\" = 500\n"),
            ["xtask/budget.toml:1 crates/gone.rs does not exist"]
        );
    }
}
