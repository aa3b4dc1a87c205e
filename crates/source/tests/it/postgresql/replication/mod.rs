//! Replication from real servers: what is streamed is the server's own WAL, whatever happens to either side.

mod entering;
mod server;
mod streaming;
mod timelines;

use super::*;
