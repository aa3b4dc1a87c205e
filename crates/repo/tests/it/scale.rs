//! Bounded memory (H-4): an index of very many blobs, made without their content, and what a backup and a restore beside
//! it take. Each runs in a process of its own, this binary once more, so that its peak is its own.
//!
//! `HIKAE_FULL=1` makes 50 million blobs, or as many as `HIKAE_BLOBS` says: twice 44 bytes of disk for each, and a
//! release build.

use crate::small::open;
use crate::world::{KEY, Tree, backup, noise, restore_file};
use hikae_model::{BlobId, Cut, IndexId, PackId};
use hikae_repo::frame::FrameBlob;
use hikae_repo::index::{IndexBuilder, IndexedPack, TARGET_BLOBS};
use hikae_repo::keys::Secret32;
use hikae_repo::log::{Change, Commit};
use hikae_repo::object::{ObjectClass, seal_object};
use hikae_repo::slot::Wrap;
use hikae_repo::writer::{LEVEL_FILES, Writer};
use hikae_repo::{InitOptions, Repo, layout};
use hikae_store::{DirectoryStore, Reserve};
use hikae_testkit::system_cx;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// What the process is to do, and where.
const ROLE: &str = "HIKAE_SCALE_ROLE";
const PLACE: &str = "HIKAE_SCALE_PLACE";
const BLOBS_OF_A_PACK: usize = 512;
const BLOBS_OF_A_FRAME: usize = 8;

fn store(root: &Path) -> DirectoryStore {
    DirectoryStore::open(&root.join("repo"), Reserve::Bytes(0), system_cx().random_source()).unwrap()
}

/// The name of a blob that nobody ever stored.
fn name(number: u64) -> [u8; 32] {
    *noise(number, 32).first_chunk().unwrap()
}

/// Adds index objects with so many blobs in all.
fn add_blobs(repo: &Arc<Repo>, n_blobs: u64) {
    let index = repo.index().unwrap();
    let segment = index.segments().next().unwrap().clone();
    let mut model = None;
    segment
        .each_pack(&mut |_, frames| {
            model = model.take().or_else(|| frames.into_iter().next());
            Ok(())
        })
        .unwrap();
    let model = model.unwrap();
    let mut number = 0;
    let mut indexes = Vec::new();
    while number < n_blobs {
        let mut builder = IndexBuilder::default();
        for _ in 0..TARGET_BLOBS / BLOBS_OF_A_PACK {
            let pack = IndexedPack { id: PackId::from_bytes(name(u64::MAX - number)), bytes: 64 << 20 };
            let frames = (0..BLOBS_OF_A_PACK / BLOBS_OF_A_FRAME).map(|at| {
                let mut frame = model.clone();
                frame.offset = (at << 10) as u32;
                frame.blobs = (0..BLOBS_OF_A_FRAME)
                    .map(|_| {
                        number += 1;
                        FrameBlob { id: BlobId::from_bytes(name(number)), bytes: 1 << 17 }
                    })
                    .collect();
                frame
            });
            builder.add(pack, frames.collect(), segment.sessions(), segment.epochs());
        }
        let body = builder.to_bytes(repo.cx().random());
        let stored = seal_object(ObjectClass::Index, b"", body, repo.keys(), repo.signer());
        let id = IndexId::from_bytes(*blake3::hash(&stored).as_bytes());
        repo.store().put(&layout::index(id), &stored).unwrap();
        indexes.push(id);
        if indexes.len() % 50 == 0 {
            println!("{number} of {n_blobs} blobs indexed");
        }
    }
    for indexes in indexes.chunks(1000) {
        let commit = Commit { snapshots: Vec::new(), indexes: indexes.to_vec() };
        repo.append(&mut |_| Ok(Change::Commit(commit.clone()))).unwrap();
    }
}

/// From proc(5), in MiB.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().unwrap() / 1024.0
}

fn big_tree() -> Tree {
    (0..8).map(|n| (format!("file-{n}"), noise(n, 4 << 20))).collect()
}

/// What a process of its own does.
fn act(role: &str, root: &Path) {
    let tree = big_tree();
    let before = memory("VmRSS:");
    let repo = open(store(root), &root.join(format!("cache-of-{role}"))).unwrap();
    let n_blobs = repo.index().unwrap().n_blobs();
    println!(
        "FIGURE {} bytes a blob once open, of {n_blobs}",
        (memory("VmRSS:") - before) * 1048576.0 / n_blobs as f64
    );
    match role {
        "backup" => {
            let writer =
                Writer::begin(&repo, hikae_model::RunId::from_bytes(repo.cx().random()), 90).unwrap();
            let lane = writer.lane(LEVEL_FILES, Arc::default());
            for number in 0..2000 {
                let known =
                    lane.is_known(BlobId::from_bytes(name(1 + number * 37 % n_blobs.min(100_000)))).unwrap();
                assert!(known, "blob {number} is not found");
                assert!(!lane.is_known(BlobId::from_bytes(name(1 << 60 | number))).unwrap());
            }
            drop((lane, writer));
            backup(&repo, &tree, Cut::Files, None).unwrap();
        }
        _ => {
            // File by file: all of them at once would be the test's memory, not the restore's.
            for id in repo.state().snapshots.keys() {
                if repo.snapshot(*id).unwrap().record.entries == tree.len() as u64 {
                    tree.iter().for_each(|(path, content)| {
                        assert!(restore_file(&repo, *id, path).unwrap() == *content)
                    });
                }
            }
        }
    }
    println!("FIGURE peak {} MiB, of which {before} MiB are the test's", memory("VmHWM:"));
}

#[test]
fn memory_stays_bounded_beside_an_index_of_any_size() {
    if let (Ok(role), Some(root)) = (std::env::var(ROLE), std::env::var_os(PLACE)) {
        return act(&role, Path::new(&root));
    }
    let full = std::env::var_os("HIKAE_FULL").is_some();
    let asked = std::env::var("HIKAE_BLOBS").ok().and_then(|n| n.parse().ok());
    let n_blobs = asked.unwrap_or(if full { 50_000_000 } else { 200_000_u64 });
    let root = tempfile::tempdir().unwrap();
    let cx = system_cx();
    let made =
        DirectoryStore::create(&root.path().join("repo"), Reserve::Bytes(0), cx.random_source()).unwrap();
    let key = Secret32::new(KEY);
    let options = InitOptions::opened_by(Wrap::KeyFile(&key));
    let cache = tempfile::tempdir_in(root.path()).unwrap();
    let repo = Arc::new(Repo::init(Arc::new(made), &options, cache.path(), &cx).unwrap().repo);
    let small = Tree::from([("small".to_owned(), noise(1, 3000))]);
    backup(&repo, &small, Cut::Files, None).unwrap();
    add_blobs(&repo, n_blobs);
    drop(repo);
    for (role, limit) in [("backup", 200.0), ("restore", 100.0)] {
        let test = "scale::memory_stays_bounded_beside_an_index_of_any_size";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ran =
            child.args(["--exact", test, "--nocapture"]).env(ROLE, role).env(PLACE, root.path()).output();
        let ran = ran.unwrap();
        let text = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{role}: {text}{}", String::from_utf8_lossy(&ran.stderr));
        let figures: Vec<_> =
            text.lines().filter_map(|line| line.split_once("FIGURE ")).map(|line| line.1).collect();
        println!("{n_blobs} blobs, {role}: {}", figures.join("; "));
        let peak = figures[1].split(' ').nth(1).and_then(|peak| peak.parse::<f64>().ok()).unwrap();
        let own = figures[1].split(' ').nth(5).and_then(|own| own.parse::<f64>().ok()).unwrap();
        assert!(peak - own <= limit, "{role} takes {} MiB", peak - own);
    }
}
