//! Stores over the network: S3 and what speaks like it, and directories of other machines over SSH.
//!
//! A crate of its own, so that what runs beside a database server links no TLS and no runtime: only who names such a
//! store in a configuration gets here. Calls block, as those of every store; a small runtime inside carries the requests.
//!
//! Of what is kept this crate knows as little as the directory store does: names and bytes.

mod answer;
mod ask;
mod client;
mod objects;
mod retry;
mod s3;
mod sftp;
mod store;
mod wire;

pub use retry::Retry;
pub use s3::{
    Bucket, Control, S3Error, S3Identity, S3Key, S3Lock, S3LockMode, S3Login, S3Role, S3Settings,
    S3Surroundings,
};
pub use sftp::{SftpError, SftpLogin, SftpSettings, SshKey};
pub use store::RemoteStore;
