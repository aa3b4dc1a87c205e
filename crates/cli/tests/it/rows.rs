//! Hourly files of new rows beside a nightly dump: taken, listed, restored as files and as a database, drilled, forgotten.

use crate::home::Home;
use crate::postgresql::{address, enter, start};
use hikae_source::postgresql::Host;

/// Keeps BC-26, BC-27, BC-29.
#[test]
fn new_rows_are_kept_between_dumps_and_come_back_with_them() {
    let Some(cluster) = start() else { return };
    let Host::Socket(socket) = cluster.connection().host.clone() else { panic!("not a socket") };
    enter(&cluster, "postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut shop = enter(&cluster, "shop");
    shop.batch_execute(
        "CREATE ROLE reader LOGIN; GRANT pg_read_all_stats TO reader;
         CREATE TABLE audit_logs (id bigserial PRIMARY KEY, recorded_at timestamptz NOT NULL DEFAULT now());
         CREATE INDEX ON audit_logs (recorded_at);
         CREATE TABLE orders AS SELECT 1 AS id;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader",
    )
    .unwrap();
    let home = Home::new();
    let live = address(&cluster, &socket, "reader", "shop");
    home.configure(&format!(
        "[repository.main]\nstore = '{0}/store'\nunlock = {{ key_file = '{0}/main.key' }}\n\
         [source.shop]\nkind = 'postgresql'\nconnection = '{live}'\n\
         [source.shop-rows]\nkind = 'postgresql-rows'\nbase = 'shop'\nconnection = '{live}'\noverlap = '0s'\n\
         tables = [{{ table = 'audit_logs', column = 'recorded_at' }}]\n\
         [job.hourly]\nsources = ['shop-rows']\nretention = {{ last = 2 }}\n",
        home.path("").display()
    ));
    home.expect(0, &["init"]);
    let refused = home.expect(6, &["backup", "shop-rows"]);
    assert!(refused.stdout.contains("hikae backup shop"), "{}", refused.stdout);

    home.expect(0, &["backup", "shop"]);
    let mut insert = |n: i32| {
        let sql = format!(
            "INSERT INTO audit_logs (id) SELECT nextval('audit_logs_id_seq') FROM generate_series(1, {n})"
        );
        shop.batch_execute(&sql).unwrap();
    };
    for _ in 0..2 {
        insert(10);
        home.expect(0, &["backup", "--job", "hourly"]);
    }
    let listed = home.expect(0, &["ls", "shop-rows"]).stdout;
    assert!(listed.contains("audit_logs_incr_20") && listed.contains("load.sql"), "{listed}");
    let files = home.path("files");
    home.expect(0, &["restore", "shop-rows", "--target", &files.display().to_string()]);
    assert_eq!(std::fs::read_dir(&files).unwrap().count(), 2);

    let admin = address(&cluster, &socket, "postgres", "postgres");
    let swap = home.expect(12, &["restore", "shop-rows", "--connection", &admin, "--swap", "--yes"]);
    assert!(swap.stderr.contains("all but the tables that were brought forward"), "{}", swap.stderr);
    let restore = ["restore", "shop-rows", "--connection", &admin, "--into-database", "beside"];
    let planned = home.expect(0, &[&restore[..], &["--dry-run"]].concat()).stdout;
    assert!(planned.contains("by differentials (2): public.audit_logs"), "{planned}");
    home.expect(0, &restore);
    let rows: i64 =
        enter(&cluster, "beside").query_one("SELECT count(*) FROM audit_logs", &[]).unwrap().get(0);
    assert_eq!(rows, 20);
    let drilled = home.expect(0, &["drill", "shop-rows", "--scratch", "/tmp"]).stdout;
    assert!(drilled.contains("public.audit_logs 20"), "{drilled}");

    // The first is forgotten by the rule of the job, and with it the way from the dump.
    insert(1);
    home.expect(0, &["backup", "--job", "hourly"]);
    let lost = home.expect(6, &restore).stderr;
    assert!(lost.contains("no differential here has the rows from"), "{lost}");
    assert!(lost.contains("hikae backup shop"), "{lost}");
    home.expect(0, &["backup", "shop"]);
    home.expect(0, &["backup", "--job", "hourly"]);
    home.expect(0, &["drill", "shop-rows", "--scratch", "/tmp"]);
}
