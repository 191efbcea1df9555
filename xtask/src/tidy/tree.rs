//! What the rules look at: the paths of the workspace, the text of its sources and documents, and who depends on whom.
//!
//! Built products, data directories and version control are left out. Tests make trees of literal text.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use cargo_metadata::MetadataCommand;

const LEFT_OUT: [&str; 4] = [".git", "node_modules", "target", "watchfloor-data"];
const READ: [&str; 4] = ["md", "proto", "rs", "toml"];

#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Files and folders, relative to the root, with `/`.
    pub(crate) paths: BTreeSet<String>,
    pub(crate) files: Vec<File>,
    pub(crate) crates: Vec<Crate>,
}

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A member of the workspace, and the members it depends on for any purpose, tests included.
#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) manifest: String,
    pub(crate) dependencies: Vec<String>,
}

impl Tree {
    pub(crate) fn of_workspace() -> anyhow::Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec().context("read cargo metadata")?;
        let root = metadata.workspace_root.as_std_path();
        let mut tree = Self::default();
        tree.walk(root, "")?;
        for package in metadata.workspace_packages() {
            let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
            let manifest = package.manifest_path.strip_prefix(&metadata.workspace_root)?;
            tree.crates.push(Crate {
                name: package.name.to_string(),
                manifest: manifest.to_string(),
                dependencies: ours.map(|dependency| dependency.name.clone()).collect(),
            });
        }
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, folder: &str) -> anyhow::Result<()> {
        for entry in root.join(folder).read_dir().with_context(|| format!("read folder {folder:?}"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type()?.is_dir() {
                self.walk(root, &path)?;
            } else if READ.iter().any(|ending| path.ends_with(&format!(".{ending}"))) {
                let text = std::fs::read_to_string(entry.path()).with_context(|| format!("read {path}"))?;
                self.files.push(File { path: path.clone(), text });
            }
            self.paths.insert(path);
        }
        Ok(())
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    pub(crate) fn documents(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".md"))
    }
}

impl File {
    /// The numbered lines before the tests: none in a file that is all tests, as contract suites are.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let all_tests = ["/tests/", "/tests.rs", "/contract.rs"].iter().any(|part| self.path.contains(part));
        let lines: Vec<&str> = if all_tests { Vec::new() } else { self.text.lines().collect() };
        let is_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests");
        let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
        (1..).zip(lines.into_iter().take(end))
    }
}

#[cfg(test)]
impl Tree {
    pub(crate) fn of_files<const N: usize>(files: [(&str, &str); N]) -> Self {
        let file = |(path, text): (&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
        let files: Vec<File> = files.into_iter().map(file).collect();
        Self { paths: files.iter().map(|file| file.path.clone()).collect(), files, crates: Vec::new() }
    }

    pub(crate) fn of_crates<const N: usize>(crates: [(&str, &[&str]); N]) -> Self {
        let member = |(name, dependencies): (&str, &[&str])| Crate {
            name: name.to_owned(),
            manifest: format!("crates/{name}/Cargo.toml"),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        };
        Self { crates: crates.into_iter().map(member).collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(path: &str, text: &str) -> usize {
        File { path: path.to_owned(), text: text.to_owned() }.code().count()
    }

    #[test]
    fn code_ends_where_the_tests_begin() {
        assert_eq!(code("crates/a/src/a.rs", "//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(code("crates/a/src/a.rs", "//! A.\n#[cfg(test)]\nfn a() {}\nfn b() {}\n"), 4);
    }

    #[test]
    fn a_file_of_tests_has_no_code() {
        assert_eq!(code("crates/a/tests/b.rs", "//! B.\nfn b() {}\n"), 0);
        assert_eq!(code("crates/a/src/a/tests.rs", "//! B.\nfn b() {}\n"), 0);
        assert_eq!(code("crates/a/src/a/contract.rs", "//! B.\nfn b() {}\n"), 0);
    }
}
