//! A document may not name what is not there: every path of the repository in backticks exists.
//!
//! CHANGELOG.md is left out: it tells of what was.

use super::Fault;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let documents = tree.documents().filter(|file| file.path != "CHANGELOG.md");
    documents.flat_map(|file| check_document(tree, file)).collect()
}

fn check_document(tree: &Tree, file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in prose(&file.text) {
        for path in line.split('`').skip(1).step_by(2).filter(|span| is_path(span)) {
            if !tree.paths.contains(path.trim_end_matches('/')) {
                let remedy = "name what is there, or move the wish to docs/known-gaps.md";
                faults.push(Fault::new(&file.path, number, format!("{path} does not exist"), remedy));
            }
        }
    }
    faults
}

/// The numbered lines outside fenced blocks.
pub(super) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    })
}

/// Folders of the repository that documents speak of, there or not yet.
const FOLDERS: [&str; 10] =
    [".cargo", ".ci", "crates", "deploy", "docs", "fuzz", "proto", "scripts", "web", "xtask"];

fn is_path(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let first = span.split_once('/').map(|(first, _)| first);
    span.chars().all(plain) && first.is_some_and(|first| FOLDERS.contains(&first))
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn a_path_that_is_not_there_is_a_fault() {
        let text = "See `docs/a.md`, `crates/`.\nSee `crates/b/src/gone.rs`.\n```\n`docs/no.md`\n```\n`docs/<x>` `/proc/stat`\n";
        let mut tree = Tree::of_files([("docs/a.md", text)]);
        tree.paths.insert("crates".to_owned());
        assert_eq!(lines(&check(&tree)), [2]);
    }

    #[test]
    fn the_changelog_may_name_what_is_gone() {
        assert_eq!(check(&Tree::of_files([("CHANGELOG.md", "`docs/gone.md` is gone.\n")])), []);
    }
}
