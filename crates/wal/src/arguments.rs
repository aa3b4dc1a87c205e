//! The command line. By hand: this program is started for each segment, and a parser would cost more than all of the rest.

use crate::failure::usage;
use hikae_model::{Failure, SystemId, WalName};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What `--help` shows.
pub const HELP: &str = "\
Archive write-ahead log of PostgreSQL into a hikae repository, and fetch it.

  archive_command = 'hikae-wal push --store DIR --key-file FILE --cache DIR %p'
  restore_command = 'hikae-wal get --store DIR --key-file FILE --cache DIR %f %p'

`hikae-wal take SPOOL %f %p` is what `hikae restore` gives to the server that it recovers.

  --store DIR        the repository's directory
  --key-file FILE    what opens it
  --cache DIR        where this host remembers what it has seen of the repository
  --identity FILE    age or SSH identities that open contents, if the key does not (get)
  --system ID        the cluster whose log to fetch; without it, the one of this data directory (get)
  --ahead N          how many segments that are ready are stored ahead of the server by a process that a call
                     leaves behind, and how many further ones a call fetches; 0 for none [default: 32, 8 to fetch]
  --patience SECONDS how long to try again what may pass by itself [default: 30]
";

/// How many segments are stored, or fetched, before the server asks for them.
const AHEAD_STORED: usize = 32;
const AHEAD_FETCHED: usize = 8;

/// What a command line asks for.
pub enum Call {
    /// Archive the file `%p`, from the data directory.
    Push(Options, PathBuf),
    /// Store what is ready in this directory, beside the calls of the server: started by one of them.
    Ahead(Options, PathBuf),
    /// Fetch a file.
    Get(Options, Wanted),
    /// Hand over a file that hikae has fetched into this directory.
    Take(PathBuf, Wanted),
    /// Show how it is called.
    Help,
    /// Show which release it is.
    Version,
}

/// A file that the server wants.
pub struct Wanted {
    /// `%f`
    pub name: WalName,
    /// `%p`: where it goes, from the data directory.
    pub target: PathBuf,
    /// The cluster, unless it is that of the data directory.
    pub system: Option<SystemId>,
}

/// Where the repository is, what opens it, and how hard to try.
pub struct Options {
    pub store: PathBuf,
    pub key_file: PathBuf,
    pub cache: PathBuf,
    pub identity: Option<PathBuf>,
    pub ahead: usize,
    pub patience: Duration,
}

impl Call {
    /// Parses what follows the name of the program.
    ///
    /// # Errors
    /// [`Failure`] that says which word is wrong or missing.
    pub fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let (mut store, mut key_file, mut cache, mut identity, mut system) = (None, None, None, None, None);
        let (mut ahead, mut patience) = (None, Duration::from_secs(30));
        let mut others = Vec::new();
        while let Some(word) = words.next() {
            let Some(option) = word.to_str().filter(|word| word.starts_with("--")) else {
                others.push(word);
                continue;
            };
            let (option, given) = match option.split_once('=') {
                Some((option, value)) => (option, Some(OsString::from(value))),
                None => (option, None),
            };
            let mut value =
                || given.clone().or_else(|| words.next()).ok_or_else(|| missing(option, "its value"));
            match option {
                "--store" => store = Some(PathBuf::from(value()?)),
                "--key-file" => key_file = Some(PathBuf::from(value()?)),
                "--cache" => cache = Some(PathBuf::from(value()?)),
                "--identity" => identity = Some(PathBuf::from(value()?)),
                "--system" => system = Some(parse(option, &value()?)?),
                "--ahead" => ahead = Some(parse::<u8>(option, &value()?)?.into()),
                "--patience" => patience = Duration::from_secs(parse::<u32>(option, &value()?)?.into()),
                "--help" => return Ok(Self::Help),
                "--version" => return Ok(Self::Version),
                _ => return Err(usage(format!("there is no option {option}"))),
            }
        }
        let (verb, rest) = match others.split_first() {
            Some((verb, rest)) => (verb.to_string_lossy(), rest),
            None => return Err(usage("nothing says what to do")),
        };
        let options = || {
            Ok::<_, Failure>(Options {
                store: store.ok_or_else(|| missing("the command line", "--store"))?,
                key_file: key_file.ok_or_else(|| missing("the command line", "--key-file"))?,
                cache: cache.ok_or_else(|| missing("the command line", "--cache"))?,
                identity,
                ahead: ahead.unwrap_or(if verb == "get" { AHEAD_FETCHED } else { AHEAD_STORED }),
                patience,
            })
        };
        match (&*verb, rest) {
            ("push", [path]) => Ok(Self::Push(options()?, path.into())),
            ("ahead", [pg_wal]) => Ok(Self::Ahead(options()?, pg_wal.into())),
            ("get", [name, target]) => {
                let wanted = Wanted { name: parse("%f", name)?, target: target.into(), system };
                Ok(Self::Get(options()?, wanted))
            }
            ("take", [spool, name, target]) => {
                let wanted = Wanted { name: parse("%f", name)?, target: target.into(), system: None };
                Ok(Self::Take(spool.into(), wanted))
            }
            ("push", _) => Err(usage("push takes one file, %p")),
            ("get", _) => Err(usage("get takes a name and a file, %f %p")),
            ("take", _) => Err(usage("take takes a directory, a name and a file, SPOOL %f %p")),
            _ => Err(usage(format!("there is no verb {verb}"))),
        }
    }
}

fn missing(what: &str, part: &str) -> Failure {
    usage(format!("{what} lacks {part}"))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(option: &str, value: &OsString) -> Result<T, Failure> {
    let text = value.to_string_lossy();
    text.parse().map_err(|error| usage(format!("{option} {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Call, Failure> {
        Call::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_command_line_is_understood_in_any_order() {
        for line in [
            "push --store s --key-file k --cache c pg_wal/x",
            "--store=s --key-file=k push pg_wal/x --cache=c",
        ] {
            let Ok(Call::Push(options, path)) = parsed(line) else { panic!("{line}") };
            assert_eq!((path, options.store), ("pg_wal/x".into(), "s".into()));
            assert_eq!((options.key_file, options.cache, options.ahead), ("k".into(), "c".into(), 32));
        }
        let line = "get --store s --key-file k --cache c --system 7 --ahead 0 00000002.history pg_wal/RECOVERYHISTORY";
        let Ok(Call::Get(options, wanted)) = parsed(line) else { panic!("{line}") };
        assert_eq!(
            (wanted.system, wanted.name.to_string().as_str()),
            (Some(SystemId(7)), "00000002.history")
        );
        assert_eq!(options.ahead, 0);
    }

    #[test]
    fn a_command_line_that_cannot_be_is_refused() {
        for line in [
            "",
            "pull x",
            "push x",
            "push --store s --key-file k --cache c",
            "push --store s --key-file k --cache c a b",
            "push --store s --key-file k --cache",
            "push --store s --key-file k --cache c --force x",
            "get --store s --key-file k --cache c 00000002.history",
            "get --store s --key-file k --cache c ../secret x",
            "get --store s --key-file k --cache c --system x 00000002.history x",
            "take spool 00000002.history",
            "take spool ../secret x",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
