//! Where the parts of a cluster go that is recovered.

use super::*;

/// Rows of after the backup, in a tablespace that goes elsewhere.
#[test]
fn a_tablespace_is_recovered_where_it_is_sent() {
    let Some(mut archived) = Archived::start() else { return };
    let place = archived.server.cluster.directory().join("space");
    std::fs::create_dir(&place).unwrap();
    archived.world.give_to_owner_of(archived.server.cluster.directory());
    let owner = std::fs::metadata(archived.server.cluster.directory()).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&owner);
    std::os::unix::fs::chown(&place, Some(owner), None).unwrap();
    let client = &mut archived.server.client;
    client.batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display())).unwrap();
    client.batch_execute("ALTER TABLE ledger SET TABLESPACE fast").unwrap();
    let oid = client.query_one("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'", &[]).unwrap().get(0);
    archived.back_up();
    let moments = moments(&mut archived, 1);
    let plan = archived.plan(Target::Time(moments[0].0), true, Course::Latest).unwrap();
    let sent = archived.world.path("sent");
    let mut options = archived.options("then");
    options.target.tablespaces.insert(oid, sent.clone());
    let live = std::fs::read_dir(&place).unwrap().count();
    let recovered = recover(&archived.repo(), &plan, &options, &around(&archived.world), &system_cx());
    let recovered = recovered.unwrap_or_else(|error| panic!("{}", hikae_model::with_causes(&error)));
    assert_eq!(recovered.tablespaces, [(oid, sent.clone())].into());
    let opened = archived.open("then", &[]);
    let mut client = enter(&opened);
    assert_eq!(ledger(&mut client), moments[0].1);
    let location: String = client.query_one("SELECT pg_tablespace_location($1)", &[&oid]).unwrap().get(0);
    assert_eq!(Path::new(&location), sent);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), live, "the source's own was touched");
}
