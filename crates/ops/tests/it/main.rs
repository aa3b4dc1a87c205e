//! Whole operations, from real sources through a real directory and back.

mod bucket;
mod changing;
mod cluster;
mod compare;
mod drill;
mod files;
mod lanes;
mod sparse;
mod world;
