//! Nothing that a source holds stands in clear in the store or in the cache (I-6).

use crate::world::World;
use hikae_model::{Attributes, Cut, Entry, EntryKind, RunId, TreePath, Xattr};
use hikae_repo::content::ContentWriter;
use hikae_repo::keys::BlobClass;
use hikae_repo::listing::{ListingWriter, StoredContent, StoredEntry};
use hikae_repo::writer::{LEVEL_FILES, Writer};
use hikae_store::{MemoryStore, Store};
use std::path::Path;
use std::sync::Arc;

const N_CANARIES: usize = 64;

/// Random bytes that could stand in a file name.
fn canaries(world: &World) -> Vec<[u8; 32]> {
    let name_byte = |byte: &u8| *byte != 0 && *byte != b'/';
    let draw = |_| loop {
        let canary = world.cx.random::<32>();
        if canary.iter().all(name_byte) {
            break canary;
        }
    };
    (0..N_CANARIES).map(draw).collect()
}

/// The forms in which a canary could get out.
fn forms(canary: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex: String = canary.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![canary.to_vec(), hex.to_uppercase().into_bytes(), hex.clone().into_bytes()];
    // As escaped by who prints names that are no UTF-8.
    forms.push(hikae_model::TreePath::parse(canary).unwrap().to_string().into_bytes());
    for wide in [canary.to_vec(), hex.into_bytes()] {
        forms.push(wide.iter().flat_map(|byte| [*byte, 0]).collect());
        forms.push(wide.iter().flat_map(|byte| [0, *byte]).collect());
    }
    // Base64 of a stretch of text begins at any of three places; the ends mix with what stands around.
    for skip in 0..3 {
        let whole = &canary[skip..skip + 27];
        forms.push(base64(whole, b"+/"));
        forms.push(base64(whole, b"-_"));
    }
    forms
}

fn base64(bytes: &[u8], last_two: &[u8; 2]) -> Vec<u8> {
    let mut alphabet: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').collect();
    alphabet.extend(last_two);
    let mut text = Vec::new();
    for three in bytes.chunks_exact(3) {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        text.extend([18, 12, 6, 0].map(|shift| alphabet[(bits >> shift) as usize & 63]));
    }
    text
}

/// Which canaries can be found in `bytes`. The first eight bytes of each form are looked for in one pass.
fn found(bytes: &[u8], forms: &std::collections::HashMap<[u8; 8], Vec<Vec<u8>>>) -> usize {
    let starts = bytes.windows(8).enumerate().filter_map(|(at, eight)| Some((at, forms.get(eight)?)));
    starts.filter(|(at, forms)| forms.iter().any(|form| bytes[*at..].starts_with(form))).count()
}

fn files_below(directory: &Path, files: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, files),
            false => files.push(std::fs::read(path).unwrap()),
        }
    }
}

/// Keeps MK-15, MK-65, RS-13, BC-62.
#[test]
fn nothing_of_a_source_stands_in_clear_in_store_or_cache() {
    let store = MemoryStore::new();
    let world = World::over(Arc::new(store.clone()));
    let repo = &world.repo;
    let canaries = canaries(&world);
    let mut by_start = std::collections::HashMap::<_, Vec<Vec<u8>>>::new();
    for form in canaries.iter().flat_map(forms) {
        by_start.entry(*form.first_chunk::<8>().unwrap()).or_default().push(form);
    }

    let run = RunId::from_bytes(world.cx.random());
    let writer = Writer::begin(repo, run, 90).unwrap();
    let mut contents = ContentWriter::new(writer.lane(LEVEL_FILES, Arc::default()));
    let mut entries = Vec::new();
    for (n, canary) in canaries.iter().enumerate() {
        let text = |bytes: &[u8]| [b"before ", bytes, b" after"].concat();
        let cut = [Cut::Files, Cut::Rows, Cut::Pages(64)][n % 3];
        let body = text(canary).repeat(1 + n % 5);
        let kept = contents.store(cut, &mut crate::world::Held(&body, 0), None).unwrap();
        let xattrs = vec![Xattr { name: text(canary), value: text(canary) }];
        let attributes = Attributes { xattrs, ..Attributes::default() };
        let path = |prefix: &[u8]| TreePath::parse([prefix, canary].concat()).unwrap();
        let file = Entry { path: path(b"f"), kind: EntryKind::File { size: kept.bytes }, attributes };
        entries.push(StoredEntry { entry: file, content: kept.content, hash: kept.hash });
        let kind = EntryKind::Symlink { target: text(canary) };
        let link = Entry { path: path(b"l"), kind, attributes: Attributes::default() };
        entries.push(StoredEntry { entry: link, content: StoredContent::None, hash: None });
    }
    entries.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let mut listing = ListingWriter::default();
    entries.iter().for_each(|entry| listing.push(entry, contents.lane()).unwrap());
    let listing = listing.finish(contents.lane()).unwrap();
    let manifest = contents.lane().put(BlobClass::Metadata, &canaries.concat()).unwrap();
    contents.finish().unwrap();
    let hex: String = canaries[0].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut record = crate::world::write(&writer, repo, run, &Default::default(), Cut::Files, None).unwrap();
    (record.listing, record.entries, record.manifest) = (listing.directory, listing.entries, Some(manifest));
    (record.description, record.host, record.source) = (Some(hex.clone()), hex.clone(), hex);
    let id = writer.commit(&[record]).unwrap().snapshots[0];
    let evidence = crate::small::evidence(repo, id);
    hikae_repo::evidence::put_evidence(repo, &evidence).unwrap();
    let report = hikae_repo::verify::verify(repo, &Default::default(), repo.cx()).unwrap();
    assert_eq!(report.problems, []);
    // What was put in can be read back, or nothing was tested.
    assert!(repo.snapshot(id).unwrap().record.description.is_some());

    let mut places: Vec<_> = store.keys().iter().map(|key| store.get(key).unwrap()).collect();
    places.extend(store.keys().iter().map(|key| key.as_str().as_bytes().to_vec()));
    let n_objects = places.len();
    files_below(world.cache.path(), &mut places);
    assert!(places.len() > n_objects + 1, "the cache was looked through");
    assert_eq!(places.iter().map(|bytes| found(bytes, &by_start)).sum::<usize>(), 0);

    // The search does find what it looks for.
    for form in canaries.iter().flat_map(forms) {
        let hay = [&crate::world::noise(1, 100)[..], &form, &crate::world::noise(2, 100)].concat();
        assert!(found(&hay, &by_start) > 0);
    }
}
