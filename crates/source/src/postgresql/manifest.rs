//! The manifest of a PostgreSQL snapshot: what must hold after a restore.
//!
//! Rows and hashes are those of the snapshot in which the tables were read, so a restore is compared exactly and
//! not with what the source has become. The format is JSON; `kind` and `version` stand first.

use super::catalog::Sequence;
use super::differential::TableName;
use crate::SourceError;
use hikae_model::{ErrorCode, HashKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What must hold after a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `postgresql`.
    pub kind: String,
    /// Version of this format.
    pub version: u32,
    /// Name of the database.
    pub database: String,
    /// The server's version, as `15.13`.
    pub server_version: String,
    /// The same as a number, as 150013.
    pub server_version_num: u32,
    /// What `pg_dump --version` said.
    pub pg_dump: String,
    /// The moment that all tables show.
    pub moment: jiff::Timestamp,
    /// No transaction that they do not show began before this. Nothing if that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub horizon: Option<jiff::Timestamp>,
    /// Whether only a selection of tables was read.
    pub selection: bool,
    /// Whether `globals.sql` holds the roles' password hashes.
    pub role_passwords: bool,
    /// Tables whose rows were read, by name.
    pub tables: Vec<TableRecord>,
    /// Sequences, by name.
    pub sequences: Vec<SequenceRecord>,
    /// Materialised views that were filled, and are filled anew by a restore.
    pub materialised_views: Vec<ViewRecord>,
    /// Large objects, if there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub large_objects: Option<LargeObjects>,
    /// Objects by kind.
    pub objects: BTreeMap<String, Objects>,
    /// Extensions and their versions.
    pub extensions: BTreeMap<String, String>,
    /// Roles that own something or have a privilege.
    pub roles: Vec<String>,
    /// What the database has and this snapshot has not.
    pub not_covered: Vec<NotCovered>,
    /// Tables that differentials brought to a later moment than all else. Their foreign keys are not made: they may lead to
    /// rows that came after the dump. No snapshot says so, only what is put together of several.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rolled_forward: Vec<TableName>,
}

/// One table's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The files that hold its rows, below `tables/`.
    pub files: Vec<String>,
    /// The columns in the files, in order. None means a table without columns that could be written.
    pub columns: Vec<String>,
    /// For a table of an extension: which of its rows are kept, as `WHERE ...`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub condition: Option<String>,
    /// How many rows.
    pub rows: u64,
    /// Sum of their keyed hashes, 32 hex digits.
    pub hash: String,
}

/// Where a sequence stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `last_value`.
    pub last_value: i64,
    /// `is_called`.
    pub is_called: bool,
}

/// A materialised view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewRecord {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// All large objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObjects {
    /// How many.
    pub count: u64,
    /// Sum of the keyed hashes of their pieces, 32 hex digits.
    pub hash: String,
}

/// Objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// How many.
    pub count: u64,
    /// Keyed hash of their sorted names, 64 hex digits.
    pub names: String,
}

/// Something that the snapshot has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCovered {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Why a table's rows are not there although its definition is.
pub(super) const ROWS_NOT_SELECTED: &str = "rows not selected; its definition is kept";

impl Manifest {
    /// The version that this code writes.
    pub const VERSION: u32 = 1;

    /// What to know before a selection is taken for the database: how many tables come back without their rows.
    /// Nothing if everything was read.
    pub fn selection_note(&self) -> Option<String> {
        if !self.selection {
            return None;
        }
        let n = self.without_rows().count();
        let tables = if n == 1 { "1 table".to_owned() } else { format!("{n} tables") };
        Some(format!("a selection: definitions only of {tables}"))
    }

    /// Of a selection, the tables that come back without their rows.
    pub fn without_rows(&self) -> impl Iterator<Item = &str> {
        self.not_covered.iter().filter(|gap| gap.why == ROWS_NOT_SELECTED).map(|gap| gap.what.as_str())
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`SourceError::Failed`] if it is none, or of a newer version.
    pub fn parse(json: &[u8]) -> Result<Self, SourceError> {
        let failed = |what: String, advice: Option<&'static str>| SourceError::Failed {
            code: ErrorCode::VerificationFailed,
            what,
            advice: advice.map(Into::into),
        };
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|error| failed(format!("the manifest is not understood: {error}"), None))?;
        if manifest.kind != "postgresql" {
            return Err(failed(format!("the manifest is of a source of kind {}", manifest.kind), None));
        }
        if manifest.version != Self::VERSION {
            let what = format!(
                "the manifest has version {}, this program knows {}",
                manifest.version,
                Self::VERSION
            );
            return Err(failed(what, Some("take a newer hikae")));
        }
        Ok(manifest)
    }
}

impl From<Sequence> for SequenceRecord {
    fn from(sequence: Sequence) -> Self {
        let Sequence { schema, name, last_value, is_called } = sequence;
        Self { schema, name, last_value, is_called }
    }
}

/// Counts objects and hashes their names.
pub(super) fn count_objects(
    inventory: &BTreeMap<String, Vec<String>>,
    key: HashKey,
) -> BTreeMap<String, Objects> {
    let count = |names: &Vec<String>| {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        for name in names {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        Objects { count: names.len() as u64, names: hasher.finalize().to_hex().to_string() }
    };
    inventory.iter().map(|(kind, names)| (kind.clone(), count(names))).collect()
}

/// Name of a table's file without its ending: schema and name, everything but letters, digits, `_` and `-` as `%XX`.
///
/// A name of 63 bytes may become 189; two of them would not fit a file system's 255, so a long one ends in a
/// hash instead. `~` stands in no short one.
pub(super) fn file_stem(schema: &str, name: &str) -> String {
    const LONGEST: usize = 200;
    let mut stem = String::new();
    for (i, part) in [schema, name].into_iter().enumerate() {
        if i > 0 {
            stem.push('.');
        }
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => stem.push(char::from(byte)),
                byte => stem.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    if stem.len() > LONGEST {
        let hash = blake3::hash(stem.as_bytes()).to_hex();
        stem.truncate(LONGEST - 40);
        stem.push('~');
        stem.push_str(&hash[..32]);
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_file_name_of_its_own_that_any_file_system_takes() {
        let long = "表".repeat(21);
        let names = ["a", "a.b", "../x", "-rf", "$(touch pwned)", "\n", "A", "~", &long, &long[3..]];
        let mut stems = std::collections::BTreeSet::new();
        for schema in names {
            for name in names {
                let stem = file_stem(schema, name);
                assert!(stem.len() <= 200, "{stem}");
                assert!(stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.%~".contains(&b)), "{stem}");
                assert!(stems.insert(stem), "{schema:?} {name:?}");
            }
        }
        assert_eq!(file_stem("public", "order lines"), "public.order%20lines");
    }
}
