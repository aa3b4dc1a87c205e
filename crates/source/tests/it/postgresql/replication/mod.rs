//! Replication from real servers: what is streamed is the server's own WAL, whatever happens to either side.

mod base_backup;
mod entering;
mod hostile;
mod server;
mod speed;
mod streaming;
mod timelines;
mod versions;

use super::*;
