//! The role that lives on every watched machine: it measures, and does what it is told.

pub mod collect;
