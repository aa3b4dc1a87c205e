//! `hikae completions`

use crate::app::App;
use crate::args;
use crate::failure::{Ended, Failure};
use clap::Args;
use clap_complete::Shell;
use std::io::{ErrorKind, Write as _};

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
    match std::io::stdout().lock().write_all(&script) {
        // Whoever reads it has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Ended::Well),
        Err(error) => Err(Failure::of_io("write the completions", &error)),
        Ok(()) => Ok(Ended::Well),
    }
}
