//! Known answers: what another implementation compares itself with. All bytes in hex.

use crate::repository::write_json;
use crate::tree::noise;
use hikae_model::{BlobId, FamilyId, RepositoryId, SessionId};
use hikae_repo::epoch::EpochRecord;
use hikae_repo::extent::{Extent, ExtentMap};
use hikae_repo::frame::{FrameBlob, FrameCoder, OpenFrame};
use hikae_repo::header::{Core, Header};
use hikae_repo::keys::{BlobClass, MetadataKeys, RepositorySecret, Secret32};
use hikae_repo::object::{ObjectClass, seal_object};
use hikae_repo::pieces::piece_hash;
use hikae_repo::recipient::{identity, identity_text};
use hikae_repo::seal::{self, Algorithm};
use hikae_repo::slot::{self, KdfCost, Payload, Wrap};
use hikae_testkit::{Seed, TestCx};
use serde_json::{Value, json};
use std::path::Path;

pub fn make(directory: &Path) {
    let cx = TestCx::new(Seed(3));
    let secret = RepositorySecret::new([0x11; 32]);
    let keys = secret.metadata_keys();
    let vectors = json!({
        "secret": hex(secret.bytes()),
        "keys": derived(&secret, &keys),
        "blobs": [blob(&keys, BlobClass::Content, b""), blob(&keys, BlobClass::Content, b"a blob"),
            blob(&keys, BlobClass::Metadata, b"a blob")],
        "piece": { "plain": hex(b"a piece"), "hash": hex(&piece_hash(keys.hash_key(), b"a piece")) },
        "seals": [seal_with(Algorithm::Aes256Gcm), seal_with(Algorithm::ChaCha20Poly1305)],
        "frames": [frame(&keys, noise(1, 100)), frame(&keys, b"again and again ".repeat(100))],
        "object": object(&secret, &keys),
        "core": core(&secret, keys.family(), &cx),
        "slots": slots(&secret, &cx),
        "session": session(&secret, keys.family(), &cx),
        "extents": extents(),
    });
    write_json(&directory.join("vectors.json"), &vectors);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn derived(secret: &RepositorySecret, keys: &MetadataKeys) -> Value {
    let mut gear = [0; 256];
    keys.fill_gear(&mut gear);
    let first = secret.first_identity();
    json!({
        "id_root": hex(keys.id_root().bytes()),
        "family": keys.family().to_string(),
        "hash_key": hex(&keys.hash_key().0),
        "metadata_key_1": hex(keys.newest_seal().1.bytes()),
        "root_seed": hex(secret.root().seed().bytes()),
        "root": secret.root().id().to_string(),
        "first_identity": hex(first.bytes()),
        "first_identity_text": identity_text(&first).as_str(),
        "first_recipient": identity(&first).to_public().to_string(),
        "gear": ([gear[0], gear[1], gear[255]].map(|entry| format!("{entry:016x}"))),
    })
}

fn blob(keys: &MetadataKeys, class: BlobClass, plain: &[u8]) -> Value {
    json!({ "class": class as u8, "plain": hex(plain), "id": keys.blob_id(class, plain).to_string() })
}

fn seal_with(algorithm: Algorithm) -> Value {
    let (key, aad) = (Secret32::new([0x22; 32]), b"associated data");
    let mut sealed = b"what is sealed".to_vec();
    let plain = hex(&sealed);
    let salt = seal::seal(&key, algorithm, aad, &mut sealed);
    json!({ "key": hex(key.bytes()), "algorithm": algorithm as u8, "aad": hex(aad), "plain": plain,
        "salt": hex(&salt), "sealed": hex(&sealed) })
}

/// A frame of two blobs.
fn frame(keys: &MetadataKeys, plain: Vec<u8>) -> Value {
    let (key, session, number) = (Secret32::new([0x33; 32]), SessionId::from_bytes([0x44; 16]), 7_u32);
    let blobs = [&plain[..40], &plain[40..]];
    let blobs = blobs
        .map(|plain| FrameBlob { id: keys.blob_id(BlobClass::Content, plain), bytes: plain.len() as u32 });
    let open = OpenFrame { class: BlobClass::Content, level: 3, plain, blobs: blobs.to_vec() };
    let mut coder = FrameCoder::new(keys.family()).expect("a coder");
    let (head, stored) = coder.seal(&open, session, number, &key, keys, Vec::new()).expect("sealed");
    let family = keys.family();
    let aad = [family.as_bytes().as_slice(), &[1, 1], session.as_bytes(), &number.to_le_bytes()];
    json!({
        "key": hex(key.bytes()), "session": session.to_string(), "number": number, "class": head.class as u8,
        "codec": head.codec as u8, "algorithm": head.algorithm as u8, "salt": hex(&head.salt),
        "aad": hex(&aad.concat()), "stored": hex(&stored), "plain": hex(&open.plain),
        "blobs": (blobs.map(|blob| json!([blob.id.to_string(), blob.bytes]))),
    })
}

fn object(secret: &RepositorySecret, keys: &MetadataKeys) -> Value {
    let (context, body) = (b"a context", b"a body");
    let stored = seal_object(ObjectClass::LogEntry, context, body.to_vec(), keys, &secret.root());
    json!({ "class": ObjectClass::LogEntry as u8, "context": hex(context), "body": hex(body),
        "writer": secret.root().id().to_string(), "stored": hex(&stored) })
}

fn core(secret: &RepositorySecret, family: FamilyId, cx: &TestCx) -> Value {
    let repository = RepositoryId::from_bytes([0x55; 16]);
    let recipients = vec![identity(&secret.first_identity()).to_public().to_string()];
    let core = Core::new(repository, family, secret.root().id(), recipients, cx.now());
    let hash = hex(&core.hash());
    let stored = Header { core, slots: Vec::new() }.to_bytes();
    json!({ "stored": String::from_utf8(stored).expect("JSON"), "hash": hash })
}

fn slots(secret: &RepositorySecret, cx: &TestCx) -> Value {
    let header = [0x66; 32];
    let (key, scalar) = (Secret32::new([0x77; 32]), Secret32::new([0x78; 32]));
    let recipient = identity(&scalar).to_public().to_string();
    let passphrase = "a passphrase, 控え";
    let cost = KdfCost { memory_kib: 64, passes: 2, lanes: 2 };
    let stored = |wrap| {
        let (_, stored) = slot::make(&Payload::Owner(secret.clone()), header, &wrap, cx).expect("a slot");
        hex(&stored)
    };
    json!({
        "core_hash": hex(&header),
        "passphrase": { "with": passphrase, "stored": stored(Wrap::Passphrase(passphrase, cost)) },
        "key_file": { "with": hex(key.bytes()), "stored": stored(Wrap::KeyFile(&key)) },
        "recipient": { "with": identity_text(&scalar).as_str(), "stored": stored(Wrap::Recipient(&recipient)) },
    })
}

fn session(secret: &RepositorySecret, family: FamilyId, cx: &TestCx) -> Value {
    let recipients = vec![identity(&secret.first_identity()).to_public().to_string()];
    let epoch = EpochRecord::begin(&recipients, family, &secret.root(), cx).expect("an epoch");
    let (session, key) = epoch.begin_session(family, 1, &secret.root(), cx).expect("a session");
    let epoch = minicbor::to_vec(&epoch).expect("encoded");
    let session = minicbor::to_vec(&session).expect("encoded");
    json!({ "epoch": hex(&epoch), "session": hex(&session), "key": hex(key.bytes()) })
}

fn extents() -> Value {
    let blob = |n| BlobId::from_bytes([n; 32]);
    let mut map = ExtentMap::default();
    map.push(Extent::Data { blob: blob(1), offset: 0, bytes: 300 });
    map.push(Extent::Hole { bytes: 1 << 40 });
    map.push(Extent::Data { blob: blob(2), offset: 70_000, bytes: 1 });
    map.push(Extent::Data { blob: blob(1), offset: 5, bytes: 127 });
    map.set_pieces(blob(1), blob(3));
    map.set_pieces(blob(2), blob(4));
    let extents = map.extents().iter().map(|extent| match extent {
        Extent::Hole { bytes } => json!([null, 0, bytes]),
        Extent::Data { blob, offset, bytes } => json!([blob.to_string(), offset, bytes]),
    });
    json!({ "extents": extents.collect::<Vec<_>>(), "stored": hex(&map.to_bytes()) })
}
