//! The program as its users meet it: processes, driven by command line, HTTP, gRPC and signals only.
//!
//! Every test has a sandbox of its own: a data directory, free ports, and processes that end with it. Tests wait for
//! what a process says or answers, never for time to pass; a deadline is only how long they are willing to wait.
//! `WATCHFLOOR_BIN` names another binary to test than the one just built.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bad_input;
mod commands;
mod config;
mod ends;
mod health;
mod measure;
mod metrics;
mod presence;
mod sandbox;
mod start;
