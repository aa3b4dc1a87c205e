//! The verbs of hikae, one file each. They bring sources and the repository together; neither knows the
//! other.
//!
//! This crate knows no terminal, no HTTP and no schedule: what it has to say goes into reports.

pub mod backup;
pub mod backup_plan;
pub mod browse;
pub mod cat;
mod child_umask;
pub mod choice;
pub mod compare;
pub mod config;
pub mod copies;
pub mod copy;
mod delta;
pub mod diff;
pub mod doctor;
pub mod drill;
mod earlier;
mod error;
pub mod export;
pub mod forget;
mod forward;
pub mod hooks;
pub mod keys;
mod lanes;
pub mod list;
pub mod open;
pub mod pg;
pub mod pitr;
pub mod protect;
pub mod prune;
pub mod recovery;
pub mod report;
pub mod restore;
pub mod restore_cluster;
pub mod restore_database;
pub mod restore_dump;
pub mod retain;
mod scratch;
pub mod select;
pub mod stats;
mod still;
pub mod store;
pub mod stored;
pub mod surroundings;
pub mod verify;

pub use error::OpsError;
pub use hikae_model::with_causes;
pub use hikae_repo::state::{SnapshotState, State};
pub use hikae_repo::{Repo, RepoError, clock, private_file, secret_text};
pub use hikae_source::SourceError;
pub use hikae_source::files::{Mounts, Overwrite, Target};
pub use hikae_source::postgresql::differential::KIND as ROWS_KIND;
pub use hikae_source::postgresql::{DumpOptions, DumpedTable, replication};
pub use hikae_source::postgresql_cluster::shell_word;
