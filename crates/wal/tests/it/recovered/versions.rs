//! Every version of PostgreSQL that is here is recovered with its own programs.

use super::*;
use hikae_testkit::postgresql;

/// Recovers a cluster of this version to a moment and to a place in its log.
#[track_caller]
fn is_recovered(major: u32) {
    let Some(directory) = postgresql(major) else {
        return hikae_testkit::not_run(&format!("no server of PostgreSQL {major} is installed"));
    };
    let Some(server) = Server::start_of(Some(directory.clone()), 1) else { return };
    let mut archived = Archived::of(server);
    archived.server.archive_into(&archived.world, "copies");
    assert_eq!(archived.server.cluster.major(), major);
    archived.back_up();
    let moments = moments(&mut archived, 2);
    let time = archived.plan(Target::Time(moments[0].0), true, Course::Latest).unwrap();
    // The first commit after a moment, and not it itself: the same rows by place.
    let after = time.around.after.clone().unwrap();
    let place = archived.plan(Target::Lsn(after.at), false, Course::Latest).unwrap();
    for (plan, name) in [(time, "time"), (place, "place")] {
        let recovered = archived.recover(&plan, name);
        let recovered = recovered.unwrap_or_else(|error| panic!("{}", hikae_model::with_causes(&error)));
        assert!(recovered.server_version.starts_with(&major.to_string()), "{recovered:?}");
        assert_eq!(ledger(&mut enter(&archived.open(name, &[]))), moments[0].1, "by {name}");
    }

    // Files of one major version are of no use to another.
    let Some(other) = (13..=18).filter(|other| *other != major).find_map(postgresql) else {
        return println!("no other version is here, so none was refused");
    };
    let plan = archived.plan(Target::Immediate, true, Course::Latest).unwrap();
    let options = RecoverOptions { program_directory: Some(other), ..archived.options("other") };
    let refused = recover(&archived.repo(), &plan, &options, &around(&archived.world), &system_cx());
    says(refused, &[&format!("PostgreSQL {major}"), &format!("install postgresql-{major}")]);
    archived.assert_nothing_left("other");
}

#[test]
fn postgresql_13_is_recovered() {
    is_recovered(13);
}

#[test]
fn postgresql_14_is_recovered() {
    is_recovered(14);
}

#[test]
fn postgresql_15_is_recovered() {
    is_recovered(15);
}

#[test]
fn postgresql_16_is_recovered() {
    is_recovered(16);
}

#[test]
fn postgresql_17_is_recovered() {
    is_recovered(17);
}

#[test]
fn postgresql_18_is_recovered() {
    is_recovered(18);
}
