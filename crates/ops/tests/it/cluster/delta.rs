//! A restore onto a data directory of the same cluster: what comes of it is what a full one makes.

use super::*;
use hikae_model::{Advise as _, Cancel, ErrorCode, Random};
use hikae_ops::restore_cluster::Onto;
use hikae_testkit::tree::{Exactness, Tree};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Two states of a cluster with a tablespace.
struct States {
    world: World,
    cluster: Cluster,
    early: SnapshotId,
    late: SnapshotId,
    space: u32,
}

impl States {
    fn make() -> Option<Self> {
        let cluster = start()?;
        let world = World::new();
        let place = cluster.directory().join("space");
        std::fs::create_dir(&place).unwrap();
        give(&place, &cluster);
        sql(&cluster, &format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
        sql(
            &cluster,
            "CREATE TABLE stays AS SELECT n AS id, repeat('s', 100) AS note FROM generate_series(1, 5000) n;
             CREATE TABLE changes AS SELECT n AS id, repeat('c', 100) AS note FROM generate_series(1, 5000) n;
             CREATE TABLE shrinks TABLESPACE fast AS SELECT n AS id FROM generate_series(1, 5000) n;
             CREATE TABLE goes AS SELECT n AS id FROM generate_series(1, 2000) n",
        );
        let early = back_up_whole(&world, &cluster);
        sql(&cluster, "UPDATE changes SET note = 'x' WHERE id % 500 = 0; DELETE FROM shrinks WHERE id > 10");
        sql(&cluster, "DROP TABLE goes; CREATE TABLE comes AS SELECT 7 AS n");
        sql(&cluster, "VACUUM shrinks");
        let late = back_up_whole(&world, &cluster);
        let space = text(&cluster, "SELECT oid::text FROM pg_tablespace WHERE spcname = 'fast'");
        Some(Self { world, cluster, early, late, space: space.parse().unwrap() })
    }

    fn target(&self, name: &str, onto: Onto) -> ClusterTarget {
        let tablespaces = BTreeMap::from([(self.space, self.world.path(&format!("{name}-space")))]);
        ClusterTarget { directory: self.world.path(name), tablespaces, onto }
    }

    fn full(&self, snapshot: SnapshotId, name: &str) {
        let target = self.target(name, Onto::Nothing);
        let report = restore_cluster(&self.world.repo, snapshot, &target, &self.world.cx).unwrap();
        assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    }

    /// Where its tablespace is, is known by its link.
    fn delta(&self, snapshot: SnapshotId, name: &str) -> ClusterRestored {
        let target =
            ClusterTarget { directory: self.world.path(name), onto: Onto::Same, ..ClusterTarget::default() };
        restore_cluster(&self.world.repo, snapshot, &target, &self.world.cx).unwrap()
    }

    /// All of it is the same, but for where the tablespace is.
    #[track_caller]
    fn assert_same(&self, expected: &str, found: &str) {
        for suffix in ["", "-space"] {
            let [expected, found] = [expected, found].map(|name| {
                let path = self.world.path(&format!("{name}{suffix}"));
                let link = path.join(format!("pg_tblspc/{}", self.space));
                if suffix.is_empty() {
                    let leads_to = std::fs::read_link(&link).unwrap();
                    assert_eq!(leads_to, self.world.path(&format!("{name}-space")));
                }
                Tree::read(&path).unwrap()
            });
            let exactness = Exactness { times: false, holes: false, ..Exactness::of_user() };
            let mut differences = expected.differences(&found, exactness);
            differences.retain(|difference| !difference.path.to_string().starts_with("pg_tblspc/"));
            assert!(differences.is_empty(), "the directory is not that of a full restore: {differences:?}");
        }
    }
}

#[test]
fn a_directory_of_the_same_cluster_becomes_what_a_full_restore_makes() {
    let Some(states) = States::make() else { return };
    let path = |name: &str| states.world.path(name);
    states.full(states.early, "early");
    states.full(states.early, "there");
    let n_bytes = states.delta(states.early, "there").bytes;
    assert!(n_bytes < 40 << 20, "{n_bytes} were written of what is the same"); // its log, and that alone
    states.assert_same("early", "there");

    // What a server made of it since, forth and back.
    states.full(states.late, "late");
    let report = states.delta(states.late, "there");
    assert!(report.n_kept > 100 && report.n_removed > 0, "{report:?}");
    states.assert_same("late", "there");
    states.delta(states.early, "there");
    states.assert_same("early", "there");

    // What nobody made of it.
    let data = path("there");
    let relation = text(&states.cluster, "SELECT pg_relation_filepath('stays')");
    let file = std::fs::OpenOptions::new().write(true).open(data.join(&relation)).unwrap();
    file.write_all_at(b"torn", 3 * 8192 + 100).unwrap();
    file.set_len(40 * 8192 + 17).unwrap();
    let longer = data.join("base/1/1259");
    let bytes = std::fs::metadata(&longer).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&longer).unwrap().set_len(bytes + 9999).unwrap();
    // A copy of the directory may share its files.
    let shared = data.join("base/1/1249");
    std::fs::write(path("shared"), "").unwrap();
    std::fs::remove_file(path("shared")).unwrap();
    std::fs::hard_link(&shared, path("shared")).unwrap();
    std::fs::OpenOptions::new().write(true).open(&shared).unwrap().write_all_at(b"mine", 0).unwrap();
    std::fs::remove_file(data.join("base/1/1247")).unwrap();
    std::fs::create_dir_all(data.join("base/1/1247/deep")).unwrap();
    std::fs::write(data.join("base/1/1247/deep/file"), "x").unwrap();
    std::fs::create_dir(path("outside")).unwrap();
    std::fs::write(path("outside/file"), "mine").unwrap();
    symlink(path("outside"), data.join("base/link")).unwrap();
    std::fs::remove_file(data.join("PG_VERSION")).unwrap();
    symlink(path("outside/file"), data.join("PG_VERSION")).unwrap();
    std::fs::set_permissions(data.join("global"), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(data.join("pg_wal/0000000100000000000000FF"), "another life").unwrap();
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    std::fs::create_dir(path("there-space/PG_9_000")).unwrap();
    states.delta(states.early, "there");
    std::fs::remove_dir(path("there-space/PG_9_000")).expect("another version's part of a tablespace went");
    states.assert_same("early", "there");
    assert_eq!(std::fs::read_to_string(path("outside/file")).unwrap(), "mine");
    assert!(std::fs::read(path("shared")).unwrap().starts_with(b"mine"), "what shares a file was changed");

    let cx = hikae_testkit::system_cx();
    let vacant = Vacant::make(&options(&[]), &scratch(), &environment(), &cx).unwrap();
    std::fs::rename(&data, vacant.data()).unwrap();
    let space = vacant.directory().join("space");
    std::fs::rename(path("there-space"), &space).unwrap();
    let link = vacant.data().join(format!("pg_tblspc/{}", states.space));
    std::fs::remove_file(&link).unwrap();
    symlink(&space, &link).unwrap();
    vacant.give_all().unwrap();
    let server = vacant.start(Begins::Recovering, "postgres", &cx).unwrap();
    assert_eq!(text(&server, "SELECT count(*)::text FROM shrinks"), "5000");
    assert_eq!(text(&server, "SELECT count(*)::text FROM changes WHERE note = 'x'"), "0");
}

/// Draws zeroes, and cancels the work when it is asked for the n-th time: each part of a restore draws once.
struct CancelsAfter(AtomicUsize, Cancel);

impl Random for CancelsAfter {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.cancel();
        }
    }
}

#[test]
fn while_it_is_changed_no_server_starts_on_it_and_a_second_run_completes_it() {
    let Some(states) = States::make() else { return };
    let path = |name: &str| states.world.path(name);
    states.full(states.late, "there");
    states.full(states.early, "early");
    let (control, moved) = (path("there/global/pg_control"), path("there/global/pg_control.before-restore"));
    let target = ClusterTarget { directory: path("there"), onto: Onto::Same, ..ClusterTarget::default() };
    let n_ended = (1..20).take_while(|after| {
        let (clock, cancel) = (hikae_testkit::test_cx().clock, Cancel::default());
        let random = Arc::new(CancelsAfter(AtomicUsize::new(*after), cancel.clone()));
        let ended =
            restore_cluster(&states.world.repo, states.early, &target, &Cx::new(clock, random, cancel));
        assert_eq!(
            ended.is_ok(),
            control.exists() && !moved.exists(),
            "a server may start on what is not whole"
        );
        ended.is_err()
    });
    assert!(n_ended.count() >= 4);
    states.assert_same("early", "there");
    states.full(states.late, "again");
    std::fs::rename(path("again/global/pg_control"), path("again/global/pg_control.before-restore")).unwrap();
    let report = states.delta(states.early, "again");
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    states.assert_same("early", "again");
}

#[test]
fn only_a_directory_of_the_same_cluster_without_a_server_is_changed() {
    let Some(states) = States::make() else { return };
    let refused = |directory: PathBuf, words: &str| {
        let before = Tree::read(&directory).unwrap();
        let target =
            ClusterTarget { directory: directory.clone(), onto: Onto::Same, ..ClusterTarget::default() };
        let error = restore_cluster(&states.world.repo, states.early, &target, &states.world.cx)
            .expect_err("it was not refused");
        assert!(matches!(error.code(), ErrorCode::Forbidden | ErrorCode::Usage), "{error}");
        let said = hikae_ops::with_causes(&error);
        assert!(said.contains(words) && error.advice().is_some(), "{said}");
        let after = Tree::read(&directory).unwrap();
        assert!(before.differences(&after, Exactness::of_user()).is_empty(), "{words}");
    };
    let path = |name: &str| states.world.path(name);
    let mine = path("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(mine.join("file"), "mine").unwrap();
    refused(mine, "is no data directory");

    states.full(states.late, "there");
    let control = path("there/global/pg_control");
    let whole = std::fs::read(&control).unwrap();
    std::fs::write(path("there/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    refused(path("there"), "a server runs on");
    std::fs::remove_file(path("there/postmaster.pid")).unwrap();
    let mut other = whole.clone();
    other[0] ^= 1;
    std::fs::write(&control, &other).unwrap();
    refused(path("there"), "is of cluster");
    std::fs::write(&control, &whole).unwrap();
    std::fs::rename(path("there/pg_wal"), path("wal")).unwrap();
    symlink(path("wal"), path("there/pg_wal")).unwrap();
    refused(path("there"), "leads elsewhere");
}
