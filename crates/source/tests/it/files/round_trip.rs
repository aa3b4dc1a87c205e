//! What is backed up and restored is the same.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use hikae_source::files::{Mounts, Overwrite, Target};
use hikae_testkit::{Seed, TestRandom, not_run, test_cx};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};

use super::{NOBODY, World, check_same, is_root, read_all, restore, settings};

/// Trees that the property test grows; `HIKAE_TEST_TREES` asks for more.
const N_TREES: u64 = 60;

/// Grows a random tree of everything that a file system can hold.
fn grow(root: &Path, random: &TestRandom) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made = Vec::new();
    for _ in 0..random.below(40) {
        let parent = directories[random.below(directories.len() as u64) as usize].clone();
        let n = 1 + random.below(12) as usize;
        let name: Vec<u8> =
            random.bytes(n).iter().map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { *byte }).collect();
        let path = parent.join(OsString::from_vec(name));
        if path.file_name().is_none() || path.symlink_metadata().is_ok() {
            continue;
        }
        let node = |kind, device| mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, device).unwrap();
        match random.below(12) {
            0..3 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            3..7 => {
                let n = random.below(20_000) as usize;
                fs::write(&path, random.bytes(n)).unwrap();
                files.push(path.clone());
            }
            7 => {
                let file = File::create(&path).unwrap();
                file.set_len(random.below(1 << 22)).unwrap();
                for _ in 0..random.below(3) {
                    file.write_all_at(&random.bytes(5000), random.below(1 << 22)).unwrap();
                }
                files.push(path.clone());
            }
            8 => symlink(OsString::from_vec(b"../\xff/nowhere".to_vec()), &path).unwrap(),
            9 if !files.is_empty() => {
                fs::hard_link(&files[random.below(files.len() as u64) as usize], &path).unwrap();
            }
            10 if is_root() && random.once_in(2) => node(FileType::CharacterDevice, makedev(1, 3)),
            10 => node(FileType::Socket, 0),
            _ => node(FileType::Fifo, 0),
        }
        made.push(path);
    }
    for path in made.iter().rev() {
        decorate(path, random);
    }
}

/// Access rules: owner rw, user 1000 r, group r, mask rw, others none, as in linux/posix_acl_xattr.h.
fn acl() -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for (tag, rights, id) in [(1u16, 6u16, !0u32), (2, 4, 1000), (4, 4, !0), (16, 6, !0), (32, 0, !0)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// Writes random attributes on one thing.
fn decorate(path: &Path, random: &TestRandom) {
    let file_type = path.symlink_metadata().unwrap().file_type();
    if is_root() && random.once_in(2) {
        lchown(path, Some(random.below(3) as u32 * 1000), Some(NOBODY)).unwrap();
    }
    if file_type.is_file() || file_type.is_dir() {
        for n in 0..random.below(3) {
            let value = random.bytes(random.below(100) as usize);
            lsetxattr(path, format!("user.n{n}"), &value, XattrFlags::empty()).unwrap();
        }
        if random.once_in(4) {
            let acl = acl();
            lsetxattr(path, "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
            if file_type.is_dir() {
                lsetxattr(path, "system.posix_acl_default", &acl, XattrFlags::empty()).unwrap();
            }
        }
    }
    if !file_type.is_symlink() {
        let own = if is_root() { 0 } else { 0o700 };
        fs::set_permissions(path, Permissions::from_mode(own | random.below(0o10000) as u32)).unwrap();
    }
    let seconds = if random.once_in(8) { -86_400 } else { random.below(2_000_000_000) as i64 };
    let time = Timespec { tv_sec: seconds, tv_nsec: random.below(1_000_000_000) as i64 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Keeps G-1.
#[test]
fn any_tree_comes_back_as_it_was() {
    let seed = Seed::draw();
    let n_trees = std::env::var("HIKAE_TEST_TREES").ok().and_then(|n| n.parse().ok()).unwrap_or(N_TREES);
    for n in 0..n_trees {
        let random = TestRandom::new(Seed(seed.0.wrapping_add(n)));
        let world = World::new();
        grow(&world.source(), &random);
        let snapshot = read_all(settings(&world.source()));
        assert!(snapshot.problems.is_empty(), "tree {n}: {:?}", snapshot.problems);
        let (problems, report) = restore(&snapshot, Target::into_new(&world.target(), &test_cx()).unwrap());
        assert!(problems.is_empty() && report.problems.is_empty(), "tree {n}: {problems:?} {report:?}");
        check_same(&world.source(), &world.restored());

        // Over itself, by whatever rule, it stays what it is.
        let rules = [Overwrite::Never, Overwrite::IfNewer, Overwrite::IfChanged, Overwrite::Always];
        let overwrite = rules[n as usize % rules.len()];
        let target = Target::into_existing(&world.target(), overwrite, Mounts::Refuse, &test_cx()).unwrap();
        let (problems, _) = restore(&snapshot, target);
        assert!(problems.is_empty(), "tree {n}, {overwrite:?}: {problems:?}");
        check_same(&world.source(), &world.restored());
    }
}

/// Keeps G-1.
#[test]
fn capabilities_and_set_id_bits_survive_the_change_of_owner() {
    if !is_root() {
        return not_run("only root can give files away");
    }
    let world = World::new();
    let path = world.write("ping", "program");
    lchown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
    // cap_net_raw+ep in the layout of linux/capability.h, revision 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lsetxattr(&path, "security.capability", &capability, XattrFlags::empty()).unwrap();
    let snapshot = read_all(settings(&world.source()));
    let (problems, _) = restore(&snapshot, Target::into_new(&world.target(), &test_cx()).unwrap());
    assert!(problems.is_empty());
    check_same(&world.source(), &world.restored());
}

#[test]
fn nothing_is_inherited_from_where_it_is_restored() {
    if !is_root() {
        return not_run("only root can give directories away");
    }
    let world = World::new();
    world.write("dir/file", "content");
    let snapshot = read_all(settings(&world.source()));
    lchown(world.scratch.path(), None, Some(NOBODY)).unwrap();
    fs::set_permissions(world.scratch.path(), Permissions::from_mode(0o2755)).unwrap();
    lsetxattr(world.scratch.path(), "system.posix_acl_default", &acl(), XattrFlags::empty()).unwrap();
    for exists in [false, true] {
        if exists {
            fs::remove_dir_all(world.target()).unwrap();
            fs::create_dir(world.target()).unwrap();
        }
        let (problems, _) = restore(&snapshot, Target::into_new(&world.target(), &test_cx()).unwrap());
        assert!(problems.is_empty());
        check_same(&world.source(), &world.restored());
    }
}
