//! A drill of a cluster whose log is kept recovers it to a moment after the backup.

use super::*;
use hikae_model::{Outcome, WalName};
use hikae_ops::drill::{DrillOptions, DrillReport, drill};

impl Archived {
    fn drill(&self, snapshot: SnapshotId) -> DrillReport {
        let options = DrillOptions {
            program_directory: Some(self.server.cluster.program_directory().to_owned()),
            wal_program: Some(self.world.path("hikae-wal")),
            ..DrillOptions::default()
        };
        let around = Surroundings { scratch: "/tmp".into(), ..around(&self.world) };
        drill(&self.repo(), snapshot, &options, &around, &system_cx()).unwrap()
    }
}

/// Keeps G-8.
#[test]
fn a_drill_recovers_to_a_moment_of_the_window_and_is_red_if_the_log_is_not_whole() {
    let Some(mut archived) = Archived::start() else { return };
    let snapshot = archived.back_up();
    let some = |archived: &mut Archived| {
        for _ in 0..4 {
            (0..20).for_each(|_| commit(&mut archived.server.client));
            archived.server.client.batch_execute("SELECT pg_switch_wal()").unwrap();
        }
        archived.server.wait_until_archived();
    };
    // A database that has gone by then is not missed.
    archived.server.client.batch_execute("CREATE DATABASE gone").unwrap();
    let second = archived.back_up();
    archived.server.client.batch_execute("DROP DATABASE gone").unwrap();
    some(&mut archived);

    let report = archived.drill(second);
    assert_eq!(report.outcome, Outcome::Complete, "{:?} {:?}", report.checks, report.notes);
    let check = report.checks.iter().find(|check| check.name == "last transaction recovered");
    assert!(check.is_some_and(|check| check.passed), "no moment was recovered: {report:?}");
    let stopped = archived.kept().manifests[&second].stopped;
    assert!(report.recovered_moment > stopped, "{report:?}");
    // Nothing but commits that a newer base is nearer to: it is drilled as it was.
    let first = archived.drill(snapshot);
    assert_eq!(first.outcome, Outcome::Complete, "{:?} {:?}", first.checks, first.notes);

    for name in archived.plan(Target::End, true, Course::Latest).unwrap().log {
        let WalName::Segment(_) = name else { continue };
        let object = archived.world.object(&name.to_string());
        let mut bytes = std::fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&object).unwrap();
        std::fs::write(&object, bytes).unwrap();
    }
    let report = archived.drill(second);
    assert_eq!(report.outcome, Outcome::Failed, "{:?} {:?}", report.checks, report.notes);
}
