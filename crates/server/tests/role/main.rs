//! The server as agents, topics and registry see it: real sockets on loopback, embedded backends in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod config;
mod data;
mod harness;
mod hostile;
mod presence;
mod seed_client;
mod several;
mod start;
mod tls;
