//! Time and memory of prune on many blobs.
//!
//! ```text
//! cargo run --release -p hikae-repo --example prune_figures -- make  DIR 1000000
//! cargo run --release -p hikae-repo --example prune_figures -- prune DIR
//! ```
//!
//! `make` backs up so many files of 200 bytes, then the same with every tenth changed, and forgets the first
//! snapshot. `prune` is a process of its own, so that its peak memory is prune's.

use hikae_model::{
    Attributes, ContentError, Cut, Cx, Entry, EntryKind, ReadContent, RunId, SnapshotId, Stretch, TreePath,
};
use hikae_repo::content::ContentWriter;
use hikae_repo::forget::{ForgetOptions, ToForget, forget};
use hikae_repo::keys::Secret32;
use hikae_repo::listing::{ListingWriter, StoredEntry};
use hikae_repo::prune::{PruneOptions, plan, prune};
use hikae_repo::slot::{Unlock, Wrap};
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::writer::{LEVEL_FILES, Writer};
use hikae_repo::{InitOptions, Repo};
use hikae_store::{DirectoryStore, Reserve};
use hikae_testkit::{Seed, TestRandom};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cx = hikae_testkit::system_cx();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", directory, n_files] => make(Path::new(directory), n_files.parse()?, &cx),
        ["prune", directory] => measure(Path::new(directory), &cx),
        _ => Err("usage: prune_figures make DIR N | prune DIR".into()),
    }
}

fn make(directory: &Path, n_files: u64, cx: &Cx) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    let key = Secret32::new([42; 32]);
    let options = InitOptions::opened_by(Wrap::KeyFile(&key));
    let random = Arc::new(TestRandom::new(Seed(1)));
    let store = Arc::new(DirectoryStore::create(&directory.join("store"), Reserve::default(), random)?);
    let repo = Arc::new(Repo::init(store, &options, &directory.join("cache"), cx)?.repo);
    let first = backup(&repo, n_files, 0)?;
    backup(&repo, n_files, 1)?;
    let told = ForgetOptions { even_last: true, even_many: true };
    forget(&repo, &ToForget::Snapshots([first].into()), "to have garbage", told, cx)?;
    Ok(())
}

fn measure(directory: &Path, cx: &Cx) -> Result<(), Box<dyn Error>> {
    let unlock = Unlock::KeyFile(Secret32::new([42; 32]));
    let random = Arc::new(TestRandom::new(Seed(2)));
    let store = Arc::new(DirectoryStore::open(&directory.join("store"), Reserve::default(), random)?);
    let repo = Repo::open(store, unlock, Vec::new(), &directory.join("cache"), cx)?;
    let options = PruneOptions { max_unused_percent: 0, ..PruneOptions::default() };
    let started = cx.elapsed();
    let dry = plan(&repo, &options, cx)?;
    println!("{dry}plan: {:?}, peak memory {}", cx.elapsed() - started, peak_memory()?);
    let started = cx.elapsed();
    let report = prune(&repo, &options, cx)?;
    let (n_packs, n_indexes) = (report.n_packs_written, report.n_indexes_written);
    println!(
        "prune, which plans again: {:?}, {n_packs} packs and {n_indexes} index objects written",
        cx.elapsed() - started
    );
    println!("peak memory {}", peak_memory()?);
    Ok(())
}

/// `VmHWM` of proc(5).
fn peak_memory() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.ok_or("no VmHWM")?.trim().to_owned())
}

fn backup(repo: &Arc<Repo>, n_files: u64, generation: u64) -> Result<SnapshotId, Box<dyn Error>> {
    let run = RunId::from_bytes(repo.cx().random());
    let writer = Writer::begin(repo, run, 90)?;
    let started = repo.cx().now();
    let mut contents = ContentWriter::new(writer.lane(LEVEL_FILES, Arc::default()));
    let mut listing = ListingWriter::default();
    for n in 0..n_files {
        let version = if n % 10 == 0 { generation } else { 0 };
        let mut bytes = vec![0; 200];
        let mut hasher = blake3::Hasher::new_derive_key("files for figures of prune");
        hasher.update(&n.to_le_bytes()).update(&version.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let kept = contents.store(Cut::Files, &mut Held(bytes, 0), None)?;
        let path = TreePath::parse(format!("{:05}/{n:09}", n / 1000).as_str())?;
        let entry =
            Entry { path, kind: EntryKind::File { size: kept.bytes }, attributes: Attributes::default() };
        listing.push(&StoredEntry { entry, content: kept.content, hash: kept.hash }, contents.lane())?;
    }
    let listing = listing.finish(contents.lane())?;
    contents.finish()?;
    writer.settle()?;
    let record = SnapshotRecord {
        source: "files".to_owned(),
        kind: "files".to_owned(),
        run,
        moment: started,
        started,
        finished: repo.cx().now(),
        host: "here".to_owned(),
        purpose: "manual".to_owned(),
        description: None,
        complete: true,
        n_problems: 0,
        problems: None,
        listing: listing.directory,
        entries: listing.entries,
        bytes: n_files * 200,
        read_bytes: n_files * 200,
        added_bytes: 0,
        manifest: None,
        parent: None,
        release: hikae_repo::RELEASE.to_owned(),
        nonce: [0; 16],
    };
    Ok(writer.commit(&[record])?.snapshots[0])
}

struct Held(Vec<u8>, usize);

impl ReadContent for Held {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let n = (self.0.len() - self.1).min(buffer.len());
        buffer[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
        self.1 += n;
        Ok(if n == 0 { Stretch::End } else { Stretch::Data(n) })
    }
}
