//! `hikae completions`

use crate::app::App;
use crate::args;
use crate::failure::{Ended, Failure};
use clap::Args;
use clap_complete::Shell;
use std::io::Write as _;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hikae completions bash > ~/.local/share/bash-completion/completions/hikae"
)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, _: &App) -> Result<Ended, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "hikae", &mut script);
    let written = std::io::stdout().lock().write_all(&script);
    written.map_err(|error| Failure::of_io("write the completions", &error))?;
    Ok(Ended::Well)
}
