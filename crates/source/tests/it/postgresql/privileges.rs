//! Who may back up, and what is said to who may not.

use super::*;
use hikae_model::{Advise as _, ErrorCode};
use hikae_source::postgresql::{Secret, Weight, least_privilege_role};

fn settings_as(db: &Db, user: &str) -> PostgresqlSettings {
    PostgresqlSettings { program_directory: named_postgresql(), ..PostgresqlSettings::of(db.conninfo(user)) }
}

#[track_caller]
fn refused(settings: PostgresqlSettings) -> SourceError {
    match back_up(&source(settings)) {
        Ok(_) => panic!("it was backed up"),
        Err(error) => error,
    }
}

/// Keeps MK-10.
#[test]
fn a_superuser_is_refused_with_a_role_to_paste_that_works() {
    let db = Db::new("super");
    db.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE SEQUENCE s;");
    let error = refused(settings_as(&db, "postgres"));
    assert_eq!(error.code(), ErrorCode::Forbidden);
    let advice = error.advice().unwrap();
    let sql = advice.split_once('\n').unwrap().1;
    assert!(sql.contains("GRANT pg_read_all_data TO \"hikae\""), "{sql}");
    db.sql(&sql.replace("\"hikae\"", "super_hikae"));
    let kept = back_up(&source(settings_as(&db, "super_hikae"))).unwrap();
    assert_eq!(kept.rows("public", "t"), Some(1));
    assert_passed(&drill_it(&kept).unwrap());
    db.sql("DROP OWNED BY super_hikae; DROP ROLE super_hikae");
}

/// Large objects are not covered by `pg_read_all_data`, and their owner here is a superuser.
///
/// Keeps MK-10.
#[test]
fn the_role_that_we_offer_reads_large_objects_and_cannot_become_a_superuser() {
    let db = Db::new("objects");
    db.sql("SELECT lo_from_bytea(0, 'x') FROM generate_series(1, 2)");
    let error = refused(settings_as(&db, "postgres"));
    let advice = error.advice().unwrap();
    db.sql(&advice.split_once('\n').unwrap().1.replace("\"hikae\"", "objects_hikae"));
    let mut role = db.client_as("objects_hikae", &db.name);
    assert!(
        role.batch_execute("SET ROLE postgres").is_err(),
        "the role that we offer can become a superuser"
    );
    let large_objects = |user| {
        let kept = back_up(&source(settings_as(&db, user))).unwrap();
        assert_passed(&drill_it(&kept).unwrap());
        kept.manifest().large_objects.unwrap().count
    };
    assert_eq!(large_objects("objects_hikae"), 2);

    // More than a message lists, and a name that is in a statement within a statement.
    db.sql("SELECT lo_from_bytea(0, 'x') FROM generate_series(1, 50); CREATE ROLE \"o'k\" LOGIN NOINHERIT");
    let error = refused(settings_as(&db, "o\\'k"));
    assert_eq!(error.code(), ErrorCode::Permission);
    assert!(error.to_string().ends_with("and 32 more"), "{error}");
    db.sql(&error.advice().unwrap());
    assert_eq!(large_objects("o\\'k"), 52);
    db.sql("DROP OWNED BY objects_hikae, \"o'k\"; DROP ROLE objects_hikae, \"o'k\"");
}

/// Who is a member of a superuser is one with `SET ROLE`, whatever stands between them; who runs programs on the server
/// can make itself one.
///
/// Keeps MK-10.
#[test]
fn a_role_that_can_become_a_superuser_is_refused_as_one() {
    let db = Db::new("become");
    db.sql(
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1); SELECT lo_from_bytea(0, 'x');
         CREATE ROLE become_direct LOGIN NOINHERIT IN ROLE postgres;
         CREATE ROLE become_between IN ROLE postgres; CREATE ROLE become_distant LOGIN IN ROLE become_between;
         CREATE ROLE become_runner LOGIN IN ROLE pg_execute_server_program; GRANT SELECT ON t TO become_runner;
         CREATE ROLE become_reader; GRANT SELECT ON t TO become_reader;
         CREATE ROLE become_again LOGIN SUPERUSER; ALTER ROLE become_again SET role = 'become_reader'",
    );
    // The first inherits, and so can read all that it needs.
    for (name, in_its_place) in [
        ("become_distant", None),
        ("become_direct", None),
        ("become_runner", None),
        ("become_again", Some("become_new")),
    ] {
        let error = match back_up(&source(settings_as(&db, name))) {
            Ok(_) => panic!("{name} can become a superuser and was let in"),
            Err(error) => error,
        };
        assert_eq!(error.code(), ErrorCode::Forbidden, "{error}");
        assert!(error.to_string().contains("can act as "), "{error}");
        // What is advised mends it.
        let advice = error.advice().unwrap();
        let sql = advice.split_once('\n').unwrap().1;
        db.sql(&sql.replace("\"hikae\"", "become_new"));
        let kept = back_up(&source(settings_as(&db, in_its_place.unwrap_or(name)))).unwrap();
        assert_eq!(kept.rows("public", "t"), Some(1));
    }
    let allowed = PostgresqlSettings { allow_superuser: true, ..settings_as(&db, "become_distant") };
    db.sql("GRANT become_between TO become_distant");
    back_up(&source(allowed)).unwrap();
    let roles = "become_direct, become_distant, become_between, become_runner, become_reader, become_again, become_new";
    db.sql(&format!("DROP OWNED BY {roles}; DROP ROLE {roles}"));
}

/// Keeps MK-10, MK-11.
#[test]
fn the_role_that_we_offer_is_enough_on_a_plain_database() {
    let db = Db::new("offer");
    db.sql("CREATE SCHEMA sales; CREATE TABLE sales.t (a serial); INSERT INTO sales.t DEFAULT VALUES;");
    db.sql(&least_privilege_role("offer_role", &db.name, 15));
    let kept = back_up(&source(settings_as(&db, "offer_role"))).unwrap();
    assert_eq!(kept.rows("sales", "t"), Some(1));
    db.sql("DROP OWNED BY offer_role; DROP ROLE offer_role");
}

#[test]
fn everything_that_a_role_cannot_read_is_named() {
    let db = Db::new("rights");
    db.sql(
        "CREATE ROLE rights_weak LOGIN; CREATE SCHEMA hidden; CREATE TABLE hidden.a (); CREATE TABLE b (); CREATE TABLE c ();
         CREATE SEQUENCE d; GRANT SELECT ON c TO rights_weak; SELECT lo_from_bytea(710001, 'x');
         CREATE TABLE e (); GRANT SELECT ON e TO rights_weak; ALTER TABLE e ENABLE ROW LEVEL SECURITY;",
    );
    let error = refused(settings_as(&db, "rights_weak"));
    assert_eq!(error.code(), ErrorCode::Permission);
    let text = error.to_string();
    for name in ["table hidden.a", "table public.b", "sequence public.d", "table public.e (row security"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(!text.contains("public.c"), "{text}");
    let advice = error.advice().unwrap();
    assert!(advice.contains("GRANT pg_read_all_data") && advice.contains("BYPASSRLS"), "{advice}");

    let findings = source(settings_as(&db, "rights_weak")).preflight(&system_cx()).unwrap();
    let large = findings.iter().find(|finding| finding.problem.what.contains("large object 710001")).unwrap();
    assert_eq!(large.weight, Weight::Blocks);
    // What is advised mends it.
    for finding in &findings {
        if let Some(advice) = finding.problem.advice.as_deref().filter(|_| finding.weight == Weight::Blocks) {
            db.sql(advice);
        }
    }
    let kept = back_up(&source(settings_as(&db, "rights_weak"))).unwrap();
    assert_passed(&drill_it(&kept).unwrap());
    db.sql("DROP OWNED BY rights_weak; DROP ROLE rights_weak");
}

#[test]
fn a_role_without_pg_authid_still_backs_up_and_says_what_is_missing() {
    let db = Db::new("managed");
    db.sql("CREATE ROLE managed_role LOGIN; CREATE TABLE t (a int); GRANT SELECT ON t TO managed_role;");
    let kept = back_up(&source(settings_as(&db, "managed_role"))).unwrap();
    assert!(!kept.manifest().role_passwords);
    assert!(kept.manifest().not_covered.iter().any(|gap| gap.what == "passwords of roles"));
    assert_passed(&drill_it(&kept).unwrap());
    db.sql("DROP OWNED BY managed_role; DROP ROLE managed_role");
}

#[test]
fn notes_do_not_block() {
    let db = Db::new("notes");
    db.sql("CREATE UNLOGGED TABLE u (a int)");
    let findings = db.source().preflight(&system_cx()).unwrap();
    let note = findings.iter().find(|finding| finding.problem.code == "unlogged").unwrap();
    assert_eq!(note.weight, Weight::Notes);
}

#[test]
fn a_server_that_is_not_there_and_a_database_that_is_not_there_are_told_apart() {
    let db = Db::new("there");
    let missing = PostgresqlSettings::of("host=/tmp/hikae-no-such-directory dbname=x");
    let error = refused(missing);
    assert_eq!(error.code(), ErrorCode::SourceMissing);
    assert!(error.to_string().contains("cannot reach"), "{error}");
    let settings = PostgresqlSettings::of(db.conninfo("postgres").replace(&db.name, "no_such_database"));
    let error = refused(settings);
    assert_eq!(error.code(), ErrorCode::SourceMissing);
    assert!(error.to_string().contains("no_such_database"), "{error}");
}

#[test]
fn a_password_in_the_connection_is_refused_and_never_shown() {
    let settings = PostgresqlSettings::of("host=/tmp password=hunter2 dbname=x");
    let error = PostgresqlSource::new(settings, None, environment()).err().unwrap();
    assert!(!error.to_string().contains("hunter2"));
}

/// SCRAM, MD5 and plain passwords, for us and for the programs that we start.
/// Keeps MK-64, EC-14.
#[test]
fn passwords_work_and_reach_no_argument_and_no_environment() {
    let cluster = start(&[]);
    let mut admin = enter(cluster.connection(), "postgres", "postgres");
    admin
        .batch_execute(
            "CREATE ROLE with_scram LOGIN SUPERUSER PASSWORD 'p:w\\d ''x'; SET password_encryption = md5;
             CREATE ROLE with_md5 LOGIN SUPERUSER PASSWORD 'p:w\\d ''x';
             CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)",
        )
        .unwrap();
    let hba = "local all with_scram scram-sha-256\nlocal all with_md5 md5\nlocal all all trust\n";
    std::fs::write(cluster.directory().join("hba.conf"), hba).unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    let Host::Socket(directory) = &cluster.connection().host else { panic!() };
    for user in ["with_scram", "with_md5"] {
        let settings = PostgresqlSettings {
            allow_superuser: true,
            program_directory: named_postgresql(),
            ..PostgresqlSettings::of(format!("host={} user={user} dbname=postgres", directory.display()))
        };
        let with = |password: Option<&str>| {
            let password = password.map(|text| Secret::new(text.to_owned()));
            back_up(&PostgresqlSource::new(settings.clone(), password, environment()).unwrap())
        };
        let mut tries = 0;
        // The server needs a moment to read its new rules.
        while with(None).is_ok() && tries < 50 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            tries += 1;
        }
        assert_eq!(with(None).err().unwrap().code(), ErrorCode::Permission, "{user} without a password");
        assert_eq!(
            with(Some("wrong")).err().unwrap().code(),
            ErrorCode::Permission,
            "{user} with a wrong one"
        );
        let kept = with(Some("p:w\\d 'x")).unwrap();
        assert_eq!(kept.rows("public", "t"), Some(2));
        let weak =
            PostgresqlSource::new(settings.clone(), Some(Secret::new("p:w\\d 'x".into())), environment())
                .unwrap();
        let warned =
            weak.preflight(&system_cx()).unwrap().iter().any(|finding| finding.problem.code == "md5");
        assert_eq!(warned, user == "with_md5");
    }
}
