//! The `hikae` command: reads the command line, asks `hikae-ops`, shows what it says.

mod app;
mod args;
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
use hikae_model::{Cancel, ErrorCode, sabotage};
use output::{Form, Output};
use std::process::ExitCode;

fn main() -> ExitCode {
    // No core dump has our keys in it, and no other process of our user can look at them.
    if !sabotage::on("core-dumps") {
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    }
    // While there is one thread.
    let passphrase = environment::take_passphrase();
    // What we make is for our own user: caches and temporary files too. Restored files get their own modes, and
    // the programs around a source the mask that we were given.
    let umask = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let (Cli { global, command }, name) = match args::parse() {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let cancel = Cancel::default();
    signals::cancel_on_signals(&cancel);
    let compat_exit_codes = global.compat_exit_codes;
    let app = App::new(global, &name, passphrase, umask.bits(), hikae_ops::clock::system_cx(cancel));
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
    let asks_for = |flag: &str, variable: &str| {
        std::env::args_os().any(|arg| arg == flag) || environment::is_set(variable)
    };
    let form = match (asks_for("--json", "HIKAE_JSON"), asks_for("--json-lines", "HIKAE_JSON_LINES")) {
        (true, _) => Form::Json,
        (false, true) => Form::JsonLines,
        (false, false) => Form::Text,
    };
    if form == Form::Text || !error.use_stderr() {
        // If that cannot be printed there is nobody to tell.
        drop(error.print());
    } else {
        let said = error.render().to_string();
        let (what, more) = said.split_once("\n\n").unwrap_or((&said, ""));
        let what = what.trim().trim_start_matches("error: ").to_owned();
        let more = more.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let hint = (!more.is_empty()).then(|| more.into());
        Output::new(form, true, true, "").failure(&Failure::new(ErrorCode::Usage, what, hint));
    }
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let code = ErrorCode::Usage.exit_code();
    let is_compatible = asks_for("--compat-exit-codes", "HIKAE_COMPAT_EXIT_CODES");
    ExitCode::from(if is_compatible { compatible(code) } else { code })
}

fn run(command: Command, app: &App) -> Result<Ended, Failure> {
    match command {
        Command::Protect(args) => command::protect::run(&args, app),
        Command::Init(args) => command::init::run(&args, app),
        Command::Backup(args) => command::backup::run(&args, app),
        Command::Copies(args) => command::copies::run(&args, app),
        Command::Copy(args) => command::copy::run(&args, app),
        Command::List(args) => command::list::run(&args, app),
        Command::Show(args) => command::show::run(&args, app),
        Command::Ls(args) => command::ls::run(&args, app),
        Command::Find(args) => command::find::run(&args, app),
        Command::Cat(args) => command::cat::run(&args, app),
        Command::Diff(args) => command::diff::run(&args, app),
        Command::Restore(args) => command::restore::run(&args, app),
        Command::Export(args) => command::export::run(&args, app),
        Command::Verify(args) => command::verify::run(&args, app),
        Command::Drill(args) => command::drill::run(&args, app),
        Command::Forget(args) => command::forget::run(&args, app),
        Command::Undelete(args) => command::undelete::run(&args, app),
        Command::Prune(args) => command::prune::run(&args, app),
        Command::Key(key) => command::key::run(&key, app),
        Command::Recipient(recipient) => command::recipient::run(&recipient, app),
        Command::Repo(repo) => command::repo::run(&repo, app),
        Command::Store(store) => command::store::run(&store, app),
        Command::Pg(pg) => command::pg::run(&pg, app),
        Command::Doctor(args) => command::doctor::run(&args, app),
        Command::Config(config) => command::config::run(&config, app),
        Command::Completions(args) => command::completions::run(&args, app),
    }
}
