//! The command line: what can be asked for. Each subcommand's own arguments stand in its file.

use crate::command;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use hikae_ops::config::Rate;
use std::path::PathBuf;

/// hikae backs up PostgreSQL and SQLite databases and files, and proves by real restores that they come back
#[derive(Debug, Parser)]
#[command(
    name = "hikae",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Every flag can be set by an environment variable too: HIKAE_ and its name, as HIKAE_CONFIG.\n\
                  HIKAE_PASSPHRASE is a passphrase itself; it is not handed on to other programs.\n\
                  \n\
                  Examples:\n  \
                  hikae protect ~/Documents ~/notes.db\n  \
                  hikae list\n  \
                  hikae restore Documents --target /tmp/back"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Configuration to use, instead of ~/.config/hikae/config.toml or /etc/hikae/config.toml
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Repository of the configuration to use
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    pub repository: Option<String>,
    /// Directory, bucket (s3:https://server/bucket/prefix) or sftp://user@server/path of a repository, without a configuration
    #[arg(long, value_name = "PLACE", global = true, conflicts_with = "repository", hide_short_help = true)]
    pub store: Option<PathBuf>,
    /// Key file that opens the repository
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub key_file: Option<PathBuf>,
    /// Program that prints the passphrase; words, no shell
    #[arg(long, value_name = "COMMAND", global = true, conflicts_with = "key_file", hide_short_help = true)]
    pub passphrase_command: Option<String>,
    /// File of age or SSH identities: opens the repository, or the contents if another key is given too
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub identity: Option<PathBuf>,
    /// Recovery sheet that opens the repository: a file, or `-` to type or pipe its secret
    #[arg(long, value_name = "FILE", global = true, conflicts_with_all = ["key_file", "passphrase_command"], hide_short_help = true)]
    pub recovery: Option<PathBuf>,
    /// No more bytes a second to the repository than this, as "10 MB/s"
    #[arg(long, value_name = "RATE", global = true, hide_short_help = true)]
    pub limit_upload: Option<Rate>,
    /// No more bytes a second from the repository
    #[arg(long, value_name = "RATE", global = true, hide_short_help = true)]
    pub limit_download: Option<Rate>,
    /// Where indexes are cached, instead of ~/.cache/hikae
    #[arg(long, value_name = "DIR", global = true, hide_short_help = true)]
    pub cache: Option<PathBuf>,
    /// Where scratch copies and drills are made, instead of the directory for temporary files
    #[arg(long, value_name = "DIR", global = true, hide_short_help = true)]
    pub scratch: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long, global = true, conflicts_with = "json_lines")]
    pub json: bool,
    /// Print events as JSON, one a line
    #[arg(long, global = true)]
    pub json_lines: bool,
    /// No progress and no notes
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Tell each step of a run, with its time
    #[arg(long, short, global = true, conflicts_with = "quiet", hide_short_help = true)]
    pub verbose: bool,
    /// No colours (so does NO_COLOR)
    #[arg(long, global = true, hide_short_help = true)]
    pub no_color: bool,
    /// Exit with 1 disk full, 2 database missing, 3 verification failed, 4 no permission, 5 anything else
    #[arg(long, global = true, hide_short_help = true)]
    pub compat_exit_codes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Protect(command::protect::ProtectArgs),
    Init(command::init::InitArgs),
    Backup(command::backup::BackupArgs),
    Copy(command::copy::CopyArgs),
    Copies(command::copies::CopiesArgs),
    List(command::list::ListArgs),
    Show(command::show::ShowArgs),
    Ls(command::ls::LsArgs),
    Find(command::find::FindArgs),
    Cat(command::cat::CatArgs),
    Diff(command::diff::DiffArgs),
    Restore(Box<command::restore::RestoreArgs>),
    Export(command::export::ExportArgs),
    Verify(command::verify::VerifyArgs),
    Drill(command::drill::DrillArgs),
    Forget(command::forget::ForgetArgs),
    Undelete(command::undelete::UndeleteArgs),
    Prune(command::prune::PruneArgs),
    /// What opens the repository
    #[command(subcommand)]
    Key(command::key::KeyCommand),
    /// Who can open contents
    #[command(subcommand)]
    Recipient(command::recipient::RecipientCommand),
    /// The repository as a whole
    #[command(subcommand)]
    Repo(command::repo::RepoCommand),
    /// The place where a repository is kept
    #[command(subcommand)]
    Store(command::store::StoreCommand),
    /// A running PostgreSQL server: its recovery window and its log
    #[command(subcommand)]
    Pg(command::pg::PgCommand),
    Doctor(command::doctor::DoctorArgs),
    /// The configuration
    #[command(subcommand)]
    Config(command::config::ConfigCommand),
    Completions(command::completions::CompletionsArgs),
}

/// The command with an environment variable for each flag.
pub fn command() -> clap::Command {
    with_variables(Cli::command())
}

fn with_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
        if matches!(long.as_str(), "help" | "version") {
            return arg;
        }
        let variable = format!("HIKAE_{}", long.to_ascii_uppercase().replace('-', "_"));
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let arg = arg.env(variable).hide_env(true);
        if is_switch { arg.value_parser(FalseyValueParser::new()) } else { arg }
    });
    command.mut_subcommands(with_variables)
}

/// Reads the command line and its environment variables. Gives the subcommand's name too, as `key list`.
///
/// # Errors
/// clap's, with help and version among them.
pub fn parse() -> Result<(Cli, String), clap::Error> {
    let matches = command().try_get_matches()?;
    let mut names = Vec::new();
    let mut below = matches.subcommand();
    while let Some((name, matches)) = below {
        names.push(name.to_owned());
        below = matches.subcommand();
    }
    Ok((Cli::from_arg_matches(&matches)?, names.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let long = arg.get_long().unwrap_or("help");
                if !matches!(long, "help" | "version") {
                    let expected = format!("HIKAE_{}", long.to_ascii_uppercase().replace('-', "_"));
                    let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned());
                    assert_eq!(variable, Some(expected), "{} --{long}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }

    #[test]
    fn no_flag_takes_a_secret() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let long = arg.get_long().unwrap_or_default();
                assert!(!matches!(long, "passphrase" | "password" | "secret" | "key"), "--{long}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
