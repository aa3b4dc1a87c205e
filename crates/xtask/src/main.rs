//! Chores of the workspace.
//!
//! `tidy` checks the invariants that a program can check: it reads the tree as text, builds nothing and needs no
//! network. `sabotages` puts in every bug that a test must catch, and sees it caught.

mod sabotages;
mod tidy;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy\n       cargo xtask sabotages [--only NAME…]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let is_well = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(&root),
        ["sabotages"] => sabotages::run(&root, &[]),
        ["sabotages", "--only", ref names @ ..] if !names.is_empty() => sabotages::run(&root, names),
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match is_well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn tidy(root: &Path) -> Result<bool, Box<dyn Error>> {
    let findings = tidy::tidy(root)?;
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.len() {
        0 => println!("tidy: all is in order"),
        n => println!("tidy: {n} findings"),
    }
    Ok(findings.is_empty())
}
