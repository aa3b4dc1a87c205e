//! Ordinary files: how they are named, compressed, encrypted and placed.
//!
//! ```text
//! content -> compressed -> encrypted -> hashed -> a file without a name -> synced, named; sums beside it
//! ```
//!
//! This crate knows bytes, names and directories, and the formats that ordinary programs open. It knows no repository and no
//! source: what is exported, and why, is `hikae-ops`'s.

pub mod archive;
mod error;
pub mod pipeline;
pub mod place;
pub mod seal;
pub mod sums;
pub mod template;

pub use error::ExportError;
