//! The role on embedded backends.
