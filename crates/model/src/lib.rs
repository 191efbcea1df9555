//! What Watchfloor decides, as plain values.
//!
//! No clock, socket, file, runtime or randomness lives here: every function is told the time and answers. That is
//! what lets a whole fleet be tested in milliseconds. Start at [`sample::Tick`], the thing that flows; then
//! [`pipeline`] (what plugins do to it), [`config`] (what an agent is told to do), [`presence`] (who is alive),
//! [`command`] (what becomes of an order) and [`truth`] (which config really runs).

pub mod command;
pub mod config;
pub mod id;
pub mod limit;
pub mod metric;
pub mod pipeline;
pub mod presence;
pub mod sample;
pub mod selector;
pub mod series;
pub mod truth;
