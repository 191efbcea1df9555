//! Relative links of documents lead somewhere. Links into the world and within a page are not followed.

use super::Fault;
use super::documents::prose;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    tree.documents().flat_map(|file| check_document(tree, file)).collect()
}

fn check_document(tree: &Tree, file: &File) -> Vec<Fault> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut faults = Vec::new();
    for (number, line) in prose(&file.text) {
        for target in targets(line).filter(|target| !target.contains(':') && !target.starts_with('#')) {
            let path = target.split('#').next().unwrap_or(target);
            if !resolve(folder, path).is_some_and(|path| path.is_empty() || tree.paths.contains(&path)) {
                let what = format!("link to {target} leads nowhere");
                faults.push(Fault::new(&file.path, number, what, "link to what is there"));
            }
        }
    }
    faults
}

/// The targets of `[text](target)` on the line, those inside code spans left out.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let outside_code = line.split('`').step_by(2);
    outside_code
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

/// `None` when the path leaves the repository.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_a_fault() {
        let text = "[b](b.md#there), [up](../README.md)\n[gone](gone.md)\n[`code`](gone.md)\n[out](../../README.md)\n";
        let tree = Tree::of_files([("docs/a.md", text), ("docs/b.md", ""), ("README.md", "")]);
        assert_eq!(lines(&check(&tree)), [2, 3, 4]);
    }

    #[test]
    fn the_world_the_page_and_code_are_not_followed() {
        let text = "[w](https://example.org) [p](#here) `[x](y)`\n```\n[x](y)\n```\n";
        assert_eq!(check(&Tree::of_files([("docs/a.md", text)])), []);
    }
}
