//! The table of contents of an archive of `pg_dump --format=custom`.
//!
//! Source: `ReadHead`, `ReadToc` and `WriteToc` in PostgreSQL's `pg_backup_archiver.c`, `_ReadExtraToc` in
//! `pg_backup_custom.c`. Versions 1.14 (PostgreSQL 12 to 15), 1.15 (16) and 1.16 (17 and newer) are known.

use crate::postgresql::dump::archive::{read_int, take};
use jiff::Zoned;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// Most entries of an archive: a bound for what is not one.
const MAX_ENTRIES: i64 = 50_000_000;
/// Longest text: the longest that the server can hold.
const MAX_TEXT: u64 = 1 << 30;

/// A text, or none.
pub(super) type Text = Option<Vec<u8>>;

/// When an entry is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// As its number in the archive: before all rows.
    PreData,
    /// Rows, and where sequences stand.
    Data,
    /// Indexes, keys, triggers, and what needs rows.
    PostData,
    /// What belongs to others, as comments, by its number.
    Other(i64),
}

impl Section {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::PreData => 2,
            Self::Data => 3,
            Self::PostData => 4,
            Self::Other(number) => number,
        }
    }

    fn of(number: i64) -> Self {
        match number {
            2 => Self::PreData,
            3 => Self::Data,
            4 => Self::PostData,
            number => Self::Other(number),
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) has_data: bool,
    pub(super) table_oid: Text,
    pub(super) oid: Text,
    pub(super) tag: Text,
    pub(super) kind: Text,
    pub(super) section: Section,
    pub(super) definition: Text,
    pub(super) drop: Text,
    pub(super) copy: Text,
    pub(super) namespace: Text,
    pub(super) tablespace: Text,
    pub(super) access_method: Text,
    pub(super) relation_kind: i64,
    pub(super) owner: Text,
    pub(super) with_oids: Text,
    pub(super) depends_on: Vec<Vec<u8>>,
}

/// What an entry that is added says of the one that it is about.
#[derive(Clone, Debug)]
pub(super) struct Of {
    id: i64,
    owner: Text,
}

impl Entry {
    /// An entry without content about something that is defined, or that an extension defines.
    pub(super) fn of(kind: &str, schema: &str, name: &str, section: Section, of: Option<&Of>) -> Self {
        Self {
            id: 0,
            has_data: false,
            table_oid: Some(b"0".to_vec()),
            oid: Some(b"0".to_vec()),
            tag: Some(name.into()),
            kind: Some(kind.into()),
            section,
            definition: Some(Vec::new()),
            drop: Some(Vec::new()),
            copy: None,
            namespace: Some(schema.into()),
            tablespace: None,
            access_method: None,
            relation_kind: 0,
            owner: of.map_or(Some(Vec::new()), |of| of.owner.clone()),
            with_oids: Some(b"false".to_vec()),
            depends_on: of.map(|of| of.id.to_string().into_bytes()).into_iter().collect(),
        }
    }

    /// A setting under which the others are restored.
    pub(super) fn setting(kind: &str, statement: &str) -> Self {
        let entry = Self::of(kind, "", kind, Section::PreData, None);
        Self { namespace: None, definition: Some(statement.into()), ..entry }
    }

    fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind.as_bytes())
    }

    /// Schema and name, if they can be told.
    fn name(&self) -> Option<(String, String)> {
        let text = |text: &Text| String::from_utf8(text.clone()?).ok();
        Some((text(&self.namespace)?, text(&self.tag)?))
    }
}

/// What stands before the rows of an archive.
#[derive(Clone, Debug)]
pub(super) struct Archived {
    /// The second number of its version.
    pub(super) minor: u8,
    /// When it was made, as seven numbers.
    pub(super) made: [i64; 7],
    pub(super) database: Text,
    pub(super) server_version: Text,
    pub(super) pg_dump_version: Text,
    /// Definitions that rows need.
    before: Vec<Entry>,
    /// Data that was added.
    data: Vec<Entry>,
    /// What needs rows.
    after: Vec<Entry>,
    next_id: i64,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Archived {
    /// An archive of one moment with nothing in it, in the oldest version that is known here.
    pub(super) fn empty(moment: Zoned, database: &str) -> Self {
        let numbers = [moment.second(), moment.minute(), moment.hour(), moment.day(), moment.month() - 1];
        let [second, minute, hour, day, month] = numbers.map(i64::from);
        Self {
            minor: 14,
            made: [second, minute, hour, day, month, i64::from(moment.year()) - 1900, 0],
            database: Some(database.into()),
            server_version: None,
            pg_dump_version: None,
            before: Vec::new(),
            data: Vec::new(),
            after: Vec::new(),
            next_id: 1,
        }
    }

    /// Reads head and contents; what follows in `from` are blocks of data.
    pub(super) fn read(from: &mut dyn Read) -> io::Result<Self> {
        let mut from = from;
        let magic: [u8; 5] = take(&mut from)?;
        let [major, minor, _revision, int_bytes, offset_bytes, format] = take(&mut from)?;
        if magic != *b"PGDMP" || major != 1 || !(14..=16).contains(&minor) || format != 1 {
            return Err(invalid("its version is not known here"));
        }
        if !(1..=8).contains(&int_bytes) || !(1..=8).contains(&offset_bytes) {
            return Err(invalid("its numbers have no length"));
        }
        let compression =
            if minor >= 15 { take::<1>(&mut from)?[0].into() } else { read_int(&mut from, int_bytes)? };
        if compression != 0 {
            return Err(invalid("it is compressed"));
        }
        let mut made = [0; 7];
        for number in &mut made {
            *number = read_int(&mut from, int_bytes)?;
        }
        let mut texts = [const { None }; 3];
        for text in &mut texts {
            *text = read_text(&mut from, int_bytes)?;
        }
        let [database, server_version, pg_dump_version] = texts;
        let n_entries = read_int(&mut from, int_bytes)?;
        if !(0..=MAX_ENTRIES).contains(&n_entries) {
            return Err(invalid("it has too many entries"));
        }
        let mut entries = Vec::new();
        for _ in 0..n_entries {
            entries.push(read_entry(&mut from, minor, int_bytes, offset_bytes)?);
        }
        let next_id = entries.iter().map(|entry| entry.id).max().unwrap_or(0) + 1;
        let after = entries.iter().position(|entry| entry.section == Section::PostData);
        let after = entries.split_off(after.unwrap_or(entries.len()));
        let (before, data) = (entries, Vec::new());
        Ok(Self { minor, made, database, server_version, pg_dump_version, before, data, after, next_id })
    }

    /// All entries in their order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.before.iter().chain(&self.data).chain(&self.after)
    }

    fn number(&mut self, entry: Entry) -> Entry {
        self.next_id += 1;
        Entry { id: self.next_id - 1, ..entry }
    }

    /// Adds an entry of data. Gives its number.
    pub(super) fn add(&mut self, entry: Entry) -> i64 {
        let entry = self.number(entry);
        let id = entry.id;
        self.data.push(entry);
        id
    }

    /// Has what looks at the rows of several tables at once wait for all rows: `pg_restore --jobs` waits for those of the tables
    /// that an entry names, and a partitioned table has none of its own.
    pub(super) fn wait_for_rows(&mut self) {
        let number = |text: &Vec<u8>| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        let filled: BTreeSet<i64> =
            self.data.iter().flat_map(|entry| &entry.depends_on).filter_map(number).collect();
        let is_empty = |entry: &&Entry| entry.is("TABLE") && !filled.contains(&entry.id);
        let empty: BTreeSet<i64> = self.before.iter().filter(is_empty).map(|entry| entry.id).collect();
        let rows: Vec<Vec<u8>> = self.data.iter().map(|entry| entry.id.to_string().into_bytes()).collect();
        for entry in &mut self.after {
            let looks = ["TRIGGER", "FK CONSTRAINT", "RULE"].iter().any(|kind| entry.is(kind));
            if looks && entry.depends_on.iter().filter_map(number).any(|of| empty.contains(&of)) {
                entry.depends_on.extend_from_slice(&rows);
            }
        }
    }

    /// Adds an entry behind all others, that waits for `others` too. Gives its number.
    pub(super) fn add_last(&mut self, entry: Entry, others: &[i64]) -> i64 {
        let mut entry = self.number(entry);
        entry.depends_on.extend(others.iter().map(|id| id.to_string().into_bytes()));
        let id = entry.id;
        self.after.push(entry);
        id
    }

    /// Adds what another archive has of its own. Gives by how much its numbers are greater here.
    pub(super) fn add_archive(&mut self, other: Self) -> i64 {
        let shift = self.next_id;
        self.next_id += other.next_id;
        for mut entry in other.before.into_iter().chain(other.after) {
            if ["ENCODING", "STDSTRINGS", "SEARCHPATH"].iter().any(|kind| entry.is(kind)) {
                continue;
            }
            entry.id += shift;
            for number in &mut entry.depends_on {
                let old = std::str::from_utf8(number).ok().and_then(|text| text.parse::<i64>().ok());
                if let Some(old) = old {
                    *number = (old + shift).to_string().into_bytes();
                }
            }
            self.data.push(entry);
        }
        shift
    }

    /// What is defined, by schema and name.
    pub(super) fn by_name(&self, kinds: &[&str]) -> BTreeMap<(String, String), Of> {
        let of_kind = self.entries().filter(|entry| kinds.iter().any(|kind| entry.is(kind)));
        of_kind
            .filter_map(|entry| Some((entry.name()?, Of { id: entry.id, owner: entry.owner.clone() })))
            .collect()
    }

    /// What is defined of one kind, in its order.
    pub(super) fn in_order(&self, kind: &str) -> Vec<(String, String, Of)> {
        let of_kind = self.entries().filter(|entry| entry.is(kind));
        let named = of_kind.filter_map(|entry| {
            let (schema, name) = entry.name()?;
            Some((schema, name, Of { id: entry.id, owner: entry.owner.clone() }))
        });
        named.collect()
    }
}

fn read_text(from: &mut &mut dyn Read, int_bytes: u8) -> io::Result<Text> {
    let Ok(length) = u64::try_from(read_int(from, int_bytes)?) else { return Ok(None) };
    if length > MAX_TEXT {
        return Err(invalid("a text is too long"));
    }
    let mut text = Vec::new();
    match from.take(length).read_to_end(&mut text)? as u64 == length {
        true => Ok(Some(text)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn read_entry(from: &mut &mut dyn Read, minor: u8, int_bytes: u8, offset_bytes: u8) -> io::Result<Entry> {
    let id = read_int(from, int_bytes)?;
    let has_data = read_int(from, int_bytes)? != 0;
    let mut text = || read_text(from, int_bytes);
    let [table_oid, oid, tag, kind] = [text()?, text()?, text()?, text()?];
    let section = Section::of(read_int(from, int_bytes)?);
    let mut text = || read_text(from, int_bytes);
    let [definition, drop, copy, namespace, tablespace, access_method] =
        [text()?, text()?, text()?, text()?, text()?, text()?];
    let relation_kind = if minor >= 16 { read_int(from, int_bytes)? } else { 0 };
    let owner = read_text(from, int_bytes)?;
    let with_oids = read_text(from, int_bytes)?;
    let mut depends_on = Vec::new();
    while let Some(number) = read_text(from, int_bytes)? {
        depends_on.push(number);
    }
    // Where its data is, which nobody knew when it was written to a pipe.
    take::<1>(from)?;
    for _ in 0..offset_bytes {
        take::<1>(from)?;
    }
    Ok(Entry {
        id,
        has_data,
        table_oid,
        oid,
        tag,
        kind,
        section,
        definition,
        drop,
        copy,
        namespace,
        tablespace,
        access_method,
        relation_kind,
        owner,
        with_oids,
        depends_on,
    })
}
