//! Every route, at the role boundary.
