//! The `hikae` command: reads the command line, asks `hikae-ops`, shows what it says.

mod app;
mod args;
mod clock;
mod command;
mod environment;
mod failure;
mod output;
mod page;
mod progress;
mod sheet;
mod signals;

use app::App;
use args::{Cli, Command};
use failure::{Ended, Failure, compatible};
use hikae_model::{Cancel, ErrorCode};
use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all, while there is one thread.
    let passphrase = environment::take_passphrase();
    // What we make is for our own user: caches and temporary files too. Restored files get their own modes, and
    // the programs around a source the mask that we were given.
    let umask = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let Cli { global, command } = match args::parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let cancel = Cancel::default();
    signals::cancel_on_signals(&cancel);
    let compat_exit_codes = global.compat_exit_codes;
    let app = App::new(global, name_of(&command), passphrase, umask.bits(), clock::system_cx(cancel));
    let exit_code = match run(command, &app) {
        Ok(ended) => ended.exit_code(),
        Err(failure) => {
            app.output.failure(&failure);
            failure.code().exit_code()
        }
    };
    ExitCode::from(if compat_exit_codes { compatible(exit_code) } else { exit_code })
}

/// Help and version are results; everything else is a command line that cannot be.
fn usage(error: &clap::Error) -> ExitCode {
    // If that cannot be printed there is nobody to tell.
    drop(error.print());
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let compat_exit_codes = std::env::args_os().any(|arg| arg == "--compat-exit-codes")
        || environment::is_set("HIKAE_COMPAT_EXIT_CODES");
    let code = ErrorCode::Usage.exit_code();
    ExitCode::from(if compat_exit_codes { compatible(code) } else { code })
}

fn run(command: Command, app: &App) -> Result<Ended, Failure> {
    match command {
        Command::Protect(args) => command::protect::run(&args, app),
        Command::Init(args) => command::init::run(&args, app),
        Command::Backup(args) => command::backup::run(&args, app),
        Command::List(args) => command::list::run(&args, app),
        Command::Show(args) => command::show::run(&args, app),
        Command::Ls(args) => command::ls::run(&args, app),
        Command::Find(args) => command::find::run(&args, app),
        Command::Cat(args) => command::cat::run(&args, app),
        Command::Diff(args) => command::diff::run(&args, app),
        Command::Restore(args) => command::restore::run(&args, app),
        Command::Verify(args) => command::verify::run(&args, app),
        Command::Drill(args) => command::drill::run(&args, app),
        Command::Forget(args) => command::forget::run(&args, app),
        Command::Undelete(args) => command::undelete::run(&args, app),
        Command::Prune(args) => command::prune::run(&args, app),
        Command::Key(key) => command::key::run(&key, app),
        Command::Recipient(recipient) => command::recipient::run(&recipient, app),
        Command::Repo(repo) => command::repo::run(&repo, app),
        Command::Doctor(args) => command::doctor::run(&args, app),
        Command::Config(config) => command::config::run(&config, app),
        Command::Completions(args) => command::completions::run(&args, app),
    }
}

fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Protect(_) => "protect",
        Command::Init(_) => "init",
        Command::Backup(_) => "backup",
        Command::List(_) => "list",
        Command::Show(_) => "show",
        Command::Ls(_) => "ls",
        Command::Find(_) => "find",
        Command::Cat(_) => "cat",
        Command::Diff(_) => "diff",
        Command::Restore(_) => "restore",
        Command::Verify(_) => "verify",
        Command::Drill(_) => "drill",
        Command::Forget(_) => "forget",
        Command::Undelete(_) => "undelete",
        Command::Prune(_) => "prune",
        Command::Key(_) => "key",
        Command::Recipient(_) => "recipient",
        Command::Repo(_) => "repo",
        Command::Doctor(_) => "doctor",
        Command::Config(_) => "config",
        Command::Completions(_) => "completions",
    }
}
