//! Chores of the workspace: `cargo xtask tidy` checks the invariants that a program can check.
//!
//! It reads the tree as text. It builds nothing, needs no network and knows nothing of how hikae works.

mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => match tidy::tidy(&root) {
            Ok(findings) if findings.is_empty() => {
                println!("tidy: all is in order");
                ExitCode::SUCCESS
            }
            Ok(findings) => {
                findings.iter().for_each(|finding| println!("{finding}"));
                println!("tidy: {} findings", findings.len());
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        },
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
