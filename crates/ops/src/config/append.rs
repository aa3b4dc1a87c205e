//! Writing configuration: a new one, and sources added to one that is there.
//!
//! What a person wrote is never rewritten: sources are added at the end, and a job that names no sources takes
//! all of them.

use super::{SourceSettings, UnlockConfig};
use hikae_model::RepositoryId;
use hikae_source::postgresql_cluster::ReadBy;
use std::path::Path;
use toml::Value;

/// A source to be written.
#[derive(Clone, Debug)]
pub struct NewSource {
    /// Its name.
    pub name: String,
    /// What it is; of its settings only what to protect is written.
    pub settings: SourceSettings,
}

fn quoted(text: impl ToString) -> String {
    Value::String(text.to_string()).to_string()
}

/// A new configuration for one repository in a directory, with these sources.
pub fn new_text(
    repository: &str,
    store: &Path,
    id: Option<RepositoryId>,
    unlock: Option<&UnlockConfig>,
    sources: &[NewSource],
) -> String {
    let unlock = match unlock {
        Some(UnlockConfig::KeyFile(path)) => {
            format!("unlock = {{ key_file = {} }}\n", quoted(path.display()))
        }
        Some(UnlockConfig::Passphrase(secret)) => format!("unlock = {{ passphrase = {} }}\n", quoted(secret)),
        Some(UnlockConfig::IdentityFile(path)) => {
            format!("unlock = {{ identity_file = {} }}\n", quoted(path.display()))
        }
        None => "# What opens it is asked for, or given with HIKAE_PASSPHRASE, --passphrase-command or --key-file.\n"
            .to_owned(),
    };
    let id =
        id.map_or(String::new(), |id| format!("id = \"{id}\"   # another repository there is refused\n"));
    let mut text = format!(
        "# hikae's configuration. `hikae config check` says whether it is right, `hikae config show` what it means.\n\
         # Secrets never stand here, only where they are: file:/path, env:NAME, command:program, credential:name.\n\
         \n\
         # Where backups are kept. Keep a copy of this directory and of the recovery sheet on another machine.\n\
         [repository.{repository}]\n\
         store = {}\n\
         {id}{unlock}",
        quoted(store.display()),
    );
    append_sources(&mut text, sources);
    text
}

/// Adds sources at the end of a configuration.
pub fn append_sources(text: &mut String, sources: &[NewSource]) {
    for NewSource { name, settings } in sources {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("\n[source.{}]\nkind = \"{}\"\n", header_name(name), settings.kind()));
        match settings {
            SourceSettings::Files(files) => {
                let paths: Vec<_> =
                    files.include.iter().map(|include| quoted(include.path.display())).collect();
                text.push_str(&format!("include = [{}]\n", paths.join(", ")));
                let exclude: Vec<_> = files.exclude.iter().map(quoted).collect();
                match exclude.is_empty() {
                    true => text.push_str("# exclude = [\"*.tmp\", \"cache/\"]\n"),
                    false => text.push_str(&format!("exclude = [{}]\n", exclude.join(", "))),
                }
            }
            SourceSettings::Sqlite(sqlite) => {
                text.push_str(&format!("path = {}\n", quoted(sqlite.path.display())));
            }
            SourceSettings::Postgresql(postgresql) => {
                text.push_str(&format!("connection = {}\n", quoted(&postgresql.connection)));
                text.push_str("# password = \"file:/path\"   # or a line in ~/.pgpass\n");
                if postgresql.allow_superuser {
                    text.push_str("allow_superuser = true\n");
                }
            }
            SourceSettings::PostgresqlRows(rows) => {
                text.push_str(&format!("connection = {}\n", quoted(&rows.connection)));
                text.push_str(&format!("base = {}\n", quoted(&rows.base)));
                let tables = rows.tables.iter().filter_map(|table| toml::Value::try_from(table).ok());
                text.push_str(&format!("tables = {}\n", toml::Value::Array(tables.collect())));
            }
            SourceSettings::PostgresqlCluster(cluster) => {
                text.push_str(&format!("connection = {}\n", quoted(&cluster.connection)));
                if cluster.read == ReadBy::Wire {
                    text.push_str("read = \"wire\"\n");
                }
                if let Some(directory) = &cluster.data_directory {
                    text.push_str(&format!("data_directory = {}\n", quoted(directory.display())));
                }
            }
        }
    }
}

/// A name as a table header wants it: in quotes where TOML's bare keys end (ASCII letters, digits, `-`, `_`).
pub(super) fn header_name(name: &str) -> String {
    match name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use hikae_source::files::FilesSettings;
    use hikae_source::sqlite::SqliteSettings;

    #[test]
    fn what_is_written_is_read_and_what_was_there_stays() {
        let files = |path: &str| FilesSettings { include: vec![path.into()], ..FilesSettings::default() };
        let exclude = vec!["*.tmp".to_owned(), "a \"b\"".to_owned()];
        let settings = FilesSettings { exclude: exclude.clone(), ..files("/a\"b\\c") };
        let first = NewSource { name: "docs".to_owned(), settings: SourceSettings::Files(settings) };
        let (unlock, id) = (UnlockConfig::KeyFile("/k".into()), RepositoryId::from_bytes([7; 16]));
        let mut text = new_text("main", Path::new("/s t/o\"re"), Some(id), Some(&unlock), &[first]);
        let before = text.clone();
        let sqlite = SqliteSettings { path: "/x.db".into(), scratch: None };
        let second = NewSource { name: "控え".to_owned(), settings: SourceSettings::Sqlite(sqlite) };
        append_sources(&mut text, &[second]);
        assert!(text.starts_with(&before));
        let config = parse(&text, None).unwrap();
        assert_eq!(config.sources.len(), 2);
        assert_eq!(config.sources["docs"].settings.shown(), "/a\"b\\c");
        let SourceSettings::Files(docs) = &config.sources["docs"].settings else { panic!("they are files") };
        assert_eq!(docs.exclude, exclude);
        assert_eq!(config.sources["控え"].settings.kind(), "sqlite");
        assert_eq!(config.repositories["main"].unlock, Some(unlock));
        assert_eq!(config.repositories["main"].id, Some(id));
    }
}
