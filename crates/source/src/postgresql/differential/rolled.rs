//! A dump and the differentials after it, as one snapshot of the moment of the last: what restores, drills and comparisons
//! take it for.
//!
//! Nothing is written for it. The files of each table are its rows in the dump up to a stamp, then those of the
//! differentials ([`chain`](super::chain)); all else is the dump's. The manifest asks of each table what the last
//! differential says that it was as a whole, so a row that was lost, doubled or deleted meanwhile is seen by the
//! comparison.

use super::super::manifest::{Manifest, file_stem};
use super::chain::{Broken, Chain, InDump, chain};
use super::manifest::{DifferentialManifest, DifferentialTable, TableName};
use super::stamp::{Stamp, is_before};
use crate::postgresql::failed;
use crate::{SourceError, Stored};
use hikae_model::{Entry, EntryKind, ErrorCode, TreePath};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read};

/// A dump with its tables brought forward.
pub struct RolledForward<'a> {
    dump: &'a dyn Stored,
    differentials: &'a [&'a dyn Stored],
    entries: Vec<Entry>,
    /// What stands under a path instead of what the dump has there.
    replaced: BTreeMap<TreePath, Replaced>,
    manifest: Vec<u8>,
}

enum Replaced {
    Text(Vec<u8>),
    Rows(Rows),
}

struct Rows {
    /// Files of the dump.
    dump: Vec<Entry>,
    /// Which of their rows: those stamped before this, in that field.
    before: Option<(usize, Stamp)>,
    /// Files of differentials, by number.
    files: Vec<(usize, Entry)>,
}

/// Why a dump and differentials do not make one snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NotForward {
    /// This dump does not carry that far; an older one may.
    #[error("{}: {why}", .table.shown())]
    Broken {
        /// The table.
        table: TableName,
        /// What is missing.
        why: String,
    },
    /// A manifest or a listing is not what it must be.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl<'a> RolledForward<'a> {
    /// Puts a dump and all differentials after it together, the oldest first.
    ///
    /// # Errors
    /// [`NotForward`] if rows between them are in none, or if anything is not understood.
    pub fn new(dump: &'a dyn Stored, differentials: &'a [&'a dyn Stored]) -> Result<Self, NotForward> {
        let parsed = differentials.iter().map(|stored| {
            DifferentialManifest::parse(stored.manifest().unwrap_or_default()).map_err(NotForward::from)
        });
        let parsed: Vec<DifferentialManifest> = parsed.collect::<Result<_, _>>()?;
        let mut manifest = Manifest::parse(dump.manifest().unwrap_or_default())?;
        let Some(last) = parsed.last() else {
            return Err(incomplete("there is no differential").into());
        };
        let all: Vec<&DifferentialManifest> = parsed.iter().collect();
        let (mut replaced, mut gone) = (BTreeMap::new(), BTreeSet::new());
        for table in &last.tables {
            let at = manifest
                .tables
                .iter()
                .position(|had| had.schema == table.table.schema && had.name == table.table.name);
            let had = at.map(|at| &mut manifest.tables[at]);
            if had.is_none() && table.total.rows == 0 {
                continue; // a partition that was made ahead and is still empty
            }
            let in_dump = had.as_ref().map(|had| InDump { horizon: manifest.horizon, columns: &had.columns });
            let chain = chain(&table.table, in_dump, &all)
                .map_err(|broken| NotForward::Broken { table: table.table.clone(), why: said(&broken) })?;
            let Some(had) = had else { continue };
            let rows = Rows::of(dump, differentials, &had.files, table, &chain)?;
            for file in &had.files {
                gone.insert(path(&format!("tables/{file}"))?);
            }
            let file = format!("{}.copy", file_stem(&had.schema, &had.name));
            replaced.insert(path(&format!("tables/{file}"))?, Replaced::Rows(rows));
            (had.files, had.rows, had.hash) = (vec![file], table.total.rows, table.total.hex());
        }
        let mut sequences = std::mem::take(&mut manifest.sequences);
        for stood in &mut sequences {
            let now = last.sequences.iter().find(|now| now.schema == stood.schema && now.name == stood.name);
            *stood = now.unwrap_or(stood).clone();
        }
        replaced.insert(path("sequences.json")?, Replaced::Text(text_of(&sequences)?));
        gone.insert(path("sequences.json")?);
        manifest.sequences = sequences;
        manifest.moment = last.moment;
        manifest.rolled_forward = last.trees.clone();
        // Their foreign keys are among them.
        manifest.objects.remove("constraints");
        let kept = dump.entries().iter().filter(|entry| !gone.contains(&entry.path)).cloned();
        let made = replaced.iter().map(|(path, instead)| entry_of(path, instead, last.moment));
        let mut entries: Vec<Entry> = kept.chain(made).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { dump, differentials, entries, replaced, manifest: text_of(&manifest)? })
    }
}

impl Rows {
    fn of(
        dump: &dyn Stored,
        differentials: &[&dyn Stored],
        dump_files: &[String],
        table: &DifferentialTable,
        chain: &Chain,
    ) -> Result<Self, SourceError> {
        let before = match &chain.dump_before {
            None => None,
            Some(cut) => {
                let field = table.columns.iter().position(|column| *column == table.watched.column);
                let cut = Stamp::parse(cut.as_bytes());
                Some(field.zip(cut).ok_or_else(|| incomplete("its watermark is not understood"))?)
            }
        };
        let of_dump = dump_files.iter().filter(|_| before.is_some());
        let of_dump = of_dump.map(|file| find(dump, &format!("tables/{file}")));
        let files = chain.files.iter().map(|(n, file)| Ok((*n, find(differentials[*n], file)?)));
        Ok(Self {
            dump: of_dump.collect::<Result<_, _>>()?,
            before,
            files: files.collect::<Result<_, SourceError>>()?,
        })
    }
}

impl Stored for RolledForward<'_> {
    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn manifest(&self) -> Option<&[u8]> {
        Some(&self.manifest)
    }

    fn open(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send + '_>> {
        match self.replaced.get(&entry.path) {
            None => self.dump.open(entry),
            Some(Replaced::Text(text)) => Ok(Box::new(text.as_slice())),
            Some(Replaced::Rows(rows)) => {
                let mut parts: Vec<Part<'_>> = Vec::new();
                for entry in &rows.dump {
                    parts.push(Part { stored: self.dump, entry, before: rows.before });
                }
                for (n, entry) in &rows.files {
                    parts.push(Part { stored: self.differentials[*n], entry, before: None });
                }
                parts.reverse();
                Ok(Box::new(InTurn { parts, open: None }))
            }
        }
    }
}

/// One file of which rows are taken.
struct Part<'a> {
    stored: &'a dyn Stored,
    entry: &'a Entry,
    before: Option<(usize, Stamp)>,
}

/// Files, one after the other; each is opened when the one before it has ended.
struct InTurn<'a> {
    /// The next is the last.
    parts: Vec<Part<'a>>,
    open: Option<Box<dyn Read + Send + 'a>>,
}

impl Read for InTurn<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(open) = &mut self.open {
                let n = open.read(buffer)?;
                if n > 0 || buffer.is_empty() {
                    return Ok(n);
                }
                self.open = None;
            }
            let Some(Part { stored, entry, before }) = self.parts.pop() else { return Ok(0) };
            let content = stored.open(entry)?;
            self.open = Some(match before {
                None => content,
                Some((field, cut)) => Box::new(Before {
                    rows: BufReader::with_capacity(64 << 10, content),
                    field,
                    cut,
                    row: Vec::new(),
                    at: 0,
                }),
            });
        }
    }
}

/// The rows of a COPY that are stamped before a cut.
struct Before<R> {
    rows: BufReader<R>,
    field: usize,
    cut: Stamp,
    row: Vec<u8>,
    at: usize,
}

impl<R: Read> Read for Before<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.row.len() {
            self.row.clear();
            self.at = 0;
            if self.rows.read_until(b'\n', &mut self.row)? == 0 {
                return Ok(0);
            }
            match is_before(&self.row, self.field, self.cut) {
                Some(true) => {}
                Some(false) => self.row.clear(),
                None => return Err(io::Error::other("a row has no stamp where its column says")),
            }
        }
        let n = buffer.len().min(self.row.len() - self.at);
        buffer[..n].copy_from_slice(&self.row[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn find(stored: &dyn Stored, name: &str) -> Result<Entry, SourceError> {
    let found = stored.entries().iter().find(|entry| entry.path.as_bytes() == name.as_bytes());
    found.cloned().ok_or_else(|| incomplete(&format!("{name} is not in it")))
}

fn entry_of(path: &TreePath, instead: &Replaced, moment: Timestamp) -> Entry {
    let size = match instead {
        Replaced::Text(text) => text.len() as u64,
        Replaced::Rows(rows) => {
            rows.dump.iter().chain(rows.files.iter().map(|(_, entry)| entry)).map(Entry::size).sum()
        }
    };
    let attributes = super::super::reading::attributes(0o600, moment);
    Entry { path: path.clone(), kind: EntryKind::File { size }, attributes }
}

fn path(text: &str) -> Result<TreePath, SourceError> {
    TreePath::parse(text).map_err(|error| incomplete(&error.to_string()))
}

fn text_of(value: &impl serde::Serialize) -> Result<Vec<u8>, SourceError> {
    serde_json::to_vec_pretty(value).map_err(|error| incomplete(&error.to_string()))
}

fn incomplete(what: &str) -> SourceError {
    let what = format!("the differentials cannot be put together: {what}");
    failed(ErrorCode::VerificationFailed, what, None)
}

fn said(broken: &Broken) -> String {
    match broken {
        Broken::NotInDump => "it is not in the dump".to_owned(),
        Broken::OtherColumns => "it has other columns than in the dump".to_owned(),
        Broken::Gap { after: None, .. } => "the dump does not say which transactions it shows".to_owned(),
        Broken::Gap { after: Some(after), until } => {
            format!("no differential here has the rows from {after} to {until}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_before_a_cut_pass_whole_and_no_others() {
        let rows =
            "1\t2026-11-20 14:00:00+00\n2\t\\N\n3\t2026-11-20 15:00:00+00\n4\t2026-11-20 14:59:59.9+00\n";
        let cut = Stamp::parse(b"2026-11-20 15:00:00+00").unwrap();
        for capacity in [1, 7, 1000] {
            let rows = BufReader::with_capacity(capacity, rows.as_bytes());
            let mut text = String::new();
            Before { rows, field: 1, cut, row: Vec::new(), at: 0 }.read_to_string(&mut text).unwrap();
            assert_eq!(text, "1\t2026-11-20 14:00:00+00\n4\t2026-11-20 14:59:59.9+00\n");
        }
        let rows = BufReader::new("1\tx\n".as_bytes());
        let read = Before { rows, field: 1, cut, row: Vec::new(), at: 0 }.read_to_end(&mut Vec::new());
        assert!(read.is_err(), "a row that is not understood is not passed over");
    }
}
