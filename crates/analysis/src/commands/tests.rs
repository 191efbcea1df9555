//! The book of commands.
