//! Restores: beside, compared, then swapped by name. Never into what is there.

use super::*;
use hikae_source::postgresql::{restore, swap};

fn names(db: &Db, like: &str) -> Vec<String> {
    let sql = "SELECT datname FROM pg_database WHERE datname LIKE $1 ORDER BY 1";
    db.client_as("postgres", "postgres").query(sql, &[&like]).unwrap().iter().map(|row| row.get(0)).collect()
}

fn live(tag: &str) -> Db {
    let db = Db::new(tag);
    db.sql("CREATE TABLE t (a int); INSERT INTO t SELECT i FROM generate_series(1, 100) i");
    db
}

/// Keeps MK-32.
#[test]
fn a_restore_goes_beside_and_a_swap_gives_it_the_name() {
    let db = live("swap");
    let kept = db.back_up();
    db.sql("INSERT INTO t VALUES (101)");
    let restored = restore(&kept, &db.server(), &restore_options(), &environment(), &system_cx()).unwrap();
    assert!(restored.checks.iter().all(|check| check.passed));
    assert_eq!(db.count("SELECT count(*) FROM t"), 101, "the live database is untouched");
    // Somebody is connected, and stays out of the way of nothing.
    let mut session = db.client();
    let swapped = swap(&db.server(), &db.name, &restored.database, true, &system_cx()).unwrap();
    assert!(session.batch_execute("SELECT 1").is_err());
    assert_eq!(db.count("SELECT count(*) FROM t"), 100);
    let kept_as = swapped.kept.unwrap();
    assert!(kept_as.starts_with(&format!("{}_before_", db.name)), "{kept_as}");
    db.maintenance(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", quote(&kept_as)));
    let n: i64 = db.client_as("postgres", &kept_as).query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(n, 101, "the old one is kept whole");
    db.maintenance(&format!("DROP DATABASE {}", quote(&kept_as)));
}

#[test]
fn a_swap_without_keeping_drops_the_old_one() {
    let db = live("dropold");
    let kept = db.back_up();
    let restored = restore(&kept, &db.server(), &restore_options(), &environment(), &system_cx()).unwrap();
    let swapped = swap(&db.server(), &db.name, &restored.database, false, &system_cx()).unwrap();
    assert_eq!(swapped.kept, None);
    assert_eq!(names(&db, &format!("{}%", db.name)), std::slice::from_ref(&db.name));
}

/// Keeps G-7, MK-38.
#[test]
fn a_swap_that_fails_leaves_the_live_database_as_it_was() {
    let db = live("rollback");
    let kept = db.back_up();
    let restored = restore(&kept, &db.server(), &restore_options(), &environment(), &system_cx()).unwrap();
    // A prepared transaction in the restored database lets no rename pass, and cannot be terminated.
    let mut client = db.client_as("postgres", &restored.database);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'stuck'").unwrap();
    drop(client);
    assert!(swap(&db.server(), &db.name, &restored.database, true, &system_cx()).is_err());
    assert_eq!(db.count("SELECT count(*) FROM t"), 100, "the live database answers under its name");
    assert_eq!(names(&db, &format!("{}%", db.name)), std::slice::from_ref(&db.name));
    db.client_as("postgres", &restored.database).batch_execute("ROLLBACK PREPARED 'stuck'").unwrap();
    db.maintenance(&format!("DROP DATABASE {}", quote(&restored.database)));
    let error = swap(&db.server(), &db.name, "no_such_database", true, &system_cx()).err().unwrap();
    assert!(error.to_string().contains("no_such_database"), "{error}");
}

/// Keeps G-7.
#[test]
fn a_restore_never_writes_into_a_database_that_is_there() {
    let db = live("there");
    let kept = db.back_up();
    let options = RestoreOptions { database: Some(db.name.clone()), ..restore_options() };
    assert!(restore(&kept, &db.server(), &options, &environment(), &system_cx()).is_err());
    assert_eq!(db.count("SELECT count(*) FROM t"), 100);
}

/// Keeps G-2, MK-38.
#[test]
fn a_restore_that_fails_leaves_no_database() {
    let db = live("nothing");
    let mut kept = db.back_up();
    kept.file_mut("tables/public.t.copy").extend(b"not a number\n");
    let options = RestoreOptions { database: Some("nothing_restored".into()), ..restore_options() };
    assert!(restore(&kept, &db.server(), &options, &environment(), &system_cx()).is_err());
    assert!(names(&db, "nothing_restored").is_empty());
}

#[test]
fn missing_roles_are_made_without_login_or_left_out() {
    let db = Db::new("roles");
    db.sql("CREATE ROLE roles_owner LOGIN; CREATE TABLE t (a int); ALTER TABLE t OWNER TO roles_owner");
    let kept = db.back_up();
    db.sql("ALTER TABLE t OWNER TO postgres; DROP ROLE roles_owner");
    let options = RestoreOptions { owners: Owners::None, ..restore_options() };
    let restored = restore(&kept, &db.server(), &options, &environment(), &system_cx()).unwrap();
    assert!(restored.checks.iter().all(|check| check.passed));
    db.maintenance(&format!("DROP DATABASE {}", quote(&restored.database)));
    let restored = restore(&kept, &db.server(), &restore_options(), &environment(), &system_cx()).unwrap();
    assert!(restored.checks.iter().all(|check| check.passed));
    assert!(restored.notes.iter().any(|note| note.contains("roles_owner")), "{:?}", restored.notes);
    db.maintenance(&format!("DROP DATABASE {}; ", quote(&restored.database)));
    let login: bool = db
        .client()
        .query_one("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'roles_owner'", &[])
        .unwrap()
        .get(0);
    assert!(!login);
    db.maintenance("DROP ROLE roles_owner");
}
