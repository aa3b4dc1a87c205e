//! What cannot be reached is refused before anything is written, and what fails on the way leaves nothing.

use super::*;
use hikae_model::WalName;

/// Keeps BC-35.
#[test]
fn what_cannot_be_recovered_is_refused_and_nothing_is_written() {
    let Some(mut archived) = Archived::start() else { return };
    let some = |archived: &mut Archived| {
        for _ in 0..20 {
            commit(&mut archived.server.client);
        }
        archived.server.client.batch_execute("SELECT pg_switch_wal()").unwrap();
    };
    let point = |archived: &mut Archived, name: &str| {
        archived.server.client.query_one("SELECT pg_create_restore_point($1)::text", &[&name]).unwrap();
    };
    let before = system_cx().now();
    some(&mut archived);
    archived.back_up();
    for _ in 0..3 {
        some(&mut archived);
        point(&mut archived, "again");
    }
    some(&mut archived);
    archived.server.wait_until_archived();

    let refused = |archived: &Archived, target: Target, words: &[&str]| {
        says(archived.plan(target, true, Course::Latest), words);
        archived.assert_nothing_left("recovered");
    };
    let name = |name: &str| Target::Name(name.parse().unwrap());
    refused(&archived, Target::Time(before), &["before the oldest base backup", "no moment before that"]);
    let after = system_cx().now() + jiff::SignedDuration::from_hours(1);
    refused(&archived, Target::Time(after), &["does not go to", "the last commit before its end"]);
    refused(&archived, Target::Lsn(Lsn(u64::MAX / 2)), &["cannot be reached", "what can be reached: 0/"]);
    refused(&archived, Target::Lsn(Lsn(8)), &["cannot be reached"]);
    refused(&archived, name("never"), &["`never` is not in the log"]);
    refused(&archived, name("again"), &["there 3 times", "aim at one of these places"]);
    refused(&archived, Target::Xid(3), &["transaction 3 is not in the log"]);

    let end = archived.plan(Target::End, true, Course::Latest).unwrap();
    let mut without = archived.options("recovered");
    without.wal_program = archived.world.path("nowhere/hikae-wal");
    let (around, cx) = (around(&archived.world), system_cx());
    says(
        recover(&archived.repo(), &end, &without, &around, &cx),
        &["hikae-wal is not there", "install hikae-wal"],
    );
    archived.assert_nothing_left("recovered");
    std::fs::create_dir(archived.world.path("taken")).unwrap();
    std::fs::write(archived.world.path("taken/file"), "mine").unwrap();
    says(archived.recover(&end, "taken"), &["taken"]);
    assert_eq!(std::fs::read_dir(archived.world.path("taken")).unwrap().count(), 1);

    // What is damaged, or goes after it was planned, stops the recovery: it is not the end of the log.
    let segments: Vec<_> = end.log.iter().filter(|name| matches!(name, WalName::Segment(_))).collect();
    let middle = segments[segments.len() / 2].to_string();
    let object = archived.world.object(&middle);
    let whole = std::fs::read(&object).unwrap();
    let mut damaged = whole.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    replace(&object, &damaged);
    // Names of objects are in lower case.
    says(archived.recover(&end, "recovered"), &[&middle.to_lowercase()]);
    archived.assert_nothing_left("recovered");
    std::fs::remove_file(&object).unwrap();
    says(archived.recover(&end, "recovered"), &[&middle, "not any more"]);
    archived.assert_nothing_left("recovered");

    // Once it is known to be missing, what lies behind it cannot be reached, and what lies before it can.
    let commits: Vec<(Lsn, Timestamp)> = archived
        .records(1)
        .into_iter()
        .filter_map(|record| match record.what {
            What::Commit(time) => Some((record.at, time)),
            _ => None,
        })
        .collect();
    let (last, time) = commits[commits.len() - 2];
    refused(&archived, Target::Time(time), &["does not go to", &format!("{middle} to {middle} are missing")]);
    refused(&archived, Target::Lsn(last), &["cannot be reached"]);
    let end = archived.plan(Target::End, true, Course::Latest).unwrap();
    archived.recover(&end, "recovered").unwrap();
    drop(archived.open("recovered", &[]));
    replace(&object, &whole);
}

fn replace(path: &Path, bytes: &[u8]) {
    drop(std::fs::remove_file(path));
    std::fs::write(path, bytes).unwrap();
}

/// What is damaged leads nowhere, and hides neither what is well nor itself.
#[test]
fn a_damaged_base_backup_is_passed_by_and_is_not_taken_for_none() {
    let Some(mut archived) = Archived::start() else { return };
    let (older, newer) = (archived.back_up(), archived.back_up());
    commit(&mut archived.server.client);
    archived.server.client.batch_execute("SELECT pg_switch_wal()").unwrap();
    archived.server.wait_until_archived();
    let end = |archived: &Archived| archived.plan(Target::End, true, Course::Latest);
    assert_eq!(end(&archived).unwrap().snapshot, newer);
    let harm = |snapshot: SnapshotId| {
        let record = archived.world.path(&format!("repo/snapshots/{snapshot}"));
        std::fs::set_permissions(&record, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(record, "harmed").unwrap();
    };
    harm(newer);
    assert_eq!(end(&archived).unwrap().snapshot, older);
    harm(older);
    let error = KeptCluster::read(&archived.repo(), "main", &system_cx()).err().unwrap();
    assert!(error.is_damage(), "{error}");
}
