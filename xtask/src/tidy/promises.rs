//! What is to be done is in an issue, not in a comment: a mark in the code names it, as in `TODO(#12)`.

use super::Fault;
use super::tree::Tree;

const MARKS: [&str; 3] = ["TODO", "FIXME", "XXX"];

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs") || file.path.ends_with(".proto")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let Some((_, comment)) = line.split_once("//") else { continue };
            if let Some(mark) = MARKS.iter().find(|mark| is_bare(comment, mark)) {
                let remedy = "do it now, or open an issue and name it as (#12)";
                faults.push(Fault::new(&file.path, number, format!("{mark} without an issue"), remedy));
            }
        }
    }
    faults
}

fn is_bare(comment: &str, mark: &str) -> bool {
    comment.match_indices(mark).any(|(at, _)| !comment[at + mark.len()..].starts_with("(#"))
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn a_mark_without_an_issue_is_a_fault() {
        let text = concat!("let a = \"TODO\";\n/", "/ TODO(#12): later\nf(); /", "/ FIXME later\n");
        assert_eq!(lines(&check(&Tree::of_files([("crates/a/src/a.rs", text)]))), [3]);
    }
}
