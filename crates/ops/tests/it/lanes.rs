//! A source that is read on several lanes.

use crate::world::{World, named};
use hikae_model::{
    Attributes, ContentError, Cut, Cx, Entry, EntryKind, FileTime, HashKey, Outcome, Problem, ReadContent,
    Stretch, TreePath,
};
use hikae_source::{Content, Finished, Item, Reading, Source, SourceError};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const N_FILES: usize = 5_000;

/// Files `00000` to `04999`, of which the first does not come to its end before all others were read; and further
/// names of the first and the second.
struct SlowFirst {
    first_is_lost: bool,
}

#[derive(Default)]
struct Others {
    n_read: Mutex<usize>,
    advanced: Condvar,
}

struct Slow {
    others: Arc<Others>,
    next: usize,
    first_is_lost: bool,
}

struct One {
    n: usize,
    is_lost: bool,
    others: Arc<Others>,
    left: bool,
}

impl Source for SlowFirst {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn check(&self, _: &Cx) -> Result<Vec<Problem>, SourceError> {
        Ok(Vec::new())
    }

    fn begin(&self, _: HashKey, _: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        Ok(Box::new(Slow { others: Arc::default(), next: 0, first_is_lost: self.first_is_lost }))
    }
}

impl Reading for Slow {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let n = self.next;
        self.next += 1;
        let name = |n: usize| TreePath::parse(format!("{n:05}").as_bytes()).unwrap();
        let (kind, content) = match n {
            0..N_FILES => {
                let is_lost = n == 0 && self.first_is_lost;
                let reader = Box::new(One { n, is_lost, others: self.others.clone(), left: true });
                // The first is too large to share a stretch with others.
                let size = if n == 0 { 100 << 20 } else { 5 };
                (EntryKind::File { size }, Some(Content { cut: Cut::Files, reader }))
            }
            _ if n < N_FILES + 2 => (EntryKind::HardLink { to: name(n - N_FILES) }, None),
            _ => return Ok(None),
        };
        let zero = FileTime { seconds: 0, nanoseconds: 0 };
        let attributes = Attributes {
            mode: 0o600,
            uid: 0,
            gid: 0,
            modified: zero,
            changed: zero,
            inode: n as u64,
            xattrs: Vec::new(),
        };
        Ok(Some(Item { entry: Entry { path: name(n), kind, attributes }, content }))
    }

    fn lanes(&self) -> usize {
        3
    }

    fn finish(self: Box<Self>) -> Result<Finished, SourceError> {
        Ok(Finished {
            moment: jiff::Timestamp::UNIX_EPOCH,
            problems: Vec::new(),
            notes: Vec::new(),
            manifest: None,
        })
    }
}

impl ReadContent for One {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let mut n_read = self.others.n_read.lock().unwrap();
        if self.n == 0 {
            while *n_read < N_FILES - 1 {
                let (guard, waited) =
                    self.others.advanced.wait_timeout(n_read, Duration::from_secs(60)).unwrap();
                assert!(!waited.timed_out(), "the others wait for the first");
                n_read = guard;
            }
        } else if self.left {
            *n_read += 1;
            self.others.advanced.notify_all();
        }
        if self.is_lost {
            return Err(ContentError::Vanished);
        }
        if !std::mem::take(&mut self.left) {
            return Ok(Stretch::End);
        }
        buffer[..5].copy_from_slice(format!("{:05}", self.n).as_bytes());
        Ok(Stretch::Data(5))
    }

    fn finish(&mut self) -> Result<(), ContentError> {
        Ok(())
    }
}

fn back_up(first_is_lost: bool) -> (hikae_ops::report::SnapshotReport, Vec<(String, u64)>) {
    let world = World::new();
    let report = world.backup(&[named("slow", SlowFirst { first_is_lost })]).unwrap().snapshots.remove(0);
    let repo = world.open_afresh();
    let snapshot = repo.snapshot(report.id.unwrap()).unwrap();
    let named = hikae_repo::reach::Named { id: snapshot.id, record: &snapshot.record };
    let reader = hikae_repo::reader::BlobReader::new(&repo).unwrap();
    let mut entries = hikae_repo::reach::Entries::of(reader, named, None).unwrap();
    let mut listed = Vec::new();
    while let Some(stored) = entries.next_entry().unwrap() {
        listed.push((stored.entry.path.to_string(), stored.entry.size()));
    }
    (report, listed)
}

#[test]
fn a_slow_file_holds_no_other_up_and_the_listing_is_in_path_order() {
    let (report, listed) = back_up(false);
    assert_eq!(report.outcome, Outcome::Complete);
    assert_eq!(report.read_bytes, 5 * N_FILES as u64);
    let size = |n| if n < N_FILES { 5 } else { 0 };
    assert_eq!(listed, Vec::from_iter((0..N_FILES + 2).map(|n| (format!("{n:05}"), size(n)))));
}

#[test]
fn a_further_name_of_a_file_that_could_not_be_read_is_a_problem_though_it_was_listed_long_before() {
    let (report, listed) = back_up(true);
    assert_eq!(report.outcome, Outcome::WithProblems);
    let on: Vec<_> = report.problems.iter().map(|problem| (&*problem.code, &*problem.on)).collect();
    assert_eq!(on, [("vanished", "00000"), ("unreadable", "05000")]);
    assert_eq!(listed.len(), N_FILES);
}
