//! One file a subcommand. Each turns its arguments into a question to `hikae-ops`, and the answer into text; none
//! decides anything.

pub mod backup;
pub mod cat;
pub mod completions;
pub mod config;
pub mod copies;
pub mod copy;
pub mod diff;
pub mod doctor;
pub mod drill;
pub mod export;
pub mod find;
pub mod forget;
pub mod init;
pub mod key;
pub mod list;
pub mod ls;
pub mod pg;
pub mod protect;
pub mod prune;
pub mod recipient;
pub mod repo;
pub mod restore;
pub mod show;
mod shown;
pub mod store;
pub mod undelete;
pub mod verify;
