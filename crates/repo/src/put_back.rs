//! Putting back, out of another copy of the repository, what is damaged or gone here.
//!
//! Nothing is believed of the copy: an object that is named by its hash proves itself, and an entry of the log is the
//! one that the entry after it names. Only of the last one there is no such proof; it must continue the log, and be
//! the one that this machine has seen, if it has seen it.

use crate::RepoError;
use crate::layout;
use crate::log::{LogEntry, hash_of};
use crate::repo::Repo;
use crate::verify::VerifyReport;
use crate::wal;
use hikae_model::{Cx, sabotage};
use hikae_store::{ObjectKey, Store};

/// What was put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutBack {
    /// Objects that are well again.
    pub done: Vec<ObjectKey>,
    /// Objects that the copy has not, or not as they were here.
    pub not_in_copy: Vec<ObjectKey>,
}

/// Puts back what `found` names as damaged or gone, as far as `copy` has it. Open the repository anew afterwards. With
/// `dry_run` it only says what it would do.
///
/// # Errors
/// Any failure to read the copy, or to read or write the store.
pub fn put_back(
    repo: &Repo,
    found: &VerifyReport,
    copy: &dyn Store,
    dry_run: bool,
    cx: &Cx,
) -> Result<PutBack, RepoError> {
    let mut report = PutBack::default();
    // Backwards, so that the entry after one is there to prove it.
    for key in found.damage.objects.iter().rev() {
        cx.check()?;
        let bytes = match copy.get(key) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                report.not_in_copy.push(key.clone());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let n = layout::name_of::<u64>(key).filter(|_| key.is_below(layout::LOG));
        let is_right = match (n, layout::wal_of(key)) {
            (Some(n), _) => is_entry(repo, copy, n, &bytes)?,
            (None, Some(file)) => wal::is_right(repo, &repo.state(), file, &bytes),
            // Of a bundle the segments that it holds stand before its hash.
            (None, None) => key.as_str().rsplit(['/', '.']).next() == Some(&*blake3::hash(&bytes).to_hex()),
        };
        if !is_right && !sabotage::on("copy-is-believed") {
            report.not_in_copy.push(key.clone());
            continue;
        }
        if !dry_run {
            repo.store().replace(key, &bytes)?;
        }
        report.done.push(key.clone());
    }
    Ok(report)
}

/// Whether these are the bytes of entry `n` of this log.
fn is_entry(repo: &Repo, copy: &dyn Store, n: u64, bytes: &[u8]) -> Result<bool, RepoError> {
    let opened = LogEntry::open(n, bytes.to_vec(), repo.header().core.repository, repo.keys());
    let Ok((entry, _)) = opened else { return Ok(false) };
    let hash = hash_of(bytes);
    match repo.read_entry(n + 1) {
        Ok(Some((next, _, _))) => return Ok(next.previous == hash),
        Ok(None) => {}
        Err(RepoError::Damaged { .. }) => {
            // Not put back yet in a dry run, or not to be had: then the copy's own must lead here.
            let next = copy.get(&layout::log_entry(n + 1)).ok();
            let next = next.and_then(|next| {
                LogEntry::open(n + 1, next, repo.header().core.repository, repo.keys()).ok()
            });
            return Ok(next.is_some_and(|(next, _)| next.previous == hash));
        }
        Err(error) => return Err(error),
    }
    let before = match n - 1 {
        0 => Some(hash_of(&repo.header().to_bytes())),
        before => match repo.read_entry(before) {
            Ok(entry) => entry.map(|(_, _, hash)| hash),
            Err(RepoError::Damaged { .. }) => {
                copy.get(&layout::log_entry(before)).ok().map(|bytes| hash_of(&bytes))
            }
            Err(error) => return Err(error),
        },
    };
    Ok(before == Some(entry.previous) && repo.remembers_no_other(n, hash)?)
}
