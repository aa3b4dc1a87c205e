//! Point-in-time recovery of a PostgreSQL cluster: where one can come back to, and how.

pub mod cluster;
pub mod feed;
pub mod keep;
pub mod leading;
pub mod log;
pub mod moment;
pub mod paused;
pub mod plan;
pub mod recover;
mod spaces;
pub mod take_out;
pub mod target;
pub mod window;
