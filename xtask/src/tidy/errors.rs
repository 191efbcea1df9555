//! An error has a type that says what went wrong: `()` says nothing and a text cannot be asked.

use super::Fault;
use super::tree::Tree;

const MUTE: [&str; 3] = ["()", "String", "&'static str"];

pub(super) fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in tree.sources() {
        for (number, line) in file.code().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for error in results(line).filter(|error| MUTE.contains(error)) {
                let what = format!("a result whose error is {error}");
                faults.push(Fault::new(&file.path, number, what, "give the error a type (thiserror)"));
            }
        }
    }
    faults
}

/// The error type of each `Result<T, E>` on the line. rustfmt breaks such a type over lines only where it is absurd.
fn results(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("Result<").filter_map(|(at, found)| last_argument(&line[at + found.len()..]))
}

/// The second of two type arguments, given the text after the opening bracket.
fn last_argument(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut comma = None;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '>' if before == '-' => {}
            '>' if depth == 0 => return comma.map(|comma| text[comma..at].trim()),
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => comma = Some(at + 1),
            _ => {}
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    fn faults(text: &str) -> Vec<usize> {
        lines(&check(&Tree::of_files([("crates/a/src/a.rs", text)])))
    }

    #[test]
    fn a_mute_error_is_a_fault() {
        assert_eq!(faults("fn a() -> Result<u8, ()> {\n"), [1]);
        assert_eq!(faults("//! A.\nfn a() -> Result<Vec<(u8, u8)>, String>;\n"), [2]);
        assert_eq!(faults("type A = Box<dyn Fn(u8) -> Result<fn() -> u8, &'static str>>;\n"), [1]);
    }

    #[test]
    fn a_typed_error_a_comment_and_a_test_are_not() {
        assert_eq!(faults("fn a() -> Result<String, AError>;\nfn b() -> io::Result<()>;\n"), [0; 0]);
        assert_eq!(faults("/// Not `Result<u8, ()>`.\n"), [0; 0]);
        assert_eq!(faults("#[cfg(test)]\nmod tests {\n    fn a() -> Result<u8, ()>;\n}\n"), [0; 0]);
    }
}
