//! Keys leave memory when they are done with (I-7).
//!
//! The test looks through its own memory by `/proc/self/mem`. It keeps what it looks for masked, so that it does not
//! find itself.

use crate::world::{Tree, World};
use hikae_model::Cut;
use hikae_repo::keys::Secret32;
use hikae_repo::slot::Wrap;
use hikae_repo::{InitOptions, Repo};
use hikae_store::MemoryStore;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// A secret that this process can only recognise.
struct Masked {
    name: &'static str,
    mask: [u8; 32],
    masked: [u8; 32],
}

impl Masked {
    fn new(name: &'static str, mask: [u8; 32], secret: &[u8; 32]) -> Self {
        Self { name, mask, masked: std::array::from_fn(|at| mask[at] ^ secret[at]) }
    }

    #[inline]
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        (0..32).all(|n| bytes[at + n] ^ self.mask[n] == self.masked[n])
    }
}

/// How often each secret stands in what this process can write to.
fn copies_in_memory(secrets: &[Masked]) -> Vec<(&'static str, usize)> {
    const PART: usize = 1 << 20;
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found: Vec<_> = secrets.iter().map(|secret| (secret.name, 0)).collect();
    let mut by_first_byte = vec![Vec::new(); 256];
    for (n, secret) in secrets.iter().enumerate() {
        by_first_byte[usize::from(secret.mask[0] ^ secret.masked[0])].push(n);
    }
    let mut part = vec![0; PART + 31];
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split_ascii_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        // Where it is read to it is not to be found.
        let own = part.as_ptr() as u64..part.as_ptr() as u64 + part.len() as u64;
        for stretch in [start..end.min(own.start), start.max(own.end)..end] {
            for from in stretch.clone().step_by(PART) {
                let length = (PART as u64 + 31).min(stretch.end - from) as usize;
                // Another thread may have given it back meanwhile.
                let Ok(n) = memory.read_at(&mut part[..length], from) else { continue };
                for (at, byte) in part[..n].iter().enumerate() {
                    for secret in &by_first_byte[usize::from(*byte)] {
                        if at + 32 <= n && secrets[*secret].is_at(&part, at) {
                            found[*secret].1 += 1;
                        }
                    }
                }
            }
        }
    }
    found
}

/// Makes a repository, uses it, closes it. Gives what it held, and how often each of it was there while it was open.
fn use_a_repository() -> (Vec<Masked>, Vec<(&'static str, usize)>) {
    let cx = hikae_testkit::system_cx();
    let (store, cache) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    let key = Secret32::new(cx.random());
    let options = InitOptions::opened_by(Wrap::KeyFile(&key));
    let new = Repo::init(store.clone(), &options, cache.path(), &cx).unwrap();
    let keys = new.repo.keys().clone();
    let secrets = vec![
        Masked::new("key file", cx.random(), key.bytes()),
        Masked::new("repository secret", cx.random(), new.secret.bytes()),
        Masked::new("id root", cx.random(), keys.id_root().bytes()),
        Masked::new("metadata key", cx.random(), keys.newest_seal().1.bytes()),
        Masked::new("signing key", cx.random(), new.repo.signer().seed().bytes()),
    ];
    let world = World { store, key, cache, cx, repo: Arc::new(new.repo) };
    let tree = Tree::from([("a".to_owned(), vec![7; 100_000]), ("b".to_owned(), b"small".to_vec())]);
    let id = world.backup(&tree, Cut::Files).unwrap().snapshots[0];
    assert_eq!(crate::world::restore(&world.open().unwrap(), id).unwrap(), tree);
    let while_open = copies_in_memory(&secrets);
    (secrets, while_open)
}

/// Keeps I-7.
#[test]
fn no_key_stays_in_memory_when_its_repository_is_closed() {
    // On a stack that is gone afterwards, as that of a thread of the program is.
    let (secrets, while_open) = std::thread::spawn(use_a_repository).join().unwrap();
    for (name, n) in while_open {
        assert!(n > 0, "the {name} was not found while it was in use, so nothing was proved");
    }
    let left: Vec<_> = copies_in_memory(&secrets).into_iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(left, [], "keys and how often each was left in memory");
}
