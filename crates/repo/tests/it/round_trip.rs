//! What is backed up comes back.

use crate::world::{Tree, World, backup, noise, restore};
use hikae_model::Cut;
use hikae_repo::RepoError;

fn tree() -> Tree {
    let mut tree: Tree =
        (0..300).map(|n| (format!("dir/file-{n:03}"), noise(n, (n as usize * 37) % 3000))).collect();
    tree.insert("empty".to_owned(), Vec::new());
    tree.insert("large".to_owned(), noise(1000, 9 << 20));
    tree.insert("text".to_owned(), b"words and more words\n".repeat(100_000));
    tree
}

#[test]
fn what_is_backed_up_comes_back_in_another_process() {
    for cut in [Cut::Files, Cut::Rows, Cut::Pages(4096)] {
        let world = World::in_memory();
        let tree = tree();
        let committed = world.backup(&tree, cut).unwrap();
        let again = world.open().unwrap();
        assert!(restore(&again, committed.snapshots[0]).unwrap() == tree, "{cut:?}");
    }
}

/// Keeps RS-8, EC-9.
#[test]
fn the_second_backup_of_the_same_adds_next_to_nothing() {
    for cut in [Cut::Files, Cut::Rows, Cut::Pages(4096)] {
        let world = World::in_memory();
        let first = world.backup(&tree(), cut).unwrap().snapshots[0];
        let second = backup(&world.repo, &tree(), cut, Some(first)).unwrap().snapshots[0];
        let record = world.repo.snapshot(second).unwrap().record;
        assert_eq!(record.listing, world.repo.snapshot(first).unwrap().record.listing, "{cut:?}");
        assert_eq!(record.added_bytes, 0, "{cut:?}");
    }
}

#[test]
fn a_changed_page_adds_a_page() {
    let world = World::in_memory();
    let mut tree = Tree::from([("database".to_owned(), noise(1, 8 << 20))]);
    let first = world.backup(&tree, Cut::Pages(4096)).unwrap().snapshots[0];
    for page in [3, 700, 701, 2000] {
        tree.get_mut("database").unwrap()[page * 4096 + 5] ^= 1;
    }
    let second = backup(&world.repo, &tree, Cut::Pages(4096), Some(first)).unwrap().snapshots[0];
    assert!(world.restore(second).unwrap() == tree);
    let added = world.repo.snapshot(second).unwrap().record.added_bytes;
    assert!((4 * 4096..6 * 4096).contains(&added), "{added} bytes for four pages");
}

#[test]
fn another_key_does_not_open_the_repository() {
    let mut world = World::in_memory();
    world.key = hikae_repo::keys::Secret32::new([1; 32]);
    assert!(matches!(world.open(), Err(RepoError::WrongKey { .. })));
}
