//! hikae-repo
