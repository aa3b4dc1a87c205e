//! Memory that runs out at any allocation of a backup (A-5): no run says that it did what it did not, and what there
//! was is there. Rust ends a process that gets no memory, so each try is a process of its own: this binary once more.
//!
//! By default some allocations fail, evenly chosen; `HIKAE_FULL=1` lets each fail, once alone and once with all that
//! come after it.
//!
//! ```sh
//! HIKAE_FULL=1 cargo test --release -p hikae-ops --test low_memory -- --nocapture
//! ```
#![allow(unsafe_code)] // an allocator is unsafe to write; this one only asks that of the system, or says no

use hikae_model::Outcome;
use hikae_ops::backup::{BackupOptions, NamedSource, backup};
use hikae_ops::hooks::Hooks;
use hikae_repo::keys::Secret32;
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::verify::{VerifyOptions, verify};
use hikae_repo::{InitOptions, Repo};
use hikae_source::files::{FilesSettings, FilesSource};
use hikae_store::{DirectoryStore, Reserve};
use hikae_testkit::system_cx;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Says no to the allocation of one number, or to that and all that follow.
struct Scarce;

static N_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FIRST_THAT_FAILS: AtomicU64 = AtomicU64::new(u64::MAX);
static ALL_THAT_FOLLOW: AtomicBool = AtomicBool::new(false);

fn is_refused() -> bool {
    let (number, first) =
        (N_ALLOCATIONS.fetch_add(1, Ordering::Relaxed) + 1, FIRST_THAT_FAILS.load(Ordering::Relaxed));
    number == first || number > first && ALL_THAT_FOLLOW.load(Ordering::Relaxed)
}

// SAFETY: every method hands its arguments to the system's allocator as they are, or gives null, which says that
// there is no memory; both is what `GlobalAlloc` asks for.
unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused() { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused() { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_refused() { std::ptr::null_mut() } else { unsafe { System.realloc(memory, layout, size) } }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Scarce = Scarce;

const KEY: [u8; 32] = [7; 32];
/// Where the process finds the machine that it is to back up, and what shall fail.
const PLACE: &str = "HIKAE_LOW_MEMORY_PLACE";
const FAIL_AT: &str = "HIKAE_LOW_MEMORY_FAIL_AT";

fn open(root: &Path, cache: &str) -> Arc<Repo> {
    let cx = system_cx();
    let store = DirectoryStore::open(&root.join("repo"), Reserve::Bytes(0), cx.random_source()).unwrap();
    let unlock = Unlock::KeyFile(Secret32::new(KEY));
    Arc::new(Repo::open(Arc::new(store), unlock, Vec::new(), &root.join(cache), &cx).unwrap())
}

/// Backs up and says whether that went well.
fn back_up(root: &Path) -> bool {
    let cx = system_cx();
    let repo = open(root, "cache");
    let settings = FilesSettings { include: vec![root.join("source").into()], ..FilesSettings::default() };
    let source = FilesSource::new(settings).unwrap();
    let hooks = Hooks { time_limit: Duration::from_secs(5), ..Hooks::default() };
    let source = NamedSource { name: "files".to_owned(), source: Box::new(source), hooks };
    let options = BackupOptions {
        purpose: "manual".to_owned(),
        description: None,
        host: "test".to_owned(),
        epoch_days: 90,
    };
    backup(&repo, &[source], &options, &cx).is_ok_and(|report| report.outcome == Outcome::Complete)
}

/// What a process that is to fail does: it ends well only if the backup did.
fn act(root: &Path) -> ! {
    let (at, follow) = std::env::var(FAIL_AT)
        .unwrap()
        .split_once(' ')
        .map(|(at, follow)| (at.parse::<u64>().unwrap(), follow == "all"))
        .unwrap();
    ALL_THAT_FOLLOW.store(follow, Ordering::Relaxed);
    N_ALLOCATIONS.store(0, Ordering::Relaxed);
    FIRST_THAT_FAILS.store(at, Ordering::Relaxed);
    let well = back_up(root);
    FIRST_THAT_FAILS.store(u64::MAX, Ordering::Relaxed);
    std::fs::write(root.join("allocations"), N_ALLOCATIONS.load(Ordering::Relaxed).to_string()).unwrap();
    std::process::exit(if well { 0 } else { 1 });
}

/// A machine with a repository and a snapshot, and a source that changed since.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let cx = system_cx();
    let store =
        DirectoryStore::create(&root.path().join("repo"), Reserve::Bytes(0), cx.random_source()).unwrap();
    let key = Secret32::new(KEY);
    let options = InitOptions::opened_by(Wrap::KeyFile(&key));
    Repo::init(Arc::new(store), &options, &root.path().join("cache"), &cx).unwrap();
    std::fs::create_dir_all(root.path().join("source/folder")).unwrap();
    for (name, text) in [("a", "first "), ("folder/b", "second "), ("folder/c", "third ")] {
        std::fs::write(root.path().join("source").join(name), text.repeat(400)).unwrap();
    }
    assert!(back_up(root.path()));
    std::fs::write(root.path().join("source/a"), "changed ".repeat(500)).unwrap();
    std::fs::write(root.path().join("source/new"), "new ".repeat(500)).unwrap();
    root
}

/// Lets a backup on a copy of the machine fail there. Gives whether it ended well, and how many allocations it had.
fn fail_at(machine: &Path, at: u64, follow: bool) -> (bool, u64) {
    let root = tempfile::tempdir_in(machine.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-a").arg(machine.join(".")).arg(root.path()).status();
    assert!(copied.unwrap().success());
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_backup_without_memory_for_one_thing_says_so", "--nocapture"])
        .env(PLACE, root.path())
        .env(FAIL_AT, format!("{at} {}", if follow { "all" } else { "one" }))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let what =
        format!("allocation {at}{}, ended with {ended}", if follow { " and all that follow" } else { "" });
    let repo = open(root.path(), "other-cache");
    let listed = repo.state().snapshots.len();
    assert!(listed == 1 || listed == 2, "{what}: {listed} snapshots");
    assert!(!ended.success() || listed == 2, "{what}: a false success");
    let options = VerifyOptions { read_data: true, snapshots: None, sample: None };
    let report = verify(&repo, &options, repo.cx()).unwrap();
    assert_eq!((report.outcome, report.problems), (Outcome::Complete, Vec::new()), "{what}");
    // One that stands though its process died at its very end has all that it should have.
    let complete = repo.state().snapshots.values().all(|snapshot| snapshot.snapshot.complete);
    assert!(complete || !ended.success(), "{what}: a snapshot with holes, and no word of it");
    assert!(back_up(root.path()), "{what}: the next backup");
    let counted = std::fs::read_to_string(root.path().join("allocations")).ok();
    (ended.success(), counted.and_then(|text| text.parse().ok()).unwrap_or(0))
}

#[test]
fn a_backup_without_memory_for_one_thing_says_so() {
    if let Some(root) = std::env::var_os(PLACE) {
        act(Path::new(&root));
    }
    let machine = machine();
    let (well, n_allocations) = fail_at(machine.path(), u64::MAX, false);
    assert!(well && n_allocations > 100, "{n_allocations} allocations of a backup that lacked nothing");
    let full = std::env::var_os("HIKAE_FULL").is_some();
    let step = if full { 1 } else { n_allocations.div_ceil(20) };
    let (mut n_tried, mut n_well) = (0, 0);
    for at in (1..=n_allocations).step_by(usize::try_from(step).unwrap()) {
        for follow in [false, true] {
            let (well, _) = fail_at(machine.path(), at, follow);
            n_tried += 1;
            n_well += u32::from(well);
            if n_tried % 1000 == 0 {
                println!("{n_tried} of {} failures", 2 * n_allocations / step);
            }
        }
    }
    println!(
        "{n_tried} failures in {n_allocations} allocations: {n_well} runs did without, no false snapshot"
    );
    assert!(n_well < n_tried / 2, "{n_well} of {n_tried} did not notice");
}
