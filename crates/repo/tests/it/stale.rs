//! Caches that lag behind lead nobody to what is gone (D-5): one host prunes and removes, and dies of it now and then;
//! another backs up with what it read long ago, with an old copy of its cache, or with one that was cut short. Half of the
//! stores are far, so that more is kept near.
//!
//! `HIKAE_FULL=1` tries 10,000 schedules in place of some.

use crate::concurrency::is_a_clean_end;
use crate::lab::{Lab, eager, greedy, tree};
use crate::world::{KEY, Tree, backup};
use hikae_model::{Cut, SnapshotId};
use hikae_repo::keys::Secret32;
use hikae_repo::prune::{prune, remove_doomed};
use hikae_repo::slot::Unlock;
use hikae_repo::{Repo, RepoError, forget};
use hikae_store::Store;
use hikae_testkit::{Seed, TestRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A machine with a cache that outlives its processes.
struct Host {
    store: Arc<dyn Store>,
    cache: TempDir,
    repo: Arc<Repo>,
}

impl Host {
    fn new(lab: &Lab, store: Arc<dyn Store>) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let repo = open(lab, &store, cache.path()).unwrap();
        Self { store, cache, repo }
    }

    /// A new process with the cache as it is.
    fn reopen(&mut self, lab: &Lab) {
        self.repo = open(lab, &self.store, self.cache.path()).unwrap();
    }
}

fn open(lab: &Lab, store: &Arc<dyn Store>, cache: &Path) -> Result<Arc<Repo>, RepoError> {
    let unlock = Unlock::KeyFile(Secret32::new(KEY));
    Repo::open(store.clone(), unlock, Vec::new(), cache, &lab.cx).map(Arc::new)
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// Takes a file of the cache away, or its end, or changes a byte of it.
fn harm(cache: &Path, random: &TestRandom) {
    let files = files(cache);
    let Some(file) = files.get(random.below(files.len().max(1) as u64) as usize) else { return };
    let mut bytes = std::fs::read(file).unwrap();
    let at = random.below(bytes.len().max(1) as u64) as usize;
    match random.below(3) {
        0 => return std::fs::remove_file(file).unwrap(),
        1 => bytes.truncate(at),
        // What this machine has seen of the log is a line of text; another hash in it is another promise.
        _ if file.ends_with("head") => return,
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
    }
    std::fs::write(file, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, to).unwrap();
    }
}

/// What happened, for all schedules together.
#[derive(Default)]
struct Counts {
    backups: AtomicU64,
    refused: AtomicU64,
    prunes: AtomicU64,
    deaths: AtomicU64,
}

struct Schedule<'c> {
    lab: Lab,
    random: TestRandom,
    counts: &'c Counts,
    pruner: Host,
    writer: Host,
    old_caches: Vec<TempDir>,
    trees: BTreeMap<SnapshotId, Tree>,
    forgotten: BTreeSet<SnapshotId>,
    done: Vec<&'static str>,
}

impl Schedule<'_> {
    fn step(&mut self, n: u64) {
        let step = match self.random.below(16) {
            0..4 => "backup",
            4..6 => "backup of the other",
            6..8 => "forget",
            8..10 => "prune",
            10 => "remove",
            11 => "keep the cache",
            12 => "take the old cache",
            13 => "harm the cache",
            14 => "reopen",
            _ => "wait",
        };
        self.done.push(step);
        match step {
            "backup" => self.back_up(n, true),
            "backup of the other" => self.back_up(n, false),
            "forget" => {
                let known: Vec<_> =
                    self.trees.keys().filter(|id| !self.forgotten.contains(id)).copied().collect();
                if let Some(id) = known.get(self.random.below(known.len().max(1) as u64) as usize) {
                    self.forgotten.insert(*id);
                    let options = forget::ForgetOptions { even_last: true, even_many: true };
                    let what = forget::ToForget::Snapshots([*id].into());
                    forget::forget(&self.pruner.repo, &what, "", options, &self.lab.cx).unwrap();
                }
            }
            "prune" | "remove" => self.clean(step == "prune"),
            "keep the cache" => {
                let kept = tempfile::tempdir().unwrap();
                copy(self.writer.cache.path(), kept.path());
                self.old_caches.push(kept);
            }
            "take the old cache" => {
                if let Some(old) =
                    self.old_caches.get(self.random.below(self.old_caches.len().max(1) as u64) as usize)
                {
                    let cache = tempfile::tempdir().unwrap();
                    copy(old.path(), cache.path());
                    self.writer.cache = cache;
                    self.writer.reopen(&self.lab);
                }
            }
            "harm the cache" => {
                harm(self.writer.cache.path(), &self.random);
                self.writer.reopen(&self.lab);
            }
            "reopen" => self.writer.reopen(&self.lab),
            _ => self.lab.cx.clock.advance(Duration::from_secs(self.random.below(30 * 86_400))),
        }
    }

    fn back_up(&mut self, n: u64, by_writer: bool) {
        let tree = tree(n, self.random.below(3));
        let host = if by_writer { &self.writer } else { &self.pruner };
        match backup(&host.repo, &tree, Cut::Files, None) {
            Ok(committed) => {
                self.trees.insert(committed.snapshots[0], tree);
                self.counts.backups.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert!(is_a_clean_end(&error), "{error:?}");
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                // As a new run would.
                self.writer.reopen(&self.lab);
            }
        }
    }

    /// Prunes or removes, and dies in the middle every third time.
    fn clean(&mut self, prunes: bool) {
        let dies = self.random.once_in(3);
        if dies {
            self.lab.faulty.go_away_at(1 + self.random.below(25) as usize);
        }
        let options = if self.random.once_in(2) { eager() } else { greedy() };
        let ended = match prunes {
            true => prune(&self.pruner.repo, &options, &self.lab.cx).map(drop),
            false => remove_doomed(&self.pruner.repo, &self.lab.cx).map(drop),
        };
        self.lab.faulty.heal();
        self.counts.prunes.fetch_add(1, Ordering::Relaxed);
        if ended.is_err() {
            assert!(dies, "{ended:?}");
            self.counts.deaths.fetch_add(1, Ordering::Relaxed);
            self.pruner.reopen(&self.lab);
        }
    }
}

#[test]
fn what_a_host_with_stale_caches_acknowledges_is_whole() {
    let n_schedules = if std::env::var_os("HIKAE_FULL").is_some() { 10_000 } else { 300 };
    let seed = Seed::draw();
    let template = Lab::new(seed.0);
    let process = template.open();
    let first: BTreeMap<_, _> = (0..3).map(|n| (process.backup(&tree(n, n)).unwrap(), tree(n, n))).collect();
    let (next, counts) = (AtomicUsize::new(0), Counts::default());
    let one = |number: u64| {
        let random = TestRandom::new(Seed(seed.0.wrapping_add(number)));
        // Chance of its own: with that of the template it would draw the numbers of runs that are in the log.
        let lab = template.fork_in_time(Seed(seed.0.wrapping_sub(number + 1)), number.is_multiple_of(2));
        let pruner = Host::new(&lab, Arc::new(lab.faulty.clone()));
        let writer = Host::new(&lab, Arc::new(lab.memory.clone()));
        writer.repo.index().unwrap();
        let mut schedule = Schedule {
            lab,
            random,
            counts: &counts,
            pruner,
            writer,
            old_caches: Vec::new(),
            trees: first.clone(),
            forgotten: BTreeSet::new(),
            done: Vec::new(),
        };
        for n in 0..8 + schedule.random.below(12) {
            schedule.step(10 + n);
        }
        let listed = schedule.lab.check();
        for (id, tree) in &schedule.trees {
            let is_right = listed.get(id) == Some(tree) || schedule.forgotten.contains(id);
            assert!(is_right, "schedule {number}: {} is lost after {:?}", id.short(), schedule.done);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= n_schedules {
                        return;
                    }
                    if number % 500 == 499 {
                        println!("schedule {} of {n_schedules}", number + 1);
                    }
                    one(number as u64);
                }
            });
        }
    });
    println!(
        "{n_schedules} schedules: {} backups, {} refused, {} prunes and removals, {} of them died, nothing dangles",
        counts.backups.into_inner(),
        counts.refused.into_inner(),
        counts.prunes.into_inner(),
        counts.deaths.into_inner(),
    );
}
