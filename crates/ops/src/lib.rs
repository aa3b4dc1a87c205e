//! hikae-ops
