//! Real servers that archive.

use crate::server::Server;
use crate::world::{SYSTEM, World, segment};

/// Sees that everything that the server had archived is in the repository, under its name and to the byte, and nothing else.
#[track_caller]
fn check_all(world: &World, server: &Server, copies: &str) -> usize {
    let mut files = Vec::new();
    for file in std::fs::read_dir(world.path(copies)).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        let archived = world.archived(server.system, &name);
        assert!(archived == Some(std::fs::read(file.path()).unwrap()), "{name} does not come back");
        files.push(name);
    }
    files.sort();
    let mut names = world.names(server.system);
    names.sort();
    assert_eq!(names, files);
    files.len()
}

/// Keeps E-7.
#[test]
fn every_file_that_a_server_archives_comes_back_by_name_and_to_the_byte() {
    for segment_mib in [1, 16] {
        let Some(mut server) = Server::start(segment_mib) else { return };
        let world = World::new();
        server.archive_into(&world, "copies");
        server.write(3);
        server
            .client
            .batch_execute(match server.cluster.major() {
                15.. => "SELECT pg_backup_start('a', true); SELECT pg_backup_stop(false)",
                _ => "SELECT pg_start_backup('a', true, false); SELECT pg_stop_backup(false, false)",
            })
            .unwrap();
        server.write(9);
        server.wait_until_archived();
        assert_eq!(server.n_failed(), 0);
        assert!(check_all(&world, &server, "copies") >= 13);
        let has_backup = world.names(server.system).iter().any(|name| name.ends_with(".backup"));
        assert!(has_backup, "{:?}", world.names(server.system));
    }
}

#[test]
fn what_was_archived_ahead_is_there_when_the_server_asks() {
    let Some(mut server) = Server::start(1) else { return };
    let world = World::new();
    // A backlog: nothing is archived until there are many.
    server.archive_with("/bin/false");
    server.write(30);
    server.archive_into(&world, "copies");
    server.wait_until_archived();
    assert!(check_all(&world, &server, "copies") >= 30);
}

#[test]
fn two_clusters_in_one_repository_keep_their_own() {
    let (Some(mut one), Some(mut two)) = (Server::start(1), Server::start(1)) else { return };
    let world = World::new();
    assert_ne!(one.system, two.system);
    one.archive_into(&world, "copies-of-one");
    two.archive_into(&world, "copies-of-two");
    one.write(4);
    two.write(6);
    one.wait_until_archived();
    two.wait_until_archived();
    assert!(check_all(&world, &one, "copies-of-one") >= 4);
    assert!(check_all(&world, &two, "copies-of-two") >= 6);
    assert_eq!((one.n_failed(), two.n_failed()), (0, 0));
}

/// A note is of one file, and of one object: neither a file under its name that is another, nor one whose object is gone, is
/// acknowledged by it. Keeps E-7.
#[test]
fn what_was_noted_of_another_file_is_not_believed() {
    let world = World::new();
    let ready = |name: &str| {
        std::fs::write(world.path(&format!("data/pg_wal/archive_status/{name}.ready")), "").unwrap()
    };
    let stored_ahead = |n: u32| {
        let (name, bytes) = segment(n, n as u8);
        let path = world.write_log(&name, &bytes);
        ready(&name);
        (name, path)
    };
    let files: Vec<_> = (1..=4).map(stored_ahead).collect();
    world.run("ahead", &["pg_wal"]).expect(0, "");
    assert_eq!(world.names(SYSTEM).len(), 4, "not all that was ready was stored");
    // The very file.
    world.run("push", &[&files[0].1]).expect(0, "");
    // Another under its name.
    world.write_log(&files[1].0, &segment(2, 99).1);
    world.run("push", &[&files[1].1]).expect(14, "archived already with other content");
    // One whose object has gone.
    std::fs::remove_file(world.object(&files[2].0)).unwrap();
    world.run("push", &[&files[2].1]).expect(0, "");
    assert!(
        world.archived(SYSTEM, &files[2].0) == Some(segment(3, 3).1),
        "it was acknowledged and is not there"
    );
    // Nobody has noted this one.
    let (name, bytes) = segment(9, 9);
    world.run("push", &[&world.write_log(&name, &bytes)]).expect(0, "");
    assert!(world.archived(SYSTEM, &name) == Some(bytes));
}
