//! Whole operations, from real sources through a real directory and back.

mod drill;
mod files;
mod lanes;
mod world;
