//! `hikae-wal` as PostgreSQL calls it.
//!
//! `HIKAE_FULL=1` kills it at every system call; without it some are tried.

mod bundled;
mod killing;
mod recovered;
mod recovering;
mod refusing;
mod server;
mod serving;
mod taking;
mod world;
