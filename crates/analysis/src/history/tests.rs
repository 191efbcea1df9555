//! The history by its properties.
