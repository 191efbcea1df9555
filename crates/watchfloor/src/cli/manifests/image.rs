//! The image: what its Dockerfile says, and what manifests have to agree with.

use super::{assert_pinned, read};

/// Debian by its release: its newest point release is wanted, with its corrections.
pub(super) const BASE: &str = "debian:bookworm-slim";
/// Where a process of the image keeps its state.
pub(super) const STATE: &str = "/var/lib/watchfloor";
pub(super) const USER: i64 = 10_001;

/// Our own image, as every manifest calls it.
pub(super) fn name() -> String {
    format!("watchfloor:{}", env!("CARGO_PKG_VERSION"))
}

/// What follows this instruction, each time.
fn lines_of<'text>(text: &'text str, instruction: &str) -> Vec<&'text str> {
    text.lines().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' ')).collect()
}

#[test]
fn the_image_runs_the_binary_as_nobody_in_particular_with_its_state_in_a_volume() {
    let text = read("Dockerfile");
    let only = |instruction| {
        let lines = lines_of(&text, instruction);
        assert_eq!(lines.len(), 1, "{instruction}: {lines:?}");
        lines[0]
    };
    assert_eq!(only("ENTRYPOINT"), r#"["watchfloor"]"#);
    assert_eq!(only("STOPSIGNAL"), "SIGTERM");
    assert_eq!(only("USER"), format!("{USER}:{USER}"));
    assert_eq!(only("ENV"), format!("WATCHFLOOR_DATA_DIR={STATE}"));
    assert_eq!(only("VOLUME"), format!(r#"["{STATE}"]"#));
    assert!(text.contains(&format!("docker build -t {} .", name())));
    for image in lines_of(&text, "FROM") {
        assert_pinned(image.split(' ').next().unwrap());
    }
}

#[test]
fn the_builder_is_not_older_than_the_rust_we_need() {
    let text = read("Dockerfile");
    let version = lines_of(&text, "FROM").iter().find_map(|from| from.strip_prefix("rust:")).unwrap();
    let minor = |version: &str| version.split(['.', '-']).nth(1).unwrap().parse::<u32>().unwrap();
    assert!(minor(version) >= minor(env!("CARGO_PKG_RUST_VERSION")), "{version}");
}
