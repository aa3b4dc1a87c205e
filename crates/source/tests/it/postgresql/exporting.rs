//! A snapshot as one file that `psql` or `pg_restore` loads, without anything of ours.

use super::round_trip::nasty_on;
use super::*;
use hikae_source::postgresql::{ExportForm, export};
use std::path::Path;
use std::process::{Command, Stdio};

fn exported(kept: &Kept, form: ExportForm, programs: Option<&Path>) -> Result<Vec<u8>, SourceError> {
    let mut out = Vec::new();
    export(kept, form, &mut out, programs, &environment(), &system_cx())?;
    Ok(out)
}

/// An empty database of the same server, into which `program` loads the file.
#[track_caller]
fn loaded(db: &Db, file: &Path, program: &str, arguments: &[&str]) -> Db {
    let new = Db::on(Arc::clone(&db.cluster), "loaded", "TEMPLATE template0");
    let directory = db.programs().unwrap_or_else(|| PathBuf::from("/usr/bin"));
    let run = Command::new(directory.join(program))
        .args(arguments)
        .arg(format!("--dbname={}", new.conninfo("postgres")))
        .arg(if program == "psql" { "--file" } else { "--exit-on-error" })
        .arg(file)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{program}: {said}");
    new
}

/// What was loaded is what was backed up: read again and compared, table by table.
#[track_caller]
fn assert_same(original: &Kept, new: &Db) {
    let (was, is) = (original.manifest(), back_up(&new.source()).unwrap().manifest());
    let rows = |manifest: &Manifest| -> Vec<_> {
        let tables = manifest.tables.iter();
        tables
            .map(|table| (table.schema.clone(), table.name.clone(), table.rows, table.hash.clone()))
            .collect()
    };
    assert_eq!(rows(&is), rows(&was));
    assert_eq!(is.sequences, was.sequences);
    assert_eq!(is.large_objects, was.large_objects);
    assert_eq!(is.materialised_views, was.materialised_views);
    assert_eq!(is.extensions, was.extensions);
    let differing: Vec<_> =
        was.objects.iter().filter(|(kind, was)| is.objects.get(*kind) != Some(was)).collect();
    // What belongs to the database itself is in no dump of it that does not make it.
    assert!(differing.iter().all(|(kind, _)| kind.starts_with("database")), "{differing:?}");
}

#[track_caller]
fn is_loaded_by_its_own_programs(major: u32) {
    let Some(directory) = hikae_testkit::postgresql(major) else {
        return hikae_testkit::not_run(&format!("no server of PostgreSQL {major} is installed"));
    };
    let options = ClusterOptions { major, program_directory: Some(directory), ..options(&[]) };
    let db = nasty_on(Arc::new(start_with(&options)));
    let kept = back_up(&source(PostgresqlSettings { part_bytes: 8192, ..db.settings() })).unwrap();
    let programs = db.programs();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for form in [ExportForm::Archive, ExportForm::Script] {
        std::fs::write(&path, exported(&kept, form, programs.as_deref()).unwrap()).unwrap();
        let new = match form {
            ExportForm::Script => {
                loaded(&db, &path, "psql", &["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
            }
            _ => loaded(&db, &path, "pg_restore", &["--jobs=2"]),
        };
        assert_same(&kept, &new);
    }
}

/// One for each form of archive that there is. Keeps BC-7, MK-12.
#[test]
fn an_export_of_13_is_loaded_by_its_own_programs() {
    is_loaded_by_its_own_programs(13);
}

#[test]
fn an_export_of_16_is_loaded_by_its_own_programs() {
    is_loaded_by_its_own_programs(16);
}

#[test]
fn an_export_of_18_is_loaded_by_its_own_programs() {
    is_loaded_by_its_own_programs(18);
}

/// Keeps MK-66.
#[test]
fn what_is_missing_or_cut_is_no_export() {
    let db = Db::new("cut");
    db.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i; SELECT lo_create(0)");
    let kept = db.back_up();
    let programs = db.programs();
    for name in ["schema.dump", "large-objects.dump", "tables/public.t.copy"] {
        for form in [ExportForm::Script, ExportForm::Archive] {
            let mut gone = kept.clone();
            gone.files.remove(name.as_bytes());
            assert!(exported(&gone, form, programs.as_deref()).is_err(), "{name} is gone, {form:?}");
            let mut cut = kept.clone();
            let length = cut.file(name).len();
            cut.file_mut(name).truncate(length / 2);
            // Rows that were cut are found by the hash of their file, which only a repository has.
            let is_found = exported(&cut, form, programs.as_deref()).is_err();
            assert!(is_found || name.starts_with("tables/"), "{name} is cut, {form:?}");
        }
    }
}
