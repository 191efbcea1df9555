//! What was linked: the fault that `docs/adr/0010-no-hints-of-leaders.md` is about shows once in ten restarts of a broker, and the
//! lack of our replacement always.

use std::process::Command;

use crate::outside::{succeeded, text};

#[test]
fn librdkafka_asks_our_reader_of_hints() {
    let mut objdump = Command::new("objdump");
    objdump.args(["--no-show-raw-insn", "--disassemble=rd_kafka_poll_cb", env!("CARGO_BIN_EXE_watchfloor")]);
    let code = text(succeeded(&mut objdump));
    let calls: Vec<&str> = code.lines().filter(|line| line.contains("metadata_update_op>")).collect();
    assert!(!calls.is_empty(), "who reads hints now? see the ADR");
    assert!(calls.iter().all(|call| call.contains("<__wrap_rd_kafka_metadata_update_op>")), "{calls:#?}");
}
