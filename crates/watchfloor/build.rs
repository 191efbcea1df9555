//! Tells the linker to take our reader of leaders' hints for librdkafka's, which crashes: `docs/adr/0010-no-hints-of-leaders.md`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op");
}
