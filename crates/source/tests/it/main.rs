//! Tests of the sources against real files, real databases and real servers.

mod files;
mod postgresql;
mod sqlite;
