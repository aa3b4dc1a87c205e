//! Files that are written to while a backup reads them.
//!
//! Keeps E-1.

use crate::files::noise;
use crate::world::{World, named};
use hikae_model::{ContentError, Cx, HashKey, Outcome, Problem, ReadContent, Stretch};
use hikae_ops::report::BackupReport;
use hikae_ops::restore::restore_files;
use hikae_source::files::{FilesSettings, FilesSource, Target};
use hikae_source::{Content, Finished, Item, Reading, Source, SourceError};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Done to a file each time that a megabyte of it was read, with the number of that time.
type Harm = Arc<dyn Fn(&Path, u32) + Send + Sync>;

/// A source of one folder in whose files somebody writes while they are read.
struct Busy {
    source: FilesSource,
    harm: Harm,
}

struct BusyReading {
    reading: Box<dyn Reading>,
    harm: Harm,
}

struct BusyContent {
    content: Box<dyn ReadContent>,
    path: PathBuf,
    n: AtomicU32,
    harm: Harm,
}

impl Source for Busy {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn check(&self, cx: &Cx) -> Result<Vec<Problem>, SourceError> {
        self.source.check(cx)
    }

    fn begin(&self, key: HashKey, cx: &Cx) -> Result<Box<dyn Reading>, SourceError> {
        Ok(Box::new(BusyReading { reading: self.source.begin(key, cx)?, harm: self.harm.clone() }))
    }
}

impl Reading for BusyReading {
    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        let Some(Item { entry, content }) = self.reading.next()? else { return Ok(None) };
        let path = PathBuf::from(format!("/{}", entry.path));
        let content = content.map(|Content { cut, reader }| {
            let n = AtomicU32::new(0);
            Content {
                cut,
                reader: Box::new(BusyContent { content: reader, path, n, harm: self.harm.clone() }),
            }
        });
        Ok(Some(Item { entry, content }))
    }

    fn finish(self: Box<Self>) -> Result<Finished, SourceError> {
        self.reading.finish()
    }
}

impl ReadContent for BusyContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let stretch = self.content.read(buffer)?;
        if matches!(stretch, Stretch::Data(_)) {
            (self.harm)(&self.path, self.n.fetch_add(1, Ordering::Relaxed));
        }
        Ok(stretch)
    }

    fn finish(&mut self) -> Result<(), ContentError> {
        self.content.finish()
    }

    fn read_again(&mut self) -> bool {
        self.content.read_again()
    }
}

const BYTES: usize = 5_000_000;

/// Backs up a folder with one file of 5 MB while `harm` is done to it. Gives the file as it was and as it is restored,
/// and what a further backup, when all is quiet, says.
fn back_up_while(
    harm: impl Fn(&Path, u32) + Send + Sync + 'static,
) -> (BackupReport, Vec<u8>, Vec<u8>, BackupReport) {
    let world = World::new();
    let folder = world.path("source");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("access.log");
    let before = noise(1, BYTES);
    fs::write(&file, &before).unwrap();
    let settings = FilesSettings { include: vec![folder.as_path().into()], ..FilesSettings::default() };
    let busy = Busy { source: FilesSource::new(settings).unwrap(), harm: Arc::new(harm) };
    let report = world.backup(&[named("files", busy)]).unwrap();
    let target = Target::into_new(&world.path("out"), &world.cx).unwrap();
    restore_files(&world.repo, report.snapshots[0].id.unwrap(), &[], target, &world.cx).unwrap();
    let restored = fs::read(world.path("out").join(file.strip_prefix("/").unwrap())).unwrap();
    let (_, quiet) = world.backup_files(&folder);
    assert_eq!(quiet.outcome, Outcome::Complete);
    (report, before, restored, quiet)
}

fn append(path: &Path) {
    File::options().append(true).open(path).unwrap().write_all(b"one more line\n").unwrap();
}

#[test]
fn a_log_that_grows_all_the_time_is_kept_as_it_was_at_one_moment() {
    let (report, before, restored, quiet) = back_up_while(|path, _| append(path));
    let snapshot = &report.snapshots[0];
    assert_eq!(snapshot.outcome, Outcome::Complete, "{:?}", snapshot.problems);
    assert!(restored == before, "{} bytes came back", restored.len());
    assert_eq!(snapshot.notes.len(), 1);
    assert_eq!(snapshot.notes[0].code, "written-while-read");
    // It was read twice, and stored once.
    assert_eq!((snapshot.bytes, snapshot.read_bytes), (BYTES as u64, 2 * BYTES as u64));
    assert!(snapshot.added_bytes < 6_000_000, "{}", snapshot.added_bytes);
    assert!(quiet.snapshots[0].read_bytes > BYTES as u64, "the rest comes with the next run");
}

#[test]
fn a_file_that_is_written_to_once_is_read_again() {
    let rewrite = |path: &Path, n| {
        if n == 2 {
            File::options().write(true).open(path).unwrap().write_all_at(b"XYZ", 100).unwrap();
        }
    };
    let (report, before, restored, _) = back_up_while(rewrite);
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.snapshots[0].problems);
    assert!(report.snapshots[0].notes.is_empty());
    assert!(restored[100..103] == *b"XYZ" && restored[103..] == before[103..]);
}

#[test]
fn a_file_that_is_rewritten_while_it_is_read_is_kept_and_in_doubt() {
    // In place; and while it grows, which a look at its size would take for a log.
    for grows in [false, true] {
        let rewrite = move |path: &Path, n: u32| {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(&n.to_le_bytes(), 100).unwrap();
            if grows {
                append(path);
            }
        };
        let (report, before, restored, quiet) = back_up_while(rewrite);
        let snapshot = &report.snapshots[0];
        let torn = restored[..100] == before[..100] && restored[104..] == before[104..];
        assert!(torn && restored.len() == BYTES, "what was read is kept");
        assert_eq!(snapshot.outcome, Outcome::WithProblems, "nobody can say that it is one state");
        assert_eq!(snapshot.problems[0].code, "changed-while-read");
        assert!(snapshot.problems[0].on.ends_with("access.log"));
        assert!(quiet.snapshots[0].read_bytes >= BYTES as u64, "it is read anew, whatever its times say");
    }
}

#[test]
fn a_file_that_goes_away_while_it_is_rewritten_is_kept_and_in_doubt() {
    let away = |path: &Path, n| match n {
        1 => append(path),
        // At the end of the first reading, before the second.
        4 => fs::rename(path, path.with_extension("1")).unwrap(),
        _ => {}
    };
    let (report, before, restored, _) = back_up_while(away);
    assert_eq!(report.outcome, Outcome::WithProblems);
    assert!(restored == before);
}

/// Keeps MK-14.
#[test]
fn a_file_that_must_be_json_and_is_not_is_kept_and_named_until_it_is() {
    let world = World::new();
    let folder = world.path("source");
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, content: &str| fs::write(folder.join(name), content).unwrap();
    write("good.json", "{\"a\": [1, 2]}\n");
    write("torn.json", "{\"a\": [1, ");
    write("empty.json", "");
    write("notes.txt", "{ no JSON, and nobody says so");
    let settings = FilesSettings {
        include: vec![folder.as_path().into()],
        parse_json: vec!["*.json".to_owned()],
        ..FilesSettings::default()
    };
    let back_up = || {
        let source = FilesSource::new(settings.clone()).unwrap();
        world.backup(&[named("files", source)]).unwrap().snapshots.remove(0)
    };
    // An unchanged file that is broken is still broken.
    for _ in 0..2 {
        let snapshot = back_up();
        assert_eq!(snapshot.outcome, Outcome::WithProblems);
        let named: Vec<_> = snapshot.problems.iter().map(|problem| (&*problem.code, &*problem.on)).collect();
        assert!(named.iter().all(|(code, _)| *code == "malformed") && named.len() == 2, "{named:?}");
        assert!(named[0].1.ends_with("empty.json") && named[1].1.ends_with("torn.json"), "{named:?}");
        let out = tempfile::tempdir().unwrap();
        let target = Target::into_new(&out.path().join("out"), &world.cx).unwrap();
        restore_files(&world.repo, snapshot.id.unwrap(), &[], target, &world.cx).unwrap();
        let torn = out.path().join("out").join(folder.strip_prefix("/").unwrap()).join("torn.json");
        assert_eq!(fs::read_to_string(torn).unwrap(), "{\"a\": [1, ", "its bytes are kept");
    }
    write("torn.json", "{\"a\": [1, 2]}");
    write("empty.json", "[]");
    assert_eq!(back_up().outcome, Outcome::Complete);
}
