//! Files as themselves, in a folder: restored as every restore does, then read back for their sums.

use super::contents::Chosen;
use crate::OpsError;
use crate::restore::restore_chosen;
use hikae_export::sums::{line, sha256_of};
use hikae_model::{Cx, ErrorCode};
use hikae_repo::Repo;
use hikae_source::SourceError;
use hikae_source::files::Target;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What is in a folder.
pub(super) struct Filled {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// One line a file, as `sha256sum -c` reads them beside the folder.
    pub(super) sums: Vec<u8>,
}

/// Fills a new folder with what was chosen, durably. `name` is what it will be called.
pub(super) fn fill(
    repo: &Repo,
    chosen: &Chosen<'_>,
    folder: &Path,
    name: &[u8],
    cx: &Cx,
) -> Result<Filled, OpsError> {
    chosen.see_no_secrets(repo)?;
    let of_source = OpsError::of_source(&chosen.record.source);
    let target = Target::into_new(folder, cx).map_err(&of_source)?;
    let report = restore_chosen(repo, chosen.snapshot, &chosen.choice, target, cx)?;
    if let Some(problem) = report.problems.first() {
        let code = if report.n_damaged > 0 { ErrorCode::VerificationFailed } else { ErrorCode::Failure };
        return Err(OpsError::refused(code, problem.to_string(), problem.advice.clone().map(Into::into)));
    }
    let read = |source| of_source(SourceError::Io { verb: "read back", path: folder.to_owned(), source });
    cx.progress().begin("reading back", &chosen.record.source, report.bytes);
    sums(folder, name, cx).map_err(read)
}

/// The sums of all files in a folder that is, or will be, called `name`.
pub(super) fn sums(folder: &Path, name: &[u8], cx: &Cx) -> io::Result<Filled> {
    let mut filled = Filled { files: 0, bytes: 0, sums: Vec::new() };
    sum_below(folder, name, &mut filled, cx)?;
    Ok(filled)
}

fn sum_below(folder: &Path, name: &[u8], filled: &mut Filled, cx: &Cx) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        cx.check().map_err(io::Error::other)?;
        let kind = entry.file_type()?;
        let name = [name, b"/", entry.file_name().as_bytes()].concat();
        if kind.is_dir() {
            sum_below(&entry.path(), &name, filled, cx)?;
        } else if kind.is_file() {
            let mut file = File::open(entry.path())?;
            filled.sums.extend(line(&sha256_of(&mut file)?, &name));
            filled.files += 1;
            filled.bytes += file.metadata()?.len();
        }
    }
    Ok(())
}
