//! Arrows point down: a crate depends on crates of lower rank only, and roles do not know one another.
//!
//! ARCHITECTURE.md draws the ranks; docs/adr/0002-console-is-the-face-of-analysis.md tells of the one exception.

use super::Fault;
use super::tree::{Crate, Tree};

const RANKS: [(u8, &[&str]); 6] = [
    (0, &["model"]),
    (1, &["proto", "runtime"]),
    (2, &["backends"]),
    (3, &["agent", "analysis", "monitor", "server"]),
    (4, &["console"]),
    (5, &["watchfloor"]),
];
const ROLES: [&str; 5] = ["agent", "analysis", "console", "monitor", "server"];
/// Role and the one other role it may see.
const FACE: (&str, &str) = ("console", "analysis");
/// Depends on no crate of ours, and none depends on it.
const OUTSIDE: &str = "xtask";

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    tree.crates.iter().flat_map(|krate| check_crate(tree, krate)).collect()
}

fn check_crate(tree: &Tree, krate: &Crate) -> Vec<Fault> {
    let name = krate.name.as_str();
    if name != OUTSIDE && rank(name).is_none() {
        let what = format!("crate {name} has no rank");
        return vec![Fault::new(&krate.manifest, 1, what, "add it to RANKS in xtask/src/tidy/ranks.rs")];
    }
    let forbidden = krate.dependencies.iter().filter(|dependency| !allowed(name, dependency));
    let fault = |dependency: &String| {
        let what = format!("{name} depends on {dependency}");
        let line = line_of(tree, &krate.manifest, dependency);
        Fault::new(&krate.manifest, line, what, "arrows point down: meet through model, proto or backends")
    };
    forbidden.map(fault).collect()
}

fn allowed(from: &str, to: &str) -> bool {
    let strangers = ROLES.contains(&from) && ROLES.contains(&to) && (from, to) != FACE;
    !strangers && matches!((rank(from), rank(to)), (Some(upper), Some(lower)) if upper > lower)
}

fn rank(name: &str) -> Option<u8> {
    RANKS.iter().find(|(_, names)| names.contains(&name)).map(|(rank, _)| *rank)
}

fn line_of(tree: &Tree, manifest: &str, dependency: &str) -> usize {
    let names =
        |line: &str| line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
    let file = tree.files.iter().find(|file| file.path == manifest);
    file.and_then(|file| file.text.lines().position(names)).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<const N: usize>(crates: [(&str, &[&str]); N]) -> Vec<String> {
        check(&Tree::of_crates(crates)).into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn an_arrow_up_or_sideways_is_a_fault() {
        assert_eq!(said([("model", &["proto"])]), ["model depends on proto"]);
        assert_eq!(said([("proto", &["runtime"])]), ["proto depends on runtime"]);
        assert_eq!(said([("xtask", &["model"])]), ["xtask depends on model"]);
        assert_eq!(said([("watchfloor", &["xtask"])]), ["watchfloor depends on xtask"]);
    }

    #[test]
    fn a_role_that_sees_another_is_a_fault_but_console_may_see_analysis() {
        assert_eq!(said([("agent", &["server"])]), ["agent depends on server"]);
        assert_eq!(said([("console", &["monitor"])]), ["console depends on monitor"]);
        assert_eq!(said([("console", &["analysis", "backends"])]), [""; 0]);
    }

    #[test]
    fn a_crate_without_rank_is_a_fault() {
        assert_eq!(said([("common", &[])]), ["crate common has no rank"]);
    }

    #[test]
    fn the_fault_points_at_the_line_of_the_manifest() {
        let mut tree = Tree::of_files([(
            "crates/agent/Cargo.toml",
            "[dependencies]\nserver-side = \"1\"\nserver.workspace = true\n",
        )]);
        tree.crates = Tree::of_crates([("agent", &["server"])]).crates;
        assert_eq!(super::super::lines(&check(&tree)), [3]);
    }
}
