//! Makes `testdata/`: a small repository that holds everything that the format knows, what must come out of
//! it, and known answers of its cryptography.
//!
//! ```text
//! cargo run -p hikae-repo --example make_testdata -- testdata
//! ```
//!
//! Keys, clock and contents are fixed. The bytes still differ from run to run, because age draws from the
//! operating system and threads race for frame numbers; so the result is made once a released format, kept
//! in git, and must open for ever.

mod repository;
mod tree;
mod vectors;

use std::path::PathBuf;

fn main() {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).expect("the directory to write to");
    repository::make(&directory);
    vectors::make(&directory);
}
