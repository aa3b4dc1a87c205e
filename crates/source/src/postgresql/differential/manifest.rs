//! The manifest of a differential: which rows it holds, and what the whole tables must be with them.

use super::super::manifest::SequenceRecord;
use super::super::rows::Tally;
use super::settings::WatchedTable;
use crate::SourceError;
use crate::postgresql::failed;
use hikae_model::ErrorCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What one differential holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferentialManifest {
    /// Always `postgresql-rows`.
    pub kind: String,
    /// Version of this format.
    pub version: u32,
    /// Name of the database.
    pub database: String,
    /// The number that the server was born with.
    pub system_identifier: String,
    /// The moment that all rows show.
    pub moment: Timestamp,
    /// The source whose dumps these rows follow.
    pub base: String,
    /// Tables, by name; of a partitioned one each partition that holds rows.
    pub tables: Vec<DifferentialTable>,
    /// The tables that were asked for, and all partitioned ones between them and those that hold rows.
    pub trees: Vec<TableName>,
    /// Where the sequences stood that the tables own.
    pub sequences: Vec<SequenceRecord>,
}

/// A table by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// New rows of one table.
///
/// ```text
///            from                    to
///   ----------|-----------------------|---------------->  column
///    had by   |  settled: no later    |  open: the next
///    the one  |  differential has     |  one has them
///    before   |  them again           |  again
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferentialTable {
    /// Which.
    #[serde(flatten)]
    pub table: TableName,
    /// The column that says when a row came, and its zone.
    pub watched: WatchedTable,
    /// The columns in the files, in order.
    pub columns: Vec<String>,
    /// Rows stamped before it are those of the differential or dump before, unchanged. Nothing means that all are here.
    pub from: Option<Watermark>,
    /// Where the next one begins. Nothing means that it reads everything.
    pub to: Option<Watermark>,
    /// The file of rows stamped from `from` to before `to`, if there are any.
    pub settled_file: Option<String>,
    /// How many, and their keyed hash.
    pub settled: Tally,
    /// The file of rows stamped from `to` on or not at all, if there are any.
    pub open_file: Option<String>,
    /// How many, and their keyed hash.
    pub open: Tally,
    /// All rows of the table at this moment.
    pub total: Tally,
    /// When the whole table was last read and compared.
    pub compared: Timestamp,
    /// When it was found that rows were deleted, or changed without a new stamp. No dump was made since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub differs_since: Option<Timestamp>,
}

/// A place in the order of a table's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Every transaction that began before it had ended, and its rows were seen.
    pub moment: Timestamp,
    /// The least stamp that a row of a later one can have, as the column writes it.
    pub value: String,
}

impl DifferentialManifest {
    /// The version that this code writes.
    pub const VERSION: u32 = 1;

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`SourceError::Failed`] if it is none, or of a newer version.
    pub fn parse(json: &[u8]) -> Result<Self, SourceError> {
        let broken = |what: String| failed(ErrorCode::VerificationFailed, what, None);
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|error| broken(format!("the manifest of a differential is not understood: {error}")))?;
        if manifest.kind != super::KIND || manifest.version != Self::VERSION {
            let what = format!("the manifest is of kind {}, version {}", manifest.kind, manifest.version);
            return Err(failed(ErrorCode::VerificationFailed, what, Some("take a newer hikae".into())));
        }
        Ok(manifest)
    }

    /// What it says of a table.
    pub fn table(&self, name: &TableName) -> Option<&DifferentialTable> {
        self.tables.iter().find(|table| table.table == *name)
    }
}

impl DifferentialTable {
    /// How many rows it holds.
    pub fn rows(&self) -> u64 {
        self.settled.rows + self.open.rows
    }
}

impl TableName {
    /// For people.
    pub fn shown(&self) -> String {
        super::super::connection::shown_name(&format!("{}.{}", self.schema, self.name))
    }
}
