//! Point-in-time recovery of a PostgreSQL cluster: where one can come back to, and how.

pub mod target;
pub mod window;
