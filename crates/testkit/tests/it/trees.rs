//! Trees: what chance grows is the same again, and every kind of difference is found.

use hikae_testkit::random_tree::{Growth, grow};
use hikae_testkit::tree::{Exactness, Kind, Tree, assert_same};
use hikae_testkit::{Seed, not_run};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

fn grown(seed: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for what in grow(directory.path(), Seed(seed), Growth::default()).unwrap() {
        not_run(&format!("{what} are not in the tree"));
    }
    directory
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Does `harm` to one of two equal trees, and expects that it is found, on `path` and as `what`.
#[track_caller]
fn check_found(path: &str, what: &str, harm: impl FnOnce(&Path)) {
    static EXPECTED: LazyLock<Tree> = LazyLock::new(|| Tree::read(grown(1).path()).unwrap());
    let harmed = grown(1);
    harm(harmed.path());
    let differences = EXPECTED.differences(&Tree::read(harmed.path()).unwrap(), Exactness::of_user());
    let found = differences.iter().any(|d| d.path.to_string() == path && d.what.starts_with(what));
    assert!(found, "`{path}: {what}` is not among {differences:?}");
}

#[test]
fn a_seed_grows_the_same_tree_again_and_another_seed_another() {
    let [a, b, c] = [1, 1, 2].map(grown);
    assert_same(a.path(), b.path());
    let [a, c] = [a, c].map(|tree| Tree::read(tree.path()).unwrap());
    assert!(!a.differences(&c, Exactness::ALL).is_empty());
    assert!(a.entries.len() > 300, "{}", a.entries.len());
}

#[test]
fn a_tree_holds_every_kind_that_this_user_may_make() {
    let tree = Tree::read(grown(3).path()).unwrap();
    let has = |is_it: fn(&Kind) -> bool| tree.entries.values().any(|node| is_it(&node.kind));
    assert!(has(|kind| matches!(kind, Kind::File { .. })));
    assert!(has(|kind| matches!(kind, Kind::Directory)));
    assert!(has(|kind| matches!(kind, Kind::Symlink { .. })));
    assert!(has(|kind| matches!(kind, Kind::Fifo)));
    assert!(has(|kind| matches!(kind, Kind::Socket)));
    assert!(tree.entries.values().any(|node| node.mode & 0o4000 != 0));
    assert!(tree.entries.iter().any(|(path, node)| node.first_name != *path));
    assert!(tree.entries.values().any(|node| node.modified.0 < 0 && node.modified.1 != 0));
    let is_sparse = |kind: &Kind, place| matches!(kind, Kind::File { bytes, .. } if *bytes > 2 * place);
    assert!(tree.entries.values().any(|node| is_sparse(&node.kind, node.allocated_bytes)));
}

#[test]
fn a_true_copy_is_found_to_be_one() {
    let (original, copy) = (grown(4), tempfile::tempdir().unwrap());
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always", "--"])
        .arg(original.path().join("."))
        .arg(copy.path())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let [original, copy] = [&original, &copy].map(|tree| Tree::read(tree.path()).unwrap());
    assert_eq!(original.differences(&copy, Exactness::of_user()), []);
}

#[test]
fn a_changed_byte_is_found() {
    check_found("size-3M", "content", |tree| {
        let file = fs::File::options().write(true).open(tree.join("size-3M")).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"!", 1_234_567).unwrap();
        file.set_modified(time).unwrap();
    });
}

#[test]
fn data_moved_within_a_hole_is_found() {
    check_found("sparse-hole-before", "content", |tree| {
        let file = fs::File::create(tree.join("sparse-hole-before")).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"data", (4 << 20) - 5).unwrap();
    });
}

#[test]
fn a_filled_hole_is_found_though_the_content_is_the_same() {
    check_found("sparse-hole", "place taken", |tree| {
        fs::write(tree.join("sparse-hole"), vec![0; 8 << 20]).unwrap();
    });
    let (a, b) = (grown(1), grown(1));
    fs::write(b.path().join("sparse-hole"), vec![0; 8 << 20]).unwrap();
    let [a, b] = [a, b].map(|tree| Tree::read(tree.path()).unwrap());
    let exactness = Exactness { holes: false, times: false, ..Exactness::of_user() };
    assert_eq!(a.differences(&b, exactness), []);
}

#[test]
fn what_is_missing_or_extra_is_found() {
    check_found("links/file", "missing", |tree| fs::remove_file(tree.join("links/file")).unwrap());
    check_found("empty/new", "extra", |tree| fs::write(tree.join("empty/new"), b"").unwrap());
}

#[test]
fn a_broken_or_an_added_hard_link_is_found() {
    check_found("zz-hard-4", "first hard link", |tree| {
        fs::remove_file(tree.join("zz-hard-4")).unwrap();
        fs::copy(tree.join("links/hard-1"), tree.join("zz-hard-4")).unwrap();
    });
    check_found("size-1", "first hard link", |tree| {
        fs::remove_file(tree.join("size-1")).unwrap();
        fs::hard_link(tree.join("size-0"), tree.join("size-1")).unwrap();
    });
}

#[test]
fn another_target_kind_mode_time_or_xattr_is_found() {
    check_found("links/dangling", "content", |tree| {
        fs::remove_file(tree.join("links/dangling")).unwrap();
        symlink("elsewhere", tree.join("links/dangling")).unwrap();
    });
    check_found("specials/fifo", "content", |tree| {
        fs::remove_file(tree.join("specials/fifo")).unwrap();
        fs::write(tree.join("specials/fifo"), b"").unwrap();
    });
    check_found("attributes/mode-4755", "mode", |tree| {
        let plain = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tree.join("attributes/mode-4755"), plain).unwrap();
    });
    check_found("links/to-file", "time", |tree| {
        fs::remove_file(tree.join("links/to-file")).unwrap();
        symlink("file", tree.join("links/to-file")).unwrap();
    });
    check_found("order/a", "time", |tree| fs::remove_file(tree.join("order/a/z")).unwrap());
    let xattr = |tree: &Path| rustix::fs::lremovexattr(tree.join("attributes/xattrs"), "user.empty");
    let has_xattrs = xattr(grown(1).path()).is_ok();
    if has_xattrs {
        check_found("attributes/xattrs", "xattr user.empty", |tree| xattr(tree).unwrap());
    } else {
        not_run("this file system has no user xattrs");
    }
}

#[test]
fn another_owner_or_device_is_found() {
    if !is_root() {
        return not_run("needs root to change owners");
    }
    check_found("text", "owner", |tree| {
        std::os::unix::fs::lchown(tree.join("text"), Some(12_345), None).unwrap();
    });
    if grown(1).path().join("specials/null").exists() {
        check_found("specials/null", "content", |tree| {
            fs::remove_file(tree.join("specials/null")).unwrap();
            let (zero, mode) = (rustix::fs::makedev(1, 5), rustix::fs::Mode::RUSR);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, tree.join("specials/null"), kind, mode, zero).unwrap();
        });
    }
}
