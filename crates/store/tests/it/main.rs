//! The stores, put to the test: the contract that all share, and what only a directory can suffer.

mod contract;
mod directory;
mod disk_full;
mod limited;
mod probe;
