//! Writing the content of one file of a snapshot to somewhere, from start to end.

use crate::OpsError;
use crate::browse::no_entry;
use hikae_model::{Cx, EntryKind, ErrorCode, SnapshotId, TreePath};
use hikae_repo::Repo;
use hikae_repo::extent::Extent;
use hikae_repo::keys::BlobClass;
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use std::io::{self, Write};

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Writes the file at `path`. A hard link is followed, a symbolic link is not.
///
/// # Errors
/// [`OpsError::Refused`] if there is no such file; any failure to read it. What was written until then is
/// right, and the caller must know that it is not all.
pub fn cat(
    repo: &Repo,
    snapshot: SnapshotId,
    path: &TreePath,
    out: &mut dyn Write,
    cx: &Cx,
) -> Result<u64, OpsError> {
    let record = repo.snapshot(snapshot)?.record;
    let named = Named { id: snapshot, record: &record };
    let mut reader = BlobReader::new(repo)?;
    let mut entry = reader.entry(named, path)?.ok_or_else(|| no_entry(path))?;
    if let EntryKind::HardLink { to } = &entry.entry.kind {
        entry = reader.entry(named, to)?.ok_or_else(|| no_entry(to))?;
    }
    if !matches!(entry.entry.kind, EntryKind::File { .. }) {
        let what = format!("{path} is no file and has no content");
        return Err(OpsError::refused(ErrorCode::Usage, what, Some("`hikae ls` shows what it is".into())));
    }
    let mut written = 0;
    for map in reader.extents(&entry.content)? {
        for extent in map.extents() {
            cx.check()?;
            match *extent {
                Extent::Hole { bytes } => write_zeroes(bytes, out)?,
                Extent::Data { blob, offset, bytes } => {
                    let content = reader.read(BlobClass::Content, blob)?;
                    let start = offset as usize;
                    let end = usize::try_from(bytes).ok().and_then(|bytes| start.checked_add(bytes));
                    let range = end.and_then(|end| content.get(start..end)).ok_or_else(|| {
                        let what = format!("the listing of {path} asks for more than is kept");
                        OpsError::refused(
                            ErrorCode::VerificationFailed,
                            what,
                            Some("run `hikae verify`".into()),
                        )
                    })?;
                    out.write_all(range).map_err(cannot_write)?;
                }
            }
            written += extent.bytes();
            cx.progress().add_stored(extent.bytes());
        }
    }
    out.flush().map_err(cannot_write)?;
    Ok(written)
}

fn write_zeroes(mut bytes: u64, out: &mut dyn Write) -> Result<(), OpsError> {
    while bytes > 0 {
        let n = bytes.min(ZEROES.len() as u64);
        out.write_all(&ZEROES[..n as usize]).map_err(cannot_write)?;
        bytes -= n;
    }
    Ok(())
}

fn cannot_write(error: io::Error) -> OpsError {
    OpsError::refused(ErrorCode::of_io(&error), format!("cannot write the content: {error}"), None)
}
