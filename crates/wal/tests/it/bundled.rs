//! Segments in bundles, as the program archives and fetches them.

use crate::world::{SYSTEM, World, segment};
use hikae_repo::layout;
use hikae_repo::prune::{BundleOptions, bundle_log, remove_doomed};
use hikae_store::Store as _;
use hikae_testkit::system_cx;
use std::time::Duration;

/// Bundles all that is archived, and takes it away as it stood by itself.
fn bundle(world: &World, most_files: usize) {
    let (repo, cx) = (world.repo(), system_cx());
    let options =
        BundleOptions { soft: Duration::ZERO, most_files, fewest_files: 1, ..BundleOptions::default() };
    let bundled = bundle_log(&repo, &options, &cx).unwrap();
    assert_eq!(remove_doomed(&repo, &cx).unwrap().n_bundled, bundled.n_files);
}

/// Keeps E-7.
#[test]
fn what_is_in_a_bundle_is_fetched_and_known_again_and_never_taken_for_the_end_of_the_log() {
    let world = World::new();
    let push = |n: u32, seed: u8| {
        let (name, bytes) = segment(n, seed);
        world.run("push", &["--ahead", "0", &world.write_log(&name, &bytes)])
    };
    let fetched = |n: u32| {
        world.run("get", &[&segment(n, 0).0, "pg_wal/RECOVERYXLOG"]).expect(0, "");
        std::fs::read(world.path("data/pg_wal/RECOVERYXLOG")).unwrap()
    };
    for n in 1..=6 {
        push(n, 0).expect(0, "");
    }
    bundle(&world, 4);
    let all = world.names(SYSTEM);
    push(7, 0).expect(0, "");
    for n in 1..=7 {
        assert!(fetched(n) == segment(n, 0).1, "segment {n}");
        push(n, 0).expect(0, "");
        push(n, 1).expect(14, "is archived already with other content");
    }
    world.run("get", &[&segment(8, 0).0, "pg_wal/RECOVERYXLOG"]).expect(1, "");
    assert_eq!((all.len(), world.names(SYSTEM).len()), (6, 7));

    // Of a bundle that does not open nobody can say whether it had a segment.
    let mut bundles = Vec::new();
    world.store().list("wal", &mut |object| bundles.extend(layout::wal_bundle_of(&object.key))).unwrap();
    bundles.sort();
    let path = world.path("repo").join(layout::wal_bundle(bundles[0].0, bundles[0].1).as_str());
    let mut harmed = std::fs::read(&path).unwrap();
    harmed[50] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, harmed).unwrap();
    world.run("get", &[&segment(2, 0).0, "pg_wal/OTHER"]).expect(126, "is damaged");
    push(2, 0).expect(4, "is damaged");
    assert!(fetched(5) == segment(5, 0).1, "one that is in another bundle");
    push(8, 0).expect(0, "");
}
