//! Chores of the workspace.
//!
//! `tidy` checks the invariants that a program can check: it reads the tree as text, builds nothing and needs no
//! network. `sabotages` puts in every bug that a test must catch, and sees it caught. `promises` writes down which
//! test keeps which promise.

mod promises;
mod sabotages;
mod tidy;

use sabotages::Which;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy
       cargo xtask sabotages [--quick | --only NAME…]
       cargo xtask promises";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = workspace();
    let is_well = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy(&root),
        ["promises"] => promises(&root),
        ["sabotages"] => sabotages::run(&root, Which::All),
        ["sabotages", "--quick"] => sabotages::run(&root, Which::Quick),
        ["sabotages", "--only", ref names @ ..] if !names.is_empty() => {
            sabotages::run(&root, Which::Only(names))
        }
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

/// The workspace that this run is for. Cargo names it at run time; what was compiled in may be of another checkout
/// that shared its build directory.
fn workspace() -> PathBuf {
    let krate = std::env::var_os("CARGO_MANIFEST_DIR");
    krate.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from).join("../..")
}

/// Writes the table of promises. True if every promise is kept by a test, or says why not.
fn promises(root: &Path) -> Result<bool, Box<dyn Error>> {
    let (text, faults) = promises::report(&tidy::tree::Tree::read(root)?)?;
    std::fs::write(root.join(promises::REPORT), text)?;
    faults.iter().for_each(|fault| println!("{fault}"));
    println!("promises: written to {}, {} without a test", promises::REPORT, faults.len());
    Ok(faults.is_empty())
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
