//! `hikae ls`

use crate::app::App;
use crate::failure::{Ended, Failure};
use crate::output::Form;
use clap::Args;
use hikae_model::Bytes;
use hikae_ops::browse::{ListedEntry, ls, parse_path};
use hikae_ops::select::SnapshotSelector;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

/// List what is in a snapshot
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hikae ls documents home/me")]
pub struct LsArgs {
    /// Snapshot: beginning of its id, a source, a time, `latest` or `latest-verified`
    #[arg(default_value = "latest")]
    snapshot: SnapshotSelector,
    /// Folder or file in it [default: the top]
    #[arg(value_name = "PATH")]
    path: Option<OsString>,
    /// Source to choose from
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// All that is below, too
    #[arg(long, short)]
    recursive: bool,
}

pub fn run(args: &LsArgs, app: &App) -> Result<Ended, Failure> {
    let repo = app.open()?;
    let chosen = app.choose(&repo, &args.snapshot, args.source.as_deref())?;
    let snapshot = chosen.snapshot();
    let path = parse_path(args.path.as_deref().unwrap_or_default().as_bytes())?;
    let mut entries = Vec::new();
    let mut show = |listed: ListedEntry| {
        match app.output.form {
            Form::Text => app.output.line(&line(&listed, app)),
            Form::JsonLines => app.output.event("entry", &listed),
            Form::Json => entries.push(listed),
        }
        Ok(())
    };
    ls(&repo, snapshot.snapshot.id, path.as_ref(), args.recursive, &mut show)?;
    app.output.result(Ended::Well, &entries, "");
    Ok(Ended::Well)
}

/// As `drwxr-xr-x  1000:1000   1.5 KiB  2026-11-20 14:30:05 +09:00  srv/docs`.
pub fn line(entry: &ListedEntry, app: &App) -> String {
    let size = entry.bytes.map_or(String::new(), |bytes| Bytes(bytes).to_string());
    let owner = format!("{}:{}", entry.uid, entry.gid);
    let link = entry.link.as_ref().map_or(String::new(), |to| format!(" -> {to}"));
    format!("{}  {owner:<11}  {size:>10}  {}  {}{link}", mode(entry), app.time(entry.modified), entry.path)
}

/// Kind and permissions, as `ls -l` writes them.
fn mode(entry: &ListedEntry) -> String {
    let kind = match entry.kind {
        "directory" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "char-device" => 'c',
        "block-device" => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special_bit, special) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, entry.mode & special_bit != 0) {
            (true, true) => special,
            (false, true) => special.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}
