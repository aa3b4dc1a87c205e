//! The repository: two days of two sources, a snapshot that was forgotten and pruned, writers, keys.

use crate::tree::{Item, database, everything, scratch};
use hikae_model::{IndexId, RunId, SegmentName, SegmentSize, SnapshotId, SystemId, Timeline, WriterId};
use hikae_repo::content::ContentWriter;
use hikae_repo::evidence::{CheckRecord, EvidenceRecord, PhaseRecord, put_evidence};
use hikae_repo::frame::FrameHead;
use hikae_repo::index::IndexBuilder;
use hikae_repo::keys::{BlobClass, Secret32, Signer};
use hikae_repo::layout;
use hikae_repo::listing::{ListingWriter, StoredEntry};
use hikae_repo::log::{
    Change, Commit, Damaged, Enrol, EpochRef, Forget, FrameName, IndexAdded, LogEntry, LogFloors, Prune,
    Removed, Rights, SlotRef, hash_of,
};
use hikae_repo::object::{ObjectClass, seal_object};
use hikae_repo::prune::{BundleOptions, bundle_log};
use hikae_repo::reach::Named;
use hikae_repo::reader::BlobReader;
use hikae_repo::recipient::{identity, identity_text};
use hikae_repo::slot::{self, KdfCost, Payload, Wrap};
use hikae_repo::snapshot::SnapshotRecord;
use hikae_repo::wal::{LogFloor, WalArchive};
use hikae_repo::writer::{LEVEL_DATABASE, LEVEL_FILES, Writer};
use hikae_repo::{InitOptions, Repo};
use hikae_store::{DirectoryStore, Reserve};
use hikae_testkit::{Seed, TestCx};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What opens it. None of these is used anywhere else.
const PASSPHRASE: &str = "kept in reserve, 控え";
const KEY_FILE: [u8; 32] = [0x42; 32];
const WRITER_KEY_FILE: [u8; 32] = [0x57; 32];
const IDENTITY: [u8; 32] = [0x1d; 32];
const LATER_IDENTITY: [u8; 32] = [0x1e; 32];

/// The cluster whose write-ahead log is kept.
const SYSTEM: SystemId = SystemId(7_412_345_678_901_234_567);

const DAY: Duration = Duration::from_secs(86_400);

struct World {
    cx: TestCx,
    repo: Arc<Repo>,
    snapshots: Vec<Value>,
    wal: Vec<Value>,
}

pub fn make(directory: &Path) {
    let cx = TestCx::new(Seed(1));
    let address = directory.join("repository-v1");
    let random = Arc::new(hikae_testkit::TestRandom::new(Seed(2)));
    let store = Arc::new(DirectoryStore::create(&address, Reserve::Usual, random).expect("a new store"));
    let cache = tempfile::tempdir().expect("a cache");
    let recipient = identity(&Secret32::new(IDENTITY)).to_public().to_string();
    let options = InitOptions {
        recipients: vec![recipient.clone()],
        without_first_identity: false,
        wrap: Wrap::Passphrase(PASSPHRASE, KdfCost::FLOOR),
        write_only: false,
        like: None,
    };
    let new = Repo::init(store, &options, cache.path(), &cx).expect("a new repository");
    let mut world = World { repo: Arc::new(new.repo), snapshots: Vec::new(), wal: Vec::new(), cx };

    world.add_keys(&recipient);
    let first = world.backup(&[("files", everything(1)), ("app-db", database(1))], &[], "there");
    world.archive("000000010000000000000001");
    world.cx.clock.advance(DAY);
    let scratch = world.backup(&[("scratch", scratch())], &[], "forgotten");
    world.cx.clock.advance(DAY);
    world.admit_a_recipient();
    let second = world.backup(&[("files", everything(2)), ("app-db", database(2))], &first, "there");
    world.wrap_again();
    for name in ["000000010000000000000002", "000000010000000000000002.00000028.backup", "00000002.history"] {
        world.archive(name);
    }
    world.forget(&scratch);
    world.prune(&scratch);
    world.let_log_go(&scratch);
    world.bundle();
    world.drill(second[1]);
    world.doubt_a_pack();
    world.add_void_entries(&second, &scratch);
    world.enrol_many();

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = json!({
        "keys": {
            "passphrase": PASSPHRASE,
            "key_file": hex(&KEY_FILE),
            "writer_key_file": hex(&WRITER_KEY_FILE),
            "recovery": hex(new.secret.bytes()),
            "identity": identity_text(&Secret32::new(IDENTITY)).as_str(),
            "later_identity": identity_text(&Secret32::new(LATER_IDENTITY)).as_str(),
        },
        "log_entries": world.repo.state().n,
        "void_entries": world.repo.state().void,
        "snapshots": world.snapshots,
        "wal": world.wal,
    });
    write_json(&directory.join("repository-v1.json"), &expected);
}

pub fn write_json(path: &Path, value: &Value) {
    let text = serde_json::to_string_pretty(value).expect("plain values") + "\n";
    std::fs::write(path, text).expect("written");
}

impl World {
    /// A key file's slot, a recipient's, and a writer's own that opens no content.
    fn add_keys(&self, recipient: &str) {
        let repo = &self.repo;
        repo.add_slot(&Wrap::KeyFile(&Secret32::new(KEY_FILE)), "of the host").expect("a slot");
        repo.add_slot(&Wrap::Recipient(recipient), "of the owner").expect("a slot");
        let signer = Signer::from_seed(&Secret32::new(self.cx.random()));
        self.enrol(signer.id(), "web-1", None);
        let payload = Payload::Writer { keys: Box::new(repo.keys().clone()), signer };
        let wrap = Secret32::new(WRITER_KEY_FILE);
        let (id, stored) =
            slot::make(&payload, repo.header().core.hash(), &Wrap::KeyFile(&wrap), &self.cx).expect("a slot");
        repo.store().put(&layout::slot(id), &stored).expect("stored");
        let slot = SlotRef { id, kind: "key-file".to_owned(), label: "of web-1".to_owned() };
        self.append(&Change::SlotAdded(slot));
        // One that was removed again: its object is gone, the entries stay.
        let gone = Wrap::KeyFile(&Secret32::new([1; 32]));
        let gone = repo.add_slot(&gone, "lost").expect("a slot");
        repo.remove_slot(gone).expect("removed");
    }

    fn enrol(&self, writer: WriterId, label: &str, sources: Option<Vec<String>>) {
        let (group, label) = ("hosts".to_owned(), label.to_owned());
        let rights = Rights::WRITE.0;
        self.append(&Change::Enrol(Enrol { writer, rights, group, label, sources }));
    }

    fn append(&self, change: &Change) -> u64 {
        self.repo.append(&mut |_| Ok(change.clone())).expect("appended")
    }

    /// Another recipient: the next epoch is for it too.
    fn admit_a_recipient(&self) {
        let mut recipients = self.repo.state().recipients.clone();
        recipients.push(identity(&Secret32::new(LATER_IDENTITY)).to_public().to_string());
        self.append(&Change::Recipients(recipients));
    }

    /// The first epoch gets a second wrap, for the recipient who came later.
    fn wrap_again(&self) {
        let repo = &self.repo;
        let recipients = repo.state().recipients.clone();
        let old = repo.state().epochs[0].epoch.clone();
        let old = repo.read_epoch(&old).expect("the first epoch");
        let rewrapped = repo.contents().rewrap(&old, &recipients, repo.signer()).expect("a new wrap");
        let body = minicbor::to_vec(&rewrapped).expect("encoded");
        let stored = seal_object(ObjectClass::Epoch, b"", body, repo.keys(), repo.signer());
        let object = hikae_model::SlotId::from_bytes(hash_of(&stored));
        repo.store().put(&layout::slot(object), &stored).expect("stored");
        self.append(&Change::Epoch(EpochRef { id: rewrapped.id, object }));
    }

    fn backup(
        &mut self,
        sources: &[(&str, Vec<Item>)],
        parents: &[SnapshotId],
        state: &str,
    ) -> Vec<SnapshotId> {
        let run = RunId::from_bytes(self.cx.random());
        let writer = Writer::begin(&self.repo, run, 90).expect("a run");
        let mut records = Vec::new();
        for (at, (source, items)) in sources.iter().enumerate() {
            records.push(self.write(&writer, run, source, items, parents.get(at).copied()));
        }
        let ids = writer.commit(&records).expect("committed").snapshots;
        for ((source, items), id) in sources.iter().zip(&ids) {
            let entries: Vec<_> = items.iter().map(Item::expected).collect();
            self.snapshots
                .push(json!({ "id": id.to_string(), "source": source, "state": state, "entries": entries }));
        }
        ids
    }

    fn write(
        &self,
        writer: &Writer,
        run: RunId,
        source: &str,
        items: &[Item],
        parent: Option<SnapshotId>,
    ) -> SnapshotRecord {
        let repo = &self.repo;
        let started = self.cx.now();
        let added = Arc::new(AtomicU64::new(0));
        let level = if source == "app-db" { LEVEL_DATABASE } else { LEVEL_FILES };
        let mut contents = ContentWriter::new(writer.lane(level, added.clone()));
        let mut listing = ListingWriter::default();
        let earlier = parent.map(|id| repo.snapshot(id).expect("the parent"));
        for item in items {
            let entry = item.entry.clone();
            let is_file = matches!(entry.kind, hikae_model::EntryKind::File { .. });
            let (mut content, mut hash) = Default::default();
            if is_file {
                let mut reader = BlobReader::new(repo).expect("a reader");
                let named = earlier.as_ref().map(|parent| Named { id: parent.id, record: &parent.record });
                let before = named.and_then(|named| reader.entry(named, &entry.path).expect("a listing"));
                let before = before.as_ref().map(|entry| (&mut reader, &entry.content));
                let kept = contents.store(item.cut, &mut item.reader(), before).expect("stored");
                (content, hash) = (kept.content, kept.hash);
            }
            listing.push(&StoredEntry { entry, content, hash }, contents.lane()).expect("listed");
        }
        let listing = listing.finish(contents.lane()).expect("a listing");
        let manifest = json!({ "entries": items.len() }).to_string();
        let manifest = contents.lane().put(BlobClass::Metadata, manifest.as_bytes()).expect("stored");
        let problem = json!([{ "about": "srv/secret", "what": "cannot be read" }]).to_string();
        let problems = (source == "files")
            .then(|| contents.lane().put(BlobClass::Metadata, problem.as_bytes()).expect("stored"));
        contents.finish().expect("finished");
        writer.settle().expect("durable");
        self.cx.clock.advance(Duration::from_secs(60));
        let bytes = items.iter().map(|item| item.entry.size()).sum();
        SnapshotRecord {
            source: source.to_owned(),
            kind: if source == "app-db" { "sqlite" } else { "files" }.to_owned(),
            run,
            moment: started,
            started,
            finished: self.cx.now(),
            host: "example".to_owned(),
            purpose: "daily".to_owned(),
            description: (source == "scratch").then(|| "to be forgotten".to_owned()),
            complete: problems.is_none(),
            n_problems: u64::from(problems.is_some()),
            problems,
            listing: listing.directory,
            entries: listing.entries,
            bytes,
            read_bytes: bytes,
            added_bytes: added.load(Ordering::Relaxed),
            manifest: Some(manifest),
            parent,
            release: hikae_repo::RELEASE.to_owned(),
            nonce: [0; 16],
        }
    }

    /// A file of write-ahead log: not a real one, which would be long.
    fn archive(&mut self, name: &str) {
        let content = format!("{name} of system {}\n", SYSTEM.0).repeat(100).into_bytes();
        // A session of its own each time, as the client has it.
        let wal = WalArchive::of(&self.repo);
        wal.push(SYSTEM, name.parse().expect("a name"), &mut &*content).expect("archived");
        self.wal.push(json!({
            "system": SYSTEM.to_string(),
            "name": name,
            "size": content.len(),
            "blake3": blake3::hash(&content).to_hex().as_str(),
        }));
    }

    fn forget(&self, snapshots: &[SnapshotId]) {
        let forget = Forget { snapshots: snapshots.to_vec(), reason: "no longer needed".to_owned() };
        self.append(&Change::Forget(forget));
    }

    /// The first segment is no longer kept, and still there.
    fn let_log_go(&self, forgotten: &[SnapshotId]) {
        let second: SegmentName = "000000010000000000000002".parse().expect("a name");
        let below = second.start(SegmentSize::USUAL).expect("a place");
        let floor =
            LogFloor { system: SYSTEM, timeline: Timeline::FIRST, below, segment_size: SegmentSize::USUAL };
        let without = forgotten.to_vec();
        self.append(&Change::LogFloors(LogFloors { floors: vec![floor], soft_seconds: 7 * 86_400, without }));
    }

    /// Four segments in a bundle, of which two stand by themselves as well, as within its soft period.
    fn bundle(&mut self) {
        let more = ["000000010000000000000003", "000000010000000000000004", "000000010000000000000005"];
        more.iter().for_each(|name| self.archive(name));
        // By the clock of the store, which is that of the machine. Nothing of it is stored.
        let (store, cache) = (self.repo.unlocked().clone(), tempfile::tempdir().expect("a cache"));
        let repo = Repo::follow_from(store, cache.path(), &hikae_testkit::system_cx()).expect("opened");
        let options = BundleOptions { fewest_files: 4, ..BundleOptions::default() };
        assert_eq!(bundle_log(&repo, &options, repo.cx()).expect("bundled").n_files, 4);
        for name in &more[..2] {
            repo.store().remove(&layout::wal(SYSTEM, name.parse().expect("a name"))).expect("removed");
        }
    }

    /// Dooms the packs of the forgotten snapshot, removes one of them, and merges the index objects of all
    /// others.
    fn prune(&self, forgotten: &[SnapshotId]) {
        let repo = &self.repo;
        let state = repo.state();
        let committed = state.forgotten[&forgotten[0]].snapshot.n;
        let index = repo.index().expect("an index");
        let (mut prune, mut merged) = (Prune::default(), IndexBuilder::default());
        for segment in index.segments() {
            prune.indexes_removed.push(segment.id);
            let dies = state.indexes[&segment.id].n == committed;
            let each = segment.each_pack(&mut |pack, frames| {
                if dies {
                    prune.doomed.push(pack.id);
                } else {
                    let FrameHead { session, number, .. } = frames[0].head;
                    prune.sparse = vec![FrameName { session, number }];
                    merged.add(pack, frames, segment.sessions(), segment.epochs());
                }
                Ok(())
            });
            each.expect("a readable index");
        }
        let stored = seal_object(
            ObjectClass::Index,
            b"",
            merged.to_bytes(self.cx.random()),
            repo.keys(),
            repo.signer(),
        );
        let id = IndexId::from_bytes(hash_of(&stored));
        repo.store().put(&layout::index(id), &stored).expect("stored");
        prune.indexes_added.push(IndexAdded { id, voucher: repo.signer().id() });
        // As if a run had died after it stored its record.
        let orphan = SnapshotId::from_bytes([8; 32]);
        prune.snapshots = [forgotten, &[orphan]].concat();
        prune.soft_seconds = 7 * 86_400;
        let gone = prune.doomed[0];
        self.append(&Change::Prune(prune));
        self.cx.clock.advance(8 * DAY);
        repo.store().remove(&layout::pack(gone)).expect("removed");
        self.append(&Change::Removed(Removed {
            packs: vec![gone],
            indexes: Vec::new(),
            snapshots: vec![orphan],
        }));
    }

    /// Evidence of a drill of this snapshot.
    fn drill(&self, snapshot: SnapshotId) {
        let state = self.repo.state();
        let started = self.cx.now();
        self.cx.clock.advance(Duration::from_secs(5));
        let rows = || "17".to_owned();
        let record = EvidenceRecord {
            snapshot,
            source: "app-db".to_owned(),
            kind: "restore".to_owned(),
            checks: vec![CheckRecord {
                name: "pages of app.db".to_owned(),
                expected: rows(),
                actual: rows(),
                passed: true,
            }],
            phases: vec![PhaseRecord { name: "fetch".to_owned(), microseconds: 5_000_000 }],
            recovery_microseconds: 5_000_000,
            recovered_moment: self.repo.snapshot(snapshot).expect("there").record.moment,
            restored_bytes: 17 * 4096,
            tools: vec![("sqlite".to_owned(), "3.50.0".to_owned())],
            release: hikae_repo::RELEASE.to_owned(),
            host: "example".to_owned(),
            log_n: state.n,
            log_hash: state.head,
            started,
            finished: self.cx.now(),
        };
        put_evidence(&self.repo, &record).expect("evidence");
    }

    /// A pack that was found damaged by mistake, and well again.
    fn doubt_a_pack(&self) {
        let index = self.repo.index().expect("an index");
        let pack = index.packs().next().expect("a pack").id;
        self.append(&Change::Damaged(Damaged { packs: vec![pack], ..Damaged::default() }));
        self.append(&Change::Damaged(Damaged { well: vec![pack], ..Damaged::default() }));
    }

    /// Entries that hold their number and do nothing: a stranger forgets what is there, and a run commits for a
    /// second time and would bring back what was forgotten.
    fn add_void_entries(&self, there: &[SnapshotId], forgotten: &[SnapshotId]) {
        let repo = &self.repo;
        let stranger = Signer::from_seed(&Secret32::new([9; 32]));
        let forget = Forget { snapshots: there.to_vec(), reason: String::new() };
        self.put_entry(&stranger, RunId::from_bytes([9; 16]), Change::Forget(forget));
        let run = repo.snapshot(there[0]).expect("there").record.run;
        let snapshots = vec![repo.state().forgotten[&forgotten[0]].snapshot.snapshot.clone()];
        self.put_entry(repo.signer(), run, Change::Commit(Commit { snapshots, indexes: Vec::new() }));
        assert_eq!(repo.state().void.len(), 2);
    }

    fn put_entry(&self, signer: &Signer, run: RunId, change: Change) {
        let repo = &self.repo;
        let state = repo.state();
        let entry = LogEntry { n: state.n + 1, previous: state.head, at: self.cx.now(), run, change };
        let stored = entry.seal(repo.header().core.repository, repo.keys(), signer);
        repo.store().put(&layout::log_entry(entry.n), &stored).expect("stored");
        repo.follow().expect("followed");
    }

    /// So many entries that there is a checkpoint and a few follow it. The last writer is distrusted.
    fn enrol_many(&self) {
        let mut n = 0;
        while self.repo.state().n < 33 {
            n += 1;
            let writer = Signer::from_seed(&Secret32::new(self.cx.random())).id();
            self.enrol(writer, &format!("host-{n}"), Some(vec!["files".to_owned()]));
            if self.repo.state().n == 33 {
                self.append(&Change::Distrust(writer));
            }
        }
    }
}
