//! One word, one meaning: the glossary lists each term once, as `- **term**: meaning`.

use std::collections::BTreeSet;

use super::Fault;
use super::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for file in tree.documents().filter(|file| file.path == "docs/glossary.md") {
        for (number, line) in (1..).zip(file.text.lines()) {
            let Some(rest) = line.strip_prefix("- ") else { continue };
            match rest.strip_prefix("**").and_then(|rest| rest.split_once("**: ")) {
                Some((term, _)) if seen.insert(term.to_lowercase()) => {}
                Some((term, _)) => {
                    let what = format!("{term} is listed twice");
                    faults.push(Fault::new(&file.path, number, what, "keep the better meaning"));
                }
                None => {
                    let remedy = "write - **term**: meaning";
                    faults.push(Fault::new(&file.path, number, "an entry without a term", remedy));
                }
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn a_term_listed_twice_or_without_form_is_a_fault() {
        let text = "# Words\n- **bus**: carries records.\n- **Bus**: yellow.\n- an agent\n";
        assert_eq!(lines(&check(&Tree::of_files([("docs/glossary.md", text)]))), [3, 4]);
    }
}
