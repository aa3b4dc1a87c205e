//! hikae-testkit
