//! Every source file begins by saying what it is for. Generated code never lies in the source tree.

use super::Fault;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let bare = |file: &&File| !file.text.starts_with("//! ");
    let remedy = "begin with //! and say what the file is for";
    tree.sources().filter(bare).map(|file| Fault::new(&file.path, 1, "no module header", remedy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_begins_with_code_is_a_fault() {
        let tree = Tree::of_files([("crates/a/src/a.rs", "use b;\n"), ("crates/a/src/b.rs", "//! B.\n")]);
        let faults = check(&tree);
        assert_eq!(faults.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["crates/a/src/a.rs"]);
    }
}
