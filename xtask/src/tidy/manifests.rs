//! Every crate inherits the workspace's lints and takes its dependencies from the workspace, so that each version and
//! feature set is chosen once; and no crate has a name that could hold anything.

use super::Fault;
use super::tree::{File, Tree};

const NAMES_THAT_SAY_NOTHING: [&str; 6] = ["common", "core", "helpers", "shared", "util", "utils"];

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let manifests = tree.files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests.flat_map(check_manifest).collect()
}

fn check_manifest(file: &File) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut section = "";
    let mut lints_inherited = false;
    for (number, line) in (1..).zip(file.text.lines()) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            if section.contains("dependencies.") {
                let remedy = "write it on one line with workspace = true";
                faults.push(Fault::new(&file.path, number, "a dependency has its own table", remedy));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
            continue;
        };
        let name = value.trim_matches('"');
        if section == "package" && key == "name" && NAMES_THAT_SAY_NOTHING.contains(&name) {
            let remedy = "name the crate after what it holds";
            faults.push(Fault::new(&file.path, number, format!("crate name {name} says nothing"), remedy));
        }
        if section == "lints" && key == "workspace" && value == "true" {
            lints_inherited = true;
        }
        if section.ends_with("dependencies") && !from_workspace(key, value) {
            let what = format!("dependency {key} is chosen here");
            let remedy = "put it into [workspace.dependencies] and write .workspace = true here";
            faults.push(Fault::new(&file.path, number, what, remedy));
        }
    }
    if !lints_inherited {
        let remedy = "add [lints] with workspace = true";
        faults.push(Fault::new(&file.path, 1, "the workspace's lints are not inherited", remedy));
    }
    faults
}

fn from_workspace(key: &str, value: &str) -> bool {
    (key.ends_with(".workspace") && value == "true") || value.contains("workspace = true")
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn faults(manifest: &str) -> Vec<usize> {
        lines(&check(&Tree::of_files([("crates/a/Cargo.toml", manifest)])))
    }

    #[test]
    fn a_dependency_with_a_version_of_its_own_is_a_fault() {
        let inherited =
            "[dependencies]\nserde.workspace = true\ntokio = { workspace = true, features = [\"fs\"] }\n";
        assert_eq!(faults(&format!("{LINTS}{inherited}")), [0; 0]);
        assert_eq!(faults(&format!("{LINTS}[dev-dependencies]\nserde = \"1\"\n")), [4]);
        assert_eq!(faults(&format!("{LINTS}[dependencies.serde]\nversion = \"1\"\n")), [3]);
    }

    #[test]
    fn lints_of_its_own_are_a_fault() {
        assert_eq!(faults("[package]\nname = \"a\"\n"), [1]);
    }

    #[test]
    fn a_name_that_says_nothing_is_a_fault() {
        assert_eq!(faults(&format!("[package]\nname = \"utils\"\n{LINTS}")), [2]);
    }
}
