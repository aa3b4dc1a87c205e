//! `hikae cat`

use crate::app::App;
use crate::failure::{Ended, Failure};
use clap::Args;
use hikae_model::ErrorCode;
use hikae_ops::cat::cat;
use hikae_ops::choice::path_of;
use hikae_ops::config::Config;
use hikae_ops::select::SnapshotSelector;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;

/// Write the content of one file of a snapshot to standard output
#[derive(Debug, Args)]
#[command(
    after_help = "The file and nothing else, also with --json.\n\nExample:\n  hikae cat documents home/me/letter.txt > letter.txt"
)]
pub struct CatArgs {
    /// Snapshot: beginning of its id, a source, a time, `latest` or `latest-verified`
    snapshot: SnapshotSelector,
    /// The file
    #[arg(value_name = "PATH")]
    path: OsString,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Show what the configuration calls secret, too
    #[arg(long)]
    reveal: bool,
}

pub fn run(args: &CatArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let chosen = app.choose(&repo, &args.snapshot, args.source.as_deref())?;
    let snapshot = chosen.snapshot();
    let path = path_of(&repo, snapshot.snapshot.id, args.path.as_bytes())?;
    // Where there is no configuration, or a broken one in an outage, nothing is known to be secret.
    let config = if args.reveal { Config::default() } else { app.config_or_none().unwrap_or_default() };
    if config.sources.get(&snapshot.snapshot.source).is_some_and(|source| source.is_secret(&path)) {
        let what = format!("{path} is secret by the configuration");
        let hint = "add --reveal to show it; `hikae restore` writes it with its own mode";
        return Err(Failure::new(ErrorCode::Forbidden, what, Some(hint.into())));
    }
    // Bytes, whatever form was asked for: this is the file and nothing else.
    let mut out =
        UntilClosed { inner: BufWriter::with_capacity(1 << 20, io::stdout().lock()), closed: false };
    match cat(&repo, snapshot.snapshot.id, &path, &mut out, &app.cx) {
        // Whoever read it has read enough.
        Err(_) if out.closed => Ok(Ended::Well),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(Ended::Well),
    }
}

/// Remembers that the reader went away.
struct UntilClosed<W> {
    inner: W,
    closed: bool,
}

impl<W: Write> UntilClosed<W> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.closed |= result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.inner.flush();
        self.note(flushed)
    }
}
