//! The repository: everything that we keep in one store, opened with one key.
//!
//! ```text
//! content -> chunk -> blob -> frame -> pack -> index -> snapshot record -> log entry
//! ```
//!
//! This crate knows bytes, blobs and entries. It knows no source: what a file system or a database is, it
//! never asks.

mod append;
mod cbor;
pub mod chunk;
pub mod clock;
mod commit;
pub mod content;
pub mod copy;
pub mod doubt;
pub mod epoch;
mod error;
pub mod evidence;
pub mod extent;
pub mod forget;
pub mod frame;
mod frame_copy;
pub mod header;
pub mod index;
pub mod index_set;
pub mod keys;
pub mod layout;
mod lease;
pub mod listing;
pub mod log;
mod near;
pub mod object;
pub mod pack;
pub mod pieces;
pub mod private_file;
pub mod prune;
pub mod put_back;
pub mod reach;
pub mod reader;
pub mod recipient;
mod refresh;
pub mod repair;
mod repo;
pub mod retention;
mod salvage;
pub mod seal;
pub mod secret_text;
pub mod signed;
pub mod slot;
pub mod snapshot;
pub mod state;
mod unlocked;
pub mod verify;
pub mod wal;
pub mod writer;

pub use commit::Committed;
pub use error::RepoError;
pub use repo::{InitOptions, NewRepository, Repo};
pub use unlocked::Unlocked;

/// Version of this release, as written into what it makes.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
