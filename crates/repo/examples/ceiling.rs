//! The pipeline alone: how fast the files of a folder could be read, chunked, hashed, known again, compressed, sealed,
//! opened again and written on all cores, without a listing, an index, a log or an order.
//!
//! `cargo run --release -p hikae-repo --example ceiling -- DIR` prints the time of each stage, summed over the
//! threads. `bench/run` sets the whole program beside the others.

use hikae_model::{BlobId, SessionId};
use hikae_repo::chunk::{Chunker, FILES};
use hikae_repo::frame::{FrameBlob, FrameCoder, OpenFrame, TARGET_BYTES};
use hikae_repo::keys::{BlobClass, MetadataKeys, RepositorySecret, Secret32};
use hikae_repo::pack;
use hikae_repo::writer::LEVEL_FILES;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Stages {
    read: Duration,
    chunk: Duration,
    name: Duration,
    seal: Duration,
    write: Duration,
    read_bytes: u64,
    stored_bytes: u64,
}

struct Thread<'a> {
    keys: &'a MetadataKeys,
    known: &'a Mutex<HashSet<BlobId>>,
    chunker: Chunker,
    coder: FrameCoder,
    frame: OpenFrame,
    content: Vec<u8>,
    stored: Vec<u8>,
    pack: Vec<u8>,
    out: File,
    stages: Stages,
    number: u32,
}

fn main() {
    let directory = std::env::args_os().nth(1).expect("name a folder");
    let mut files = Vec::new();
    list(Path::new(&directory), &mut files);
    let keys = RepositorySecret::new([1; 32]).metadata_keys();
    let (next, known) = (AtomicUsize::new(0), Mutex::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = now();
    let stages: Vec<Stages> = std::thread::scope(|scope| {
        let work = || {
            let mut thread = Thread::new(&keys, &known);
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                thread.take(file);
            }
            thread.finish()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread failed")).collect()
    });
    let wall = began.elapsed().as_secs_f64();
    let sum = |part: fn(&Stages) -> Duration| stages.iter().map(part).sum::<Duration>().as_secs_f64();
    let bytes = stages.iter().map(|stages| stages.read_bytes).sum::<u64>() as f64;
    let stored = stages.iter().map(|stages| stages.stored_bytes).sum::<u64>() as f64;
    println!("{threads} threads, {:.0} MB read, {:.0} MB stored, {wall:.2} s", bytes / 1e6, stored / 1e6);
    for (stage, seconds) in [
        ("read", sum(|s| s.read)),
        ("chunk", sum(|s| s.chunk)),
        ("name (BLAKE3)", sum(|s| s.name)),
        ("compress, seal, open, compare", sum(|s| s.seal)),
        ("write", sum(|s| s.write)),
    ] {
        println!("{stage:30} {seconds:7.2} s {:8.0} MB/s", bytes / 1e6 / seconds);
    }
}

impl<'a> Thread<'a> {
    fn new(keys: &'a MetadataKeys, known: &'a Mutex<HashSet<BlobId>>) -> Self {
        let frame =
            OpenFrame { class: BlobClass::Content, level: LEVEL_FILES, plain: Vec::new(), blobs: Vec::new() };
        Self {
            keys,
            known,
            chunker: Chunker::new(keys, FILES),
            coder: FrameCoder::new(keys.family()).expect("there is memory"),
            frame,
            content: Vec::new(),
            stored: Vec::new(),
            pack: Vec::with_capacity(pack::TARGET_BYTES),
            out: tempfile::tempfile().expect("a temporary file can be made"),
            stages: Stages::default(),
            number: 0,
        }
    }

    fn take(&mut self, file: &Path) {
        let began = now();
        let mut content = std::mem::take(&mut self.content);
        content.clear();
        // What cannot be read costs nothing here.
        let _ = File::open(file).and_then(|mut file| file.read_to_end(&mut content));
        self.stages.read += began.elapsed();
        self.stages.read_bytes += content.len() as u64;
        let mut rest = content.as_slice();
        while !rest.is_empty() {
            let began = now();
            let (chunk, after) = rest.split_at(self.chunker.cut(rest));
            self.stages.chunk += began.elapsed();
            let began = now();
            let id = self.keys.blob_id(BlobClass::Content, chunk);
            let is_new = self.known.lock().expect("no thread has failed").insert(id);
            self.stages.name += began.elapsed();
            rest = after;
            if !is_new {
                continue;
            }
            if !self.frame.blobs.is_empty() && self.frame.plain.len() + chunk.len() > TARGET_BYTES {
                self.seal();
            }
            self.frame.plain.extend_from_slice(chunk);
            self.frame.blobs.push(FrameBlob { id, bytes: chunk.len() as u32 });
        }
        self.content = content;
    }

    fn seal(&mut self) {
        let began = now();
        let key = Secret32::new([2; 32]);
        let session = SessionId::from_bytes([3; 16]);
        let stored = std::mem::take(&mut self.stored);
        let sealed = self.coder.seal(&self.frame, session, self.number, &key, self.keys, stored);
        let (_, stored) = sealed.expect("what was sealed comes back");
        self.number += 1;
        self.frame.plain.clear();
        self.frame.blobs.clear();
        self.pack.extend_from_slice(&stored);
        self.stored = stored;
        self.stages.seal += began.elapsed();
        if self.pack.len() >= pack::TARGET_BYTES {
            self.write();
        }
    }

    fn write(&mut self) {
        let began = now();
        self.out.write_all(&self.pack).expect("the disk takes a pack");
        self.out.sync_all().expect("the disk keeps a pack");
        self.stages.stored_bytes += self.pack.len() as u64;
        self.pack.clear();
        self.stages.write += began.elapsed();
    }

    fn finish(mut self) -> Stages {
        if !self.frame.blobs.is_empty() {
            self.seal();
        }
        self.write();
        self.stages
    }
}

fn list(path: &Path, files: &mut Vec<PathBuf>) {
    let Ok(seen) = fs::symlink_metadata(path) else { return };
    if seen.is_file() {
        files.push(path.to_owned());
    } else if seen.is_dir() {
        let names = fs::read_dir(path).into_iter().flatten().flatten();
        names.for_each(|entry| list(&entry.path(), files));
    }
}

/// A program that measures may ask the time itself.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
