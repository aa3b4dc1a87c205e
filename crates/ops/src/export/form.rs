//! What an exported file is, as its name says.

use hikae_export::pipeline::Compression;
use hikae_export::template::Template;
use hikae_source::postgresql::differential;
use hikae_source::postgresql_cluster;
use serde::{Deserialize, Serialize};

/// What an exported file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The one file of a snapshot, as it was: a file of a source of files, a SQLite database.
    File,
    /// A database as a script for `psql`.
    Sql,
    /// A database as an archive for `pg_restore`.
    Dump,
    /// Files in a tar archive.
    Tar,
    /// Files as themselves, in a folder.
    Folder,
}

/// What a name ends with that says how a file is compressed.
const COMPRESSED: [(&str, Compression); 3] =
    [(".gz", Compression::Gzip), (".tgz", Compression::Gzip), (".zst", Compression::Zstd)];

/// How a file of this name is compressed.
pub fn compression_of(template: &Template) -> Compression {
    let ends = |(end, _): &&(&str, Compression)| template.text().ends_with(*end);
    COMPRESSED.iter().find(ends).map_or(Compression::None, |(_, compression)| *compression)
}

impl Form {
    /// How a file is called that holds a snapshot of this kind, if nobody says so.
    pub fn usual_name(kind: &str) -> &'static str {
        match kind {
            "sqlite" => "{source}_{time}.db.gz",
            "postgresql" => "{source}_{time}.sql.gz",
            differential::KIND => "{table}_incr_{time}.dump",
            _ => "{source}_{time}.tar.gz",
        }
    }

    /// What the name says of a source of this kind.
    ///
    /// # Errors
    /// A sentence, and what to do.
    pub fn of(template: &Template, kind: &str) -> Result<Self, (String, String)> {
        let name = template.text();
        let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
        let is_tar = plain.ends_with(".tar") || plain.ends_with(".tgz");
        match kind {
            "files" if template.is_folder() => Ok(Self::Folder),
            "files" if is_tar => Ok(Self::Tar),
            "files" => Ok(Self::File),
            "sqlite" if template.is_folder() || is_tar => Err((
                format!("`{name}` names no file of a database"),
                "name it as `{source}_{time}.db.gz`".to_owned(),
            )),
            "sqlite" => Ok(Self::File),
            "postgresql" if plain.ends_with(".sql") => Ok(Self::Sql),
            "postgresql" if plain.ends_with(".dump") => Ok(Self::Dump),
            "postgresql" => Err((
                format!("`{name}` does not say in which form a database is exported"),
                "let it end with .sql.gz for psql, or with .dump for pg_restore".to_owned(),
            )),
            differential::KIND if plain.ends_with(".dump") && template.has("table") => Ok(Self::Dump),
            differential::KIND => Err((
                format!("`{name}` does not name a file for each table"),
                "name it as `{table}_incr_{time}.dump`".to_owned(),
            )),
            kind if kind == postgresql_cluster::KIND => Err((
                "the files of a whole server are of use to that server only".to_owned(),
                "export a source of kind postgresql of each of its databases".to_owned(),
            )),
            kind => Err((
                format!("sources of kind {kind} cannot be exported"),
                "export one of kind files, sqlite, postgresql or postgresql-rows".to_owned(),
            )),
        }
    }
}
