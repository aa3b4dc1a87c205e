//! A repository that a newer release has changed is read as far as we understand it, and not written to (D-6).

use crate::world::{Tree, World, noise};
use hikae_model::Cut;
use hikae_repo::RepoError;
use hikae_repo::forget::{ForgetOptions, ToForget, forget};
use hikae_repo::log::Change;
use hikae_repo::prune::{PruneOptions, prune};
use hikae_store::MemoryStore;
use std::sync::Arc;

/// D-6: no release writes to what it does not know all of.
#[test]
fn a_repository_with_an_unknown_feature_is_read_and_not_written_to() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let tree = Tree::from([("a".to_owned(), noise(1, 5000))]);
    let snapshot = world.backup(&tree, Cut::Files).unwrap().snapshots[0];
    world.repo.append(&mut |_| Ok(Change::Feature("of-the-future".to_owned()))).unwrap();

    let before = store.keys();
    let repo = world.open().unwrap();
    let what = ToForget::Snapshots([snapshot].into());
    let results = [
        crate::world::backup(&repo, &tree, Cut::Files, Some(snapshot)).map(drop),
        forget(&repo, &what, "", ForgetOptions { even_last: true, even_many: true }, &world.cx).map(drop),
        prune(&repo, &PruneOptions::default(), &world.cx).map(drop),
    ];
    for result in results {
        assert!(matches!(result, Err(RepoError::TooNew { .. })), "{result:?}");
    }
    assert_eq!(store.keys(), before, "nothing was written");
    assert!(world.restore(snapshot).unwrap() == tree);
}
