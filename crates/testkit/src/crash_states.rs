//! What a crash can leave of what a program did (the method of ALICE, OSDI 2014).
//!
//! The file system of this model promises as little as POSIX does:
//!
//! - What was written to a file is on the disk after an fsync of that file; the names that a directory got and
//!   lost are, after an fsync of that directory. Neither says anything about the other: a file that was synced may
//!   have no name, a name that was synced may stand for an empty file, and a directory that was synced may itself
//!   be missing from the one above it.
//! - Of everything else any part may be on the disk and any part may not, in no order. A rename is two changes,
//!   of which either may be missing. Of two changes to the same name the later wins if it is there.
//! - What was not synced of a file may be lost as a whole, be cut anywhere at a sector, be there in length but not
//!   in content, or be there sector by sector or page by page.
//! - Closing a file means nothing.
//!
//! Real file systems promise more. What survives here survives on them.

use crate::TestRandom;
use crate::disk_trace::{Change, Node, NodeId, Trace};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Something that a crash may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// A name that came or went: the change of this number.
    Entry(usize),
    /// What was written to this file since it was synced last.
    Data(NodeId),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// All.
    Whole,
    /// The second half.
    Tail,
    /// The content and not the length.
    Zeros,
    /// Any sectors of 512 bytes.
    Sectors(u64),
    /// Any pages of 4 KiB.
    Pages(u64),
}

/// What a crash left: the program had come so far, and these were lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Crash {
    /// How many changes had been made.
    pub point: usize,
    /// What of them is not on the disk.
    pub lost: BTreeMap<Thing, Loss>,
}

/// The states that crashes of one program can leave.
pub struct CrashStates {
    trace: Trace,
    /// Names in the root, as `repo/tmp`, in which nothing counts: states that differ only there are alike.
    ignored: Vec<PathBuf>,
    contents: Mutex<HashMap<ContentKey, Content>>,
}

/// A file after so many changes of it, of which so many are on the disk for good, and with this loss.
type ContentKey = (NodeId, usize, usize, Option<Loss>);
/// With its hash.
type Content = (Arc<Vec<u8>>, blake3::Hash);

/// What stands under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Directory,
    File { node: NodeId, content: Arc<Vec<u8>>, hash: blake3::Hash },
    Link(PathBuf),
}

impl CrashStates {
    /// Of a program that did this. States are alike if they differ only below one of the `ignored`.
    pub fn new(trace: Trace, ignored: &[&str]) -> Self {
        let ignored = ignored.iter().map(PathBuf::from).collect();
        Self { trace, ignored, contents: Mutex::default() }
    }

    /// What the program did.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What may be lost in a crash after so many changes.
    pub fn at_risk(&self, point: usize) -> Vec<Thing> {
        let synced = self.synced(point);
        let changes = self.trace.changes[..point].iter().enumerate();
        let things = changes.filter_map(|(at, change)| match change {
            Change::Name { directory, .. } | Change::Unname { directory, .. } => {
                (at >= synced.until(*directory)).then_some(Thing::Entry(at))
            }
            Change::Write { file, .. } | Change::Resize { file, .. } => {
                (at >= synced.until(*file)).then_some(Thing::Data(*file))
            }
            Change::Sync { .. } | Change::SyncAll | Change::Said => None,
        });
        things.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every crash after which at most `depth` things are lost, or all but at most `depth` of them. `show` gets
    /// each, until it says that it has enough. What only concerns the ignored is left out.
    pub fn each(&self, depth: usize, show: &mut dyn FnMut(Crash) -> bool) {
        let ignored = self.ignored_directories();
        for point in 0..=self.trace.changes.len() {
            let mut at_risk = self.at_risk(point);
            at_risk.retain(|thing| match thing {
                Thing::Entry(at) => !matches!(
                    &self.trace.changes[*at],
                    Change::Name { directory, .. } | Change::Unname { directory, .. }
                        if ignored.contains(directory)
                ),
                Thing::Data(_) => true,
            });
            let all: BTreeMap<Thing, Loss> = at_risk.iter().map(|thing| (*thing, Loss::Whole)).collect();
            let mut go_on = each_subset(&at_risk, depth, &mut |few| {
                each_loss(few, &mut BTreeMap::new(), &mut |lost| show(Crash { point, lost: lost.clone() }))
            });
            go_on = go_on
                && each_subset(&at_risk, depth, &mut |few| {
                    let mut lost = all.clone();
                    lost.retain(|thing, _| !few.contains(thing));
                    show(Crash { point, lost })
                });
            if !go_on {
                return;
            }
        }
    }

    /// Any crash: few things are lost, or many, or nearly all.
    pub fn any(&self, random: &TestRandom) -> Crash {
        let point = random.below(self.trace.changes.len() as u64 + 1) as usize;
        let of_ten = [1, 3, 5, 7, 9][random.below(5) as usize];
        let at_risk = self.at_risk(point).into_iter().filter(|_| random.below(10) < of_ten);
        let lost = at_risk.map(|thing| {
            let loss = match (thing, random.below(6)) {
                (Thing::Entry(_), _) | (_, 0 | 1) => Loss::Whole,
                (_, 2) => Loss::Tail,
                (_, 3) => Loss::Zeros,
                (_, 4) => Loss::Sectors(random.below(u64::MAX)),
                _ => Loss::Pages(random.below(u64::MAX)),
            };
            (thing, loss)
        });
        let lost = lost.collect();
        Crash { point, lost }
    }

    /// Equal for crashes that leave the same, but for what is ignored.
    pub fn fingerprint(&self, crash: &Crash) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (path, standing) in self.image(crash) {
            if self.ignored.iter().any(|ignored| path != *ignored && path.starts_with(ignored)) {
                continue;
            }
            let mut name = |kind: u8| {
                let path = path.as_os_str().as_encoded_bytes();
                hasher.update(&[kind]).update(&(path.len() as u64).to_le_bytes()).update(path);
            };
            match standing {
                Standing::Directory => name(0),
                Standing::File { hash, .. } => {
                    name(1);
                    hasher.update(hash.as_bytes());
                }
                Standing::Link(target) => {
                    name(2);
                    hasher.update(target.as_os_str().as_encoded_bytes());
                }
            }
        }
        hasher.finalize()
    }

    /// Puts what a crash left into an empty directory.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn build(&self, crash: &Crash, root: &Path) -> io::Result<()> {
        use std::os::unix::fs::{OpenOptionsExt, symlink};
        let mut first_name = HashMap::<NodeId, PathBuf>::new();
        for (path, standing) in self.image(crash) {
            let path = root.join(path);
            match standing {
                Standing::Directory => {
                    use std::os::unix::fs::DirBuilderExt;
                    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
                }
                Standing::Link(target) => symlink(target, &path)?,
                Standing::File { node, content, .. } => match first_name.get(&node) {
                    Some(first) => std::fs::hard_link(first, &path)?,
                    None => {
                        let mut file =
                            std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
                        io::Write::write_all(&mut file, &content)?;
                        first_name.insert(node, path);
                    }
                },
            }
        }
        Ok(())
    }

    /// Sees that a crash after the end that loses nothing leaves what really stands there: then no change was
    /// missed. Gives the first difference.
    ///
    /// # Errors
    /// Those of reading files.
    pub fn differs_from(&self, root: &Path) -> io::Result<Option<String>> {
        let mut image = self.image(&Crash { point: self.trace.changes.len(), lost: BTreeMap::new() });
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(root.join(&directory))? {
                let path = directory.join(entry?.file_name());
                let real = root.join(&path);
                let metadata = real.symlink_metadata()?;
                let same = match image.remove(&path) {
                    None => return Ok(Some(format!("{} came from nowhere", path.display()))),
                    Some(Standing::Directory) => metadata.is_dir(),
                    Some(Standing::Link(target)) => {
                        metadata.is_symlink() && std::fs::read_link(&real)? == target
                    }
                    Some(Standing::File { content, .. }) => {
                        metadata.is_file() && std::fs::read(&real)? == *content
                    }
                };
                if !same {
                    return Ok(Some(format!("{} is another", path.display())));
                }
                if metadata.is_dir() {
                    directories.push(path);
                }
            }
        }
        Ok(image.keys().next().map(|path| format!("{} is not there", path.display())))
    }

    /// A crash in words: after which change, and what was lost.
    pub fn describe(&self, crash: &Crash) -> String {
        let names = self.names();
        let name = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| format!("node {node}"));
        let change = |at: usize| match &self.trace.changes[at] {
            Change::Name { directory, name: entry, node } => {
                let was = name(*node);
                format!("name {}/{} ({was})", name(*directory), entry.to_string_lossy())
            }
            Change::Unname { directory, name: entry } => {
                format!("removal of {}/{}", name(*directory), entry.to_string_lossy())
            }
            Change::Write { file, at, bytes } => {
                format!("write of {} bytes at {at} to {}", bytes.len(), name(*file))
            }
            Change::Resize { file, bytes } => format!("resize of {} to {bytes} bytes", name(*file)),
            Change::Sync { node } => format!("sync of {}", name(*node)),
            Change::SyncAll => "sync of everything".to_owned(),
            Change::Said => "output".to_owned(),
        };
        let n_changes = self.trace.changes.len();
        let mut text = match crash.point.checked_sub(1) {
            None => "before the first change".to_owned(),
            Some(last) => format!("after change {} of {n_changes}, {}", crash.point, change(last)),
        };
        for (thing, loss) in &crash.lost {
            let thing = match thing {
                Thing::Entry(at) => change(*at),
                Thing::Data(node) => format!("what was written to {}", name(*node)),
            };
            let _ = write!(text, "\n  lost: {thing}, {loss:?}");
        }
        text
    }

    /// The last name of each node.
    fn names(&self) -> HashMap<NodeId, String> {
        let mut names = HashMap::from([(0, ".".to_owned())]);
        let mut name = |directory: NodeId, entry: &OsString, node: NodeId| {
            let above = names.get(&directory).cloned().unwrap_or_default();
            names.insert(node, format!("{above}/{}", entry.to_string_lossy()));
        };
        // A directory comes before what is in it.
        for (id, node) in self.trace.nodes.iter().enumerate() {
            if let Node::Directory(entries) = node {
                entries.iter().for_each(|(entry, node)| name(id, entry, *node));
            }
        }
        for change in &self.trace.changes {
            if let Change::Name { directory, name: entry, node } = change {
                name(*directory, entry, *node);
            }
        }
        names
    }

    fn ignored_directories(&self) -> BTreeSet<NodeId> {
        let names = self.names();
        let is_ignored =
            |name: &str| self.ignored.iter().any(|ignored| Path::new(name) == Path::new(".").join(ignored));
        names.into_iter().filter(|(_, name)| is_ignored(name)).map(|(node, _)| node).collect()
    }

    /// Up to which change each node was synced.
    fn synced(&self, point: usize) -> Synced {
        let mut synced = Synced { all: 0, nodes: HashMap::new() };
        for (at, change) in self.trace.changes[..point].iter().enumerate() {
            match change {
                Change::Sync { node } => drop(synced.nodes.insert(*node, at)),
                Change::SyncAll => synced.all = at,
                _ => {}
            }
        }
        synced
    }

    /// All that stands there after a crash, each directory before what is in it.
    fn image(&self, crash: &Crash) -> BTreeMap<PathBuf, Standing> {
        let mut entries: HashMap<NodeId, BTreeMap<&OsString, NodeId>> = HashMap::new();
        for (at, change) in self.trace.changes[..crash.point].iter().enumerate() {
            if crash.lost.contains_key(&Thing::Entry(at)) {
                continue;
            }
            let (directory, name, node) = match change {
                Change::Name { directory, name, node } => (*directory, name, Some(*node)),
                Change::Unname { directory, name } => (*directory, name, None),
                _ => continue,
            };
            let names = entries.entry(directory).or_insert_with(|| self.names_at_start(directory));
            match node {
                Some(node) => names.insert(name, node),
                None => names.remove(name),
            };
        }
        let synced = self.synced(crash.point);
        let mut image = BTreeMap::new();
        let mut directories = vec![(PathBuf::new(), 0)];
        while let Some((above, directory)) = directories.pop() {
            let names = entries.get(&directory).cloned().unwrap_or_else(|| self.names_at_start(directory));
            for (name, node) in names {
                let path = above.join(name);
                let standing = match &self.trace.nodes[node] {
                    Node::Directory(_) => {
                        directories.push((path.clone(), node));
                        Standing::Directory
                    }
                    Node::Link(target) => Standing::Link(target.clone()),
                    Node::File(_) => {
                        let loss = crash.lost.get(&Thing::Data(node)).copied();
                        let (content, hash) = self.content(node, crash.point, synced.until(node), loss);
                        Standing::File { node, content, hash }
                    }
                };
                image.insert(path, standing);
            }
        }
        image
    }

    fn names_at_start(&self, directory: NodeId) -> BTreeMap<&OsString, NodeId> {
        match &self.trace.nodes[directory] {
            Node::Directory(entries) => entries.iter().map(|(name, node)| (name, *node)).collect(),
            _ => BTreeMap::new(),
        }
    }

    /// A file after `point` changes, of which those before `synced` are on the disk.
    fn content(&self, node: NodeId, point: usize, synced: usize, loss: Option<Loss>) -> Content {
        let is_of = |change: &Change| matches!(change, Change::Write { file, .. } | Change::Resize { file, .. } if *file == node);
        let changes = &self.trace.changes;
        let safe: Vec<&Change> = changes[..synced.min(point)].iter().filter(|change| is_of(change)).collect();
        let at_risk: Vec<&Change> =
            changes[synced.min(point)..point].iter().filter(|change| is_of(change)).collect();
        let key = (node, safe.len() + at_risk.len(), safe.len(), loss);
        let mut contents = self.contents.lock().unwrap_or_else(|broken| broken.into_inner());
        contents
            .entry(key)
            .or_insert_with(|| {
                let Node::File(start) = &self.trace.nodes[node] else { unreachable!("{node} is no file") };
                let mut content = start.clone();
                safe.iter().for_each(|change| apply(change, &mut content));
                lose(&mut content, &at_risk, loss);
                let hash = blake3::hash(&content);
                (Arc::new(content), hash)
            })
            .clone()
    }
}

struct Synced {
    all: usize,
    nodes: HashMap<NodeId, usize>,
}

impl Synced {
    fn until(&self, node: NodeId) -> usize {
        self.nodes.get(&node).copied().unwrap_or(0).max(self.all)
    }
}

/// Every subset of at most `depth`. Gives false once `show` has enough.
fn each_subset(things: &[Thing], depth: usize, show: &mut dyn FnMut(&[Thing]) -> bool) -> bool {
    fn below(
        things: &[Thing],
        depth: usize,
        chosen: &mut Vec<Thing>,
        show: &mut dyn FnMut(&[Thing]) -> bool,
    ) -> bool {
        show(chosen)
            && (chosen.len() == depth
                || things.iter().enumerate().all(|(at, thing)| {
                    chosen.push(*thing);
                    let go_on = below(&things[at + 1..], depth, chosen, show);
                    chosen.pop();
                    go_on
                }))
    }
    below(things, depth, &mut Vec::new(), show)
}

/// Every way to lose these.
fn each_loss(
    things: &[Thing],
    lost: &mut BTreeMap<Thing, Loss>,
    show: &mut dyn FnMut(&BTreeMap<Thing, Loss>) -> bool,
) -> bool {
    let Some((first, rest)) = things.split_first() else { return show(lost) };
    let ways: &[Loss] = match first {
        Thing::Entry(_) => &[Loss::Whole],
        Thing::Data(_) => &[Loss::Whole, Loss::Tail, Loss::Zeros, Loss::Sectors(1), Loss::Pages(1)],
    };
    let go_on = ways.iter().all(|way| {
        lost.insert(*first, *way);
        each_loss(rest, lost, show)
    });
    lost.remove(first);
    go_on
}

fn apply(change: &Change, content: &mut Vec<u8>) {
    match change {
        Change::Write { at, bytes, .. } => {
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            content.resize(content.len().max(end), 0);
            content[at..end].copy_from_slice(bytes);
        }
        Change::Resize { bytes, .. } => content.resize(*bytes as usize, 0),
        _ => {}
    }
}

/// Makes what is on the disk if of these changes so much is lost.
fn lose(content: &mut Vec<u8>, changes: &[&Change], loss: Option<Loss>) {
    const SECTOR: usize = 512;
    const PAGE: usize = 4096;
    let (size, seed) = match loss {
        Some(Loss::Whole) => return,
        None => return changes.iter().for_each(|change| apply(change, content)),
        Some(Loss::Tail) => {
            let written =
                |change: &&Change| if let Change::Write { bytes, .. } = change { bytes.len() } else { 0 };
            let all: usize = changes.iter().map(written).sum();
            let mut left = all / 2 / SECTOR * SECTOR;
            for change in changes {
                match change {
                    Change::Write { file, at, bytes } if bytes.len() > left => {
                        let bytes = bytes[..left].to_vec();
                        return apply(&Change::Write { file: *file, at: *at, bytes }, content);
                    }
                    change => apply(change, content),
                }
                left -= written(change);
            }
            return;
        }
        Some(Loss::Zeros) => (PAGE, None),
        Some(Loss::Sectors(seed)) => (SECTOR, Some(seed)),
        Some(Loss::Pages(seed)) => (PAGE, Some(seed)),
    };
    let old = content.clone();
    let mut written = vec![false; old.len()];
    for change in changes {
        apply(change, content);
        written.resize(content.len(), false);
        if let Change::Write { at, bytes, .. } = change {
            written[*at as usize..*at as usize + bytes.len()].fill(true);
        }
    }
    for (number, block) in content.chunks_mut(size).enumerate() {
        let start = number * size;
        let keeps = seed.is_some_and(|seed| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes());
            hasher.finalize().as_bytes()[0] & 1 == 1
        });
        if keeps {
            continue;
        }
        for (at, byte) in block.iter_mut().enumerate().filter(|(at, _)| written[start + at]) {
            // Without a seed nothing is left of what was there before either.
            *byte = if seed.is_some() { old.get(start + at).copied().unwrap_or(0) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stepper::{Ended, Stepper, stepped};

    /// A root with the file `old` in it, and a program that writes `new` and gives it the name of `old`.
    fn replaced(syncs: &[usize]) -> CrashStates {
        let nodes = vec![
            Node::Directory(BTreeMap::from([("old".into(), 1)])),
            Node::File(b"before".to_vec()),
            Node::File(Vec::new()),
        ];
        let mut changes = vec![
            Change::Name { directory: 0, name: "new".into(), node: 2 },
            Change::Write { file: 2, at: 0, bytes: vec![7; 1024] },
            Change::Name { directory: 0, name: "old".into(), node: 2 },
            Change::Unname { directory: 0, name: "new".into() },
        ];
        if syncs.contains(&2) {
            changes.insert(2, Change::Sync { node: 2 });
        }
        if syncs.contains(&0) {
            changes.push(Change::Sync { node: 0 });
        }
        CrashStates::new(Trace { nodes, changes }, &[])
    }

    /// What can be found under the name `old` once all is done.
    fn found(states: &CrashStates) -> BTreeSet<Vec<u8>> {
        let mut found = BTreeSet::new();
        let end = states.trace().changes.len();
        states.each(3, &mut |crash| {
            if crash.point == end {
                match states.image(&crash).remove(Path::new("old")) {
                    Some(Standing::File { content, .. }) => drop(found.insert(content.to_vec())),
                    other => panic!("{other:?} after {}", states.describe(&crash)),
                }
            }
            true
        });
        found
    }

    #[test]
    fn without_any_sync_a_file_that_replaces_another_is_old_or_new_or_torn() {
        let found = found(&replaced(&[]));
        for expected in [b"before".to_vec(), vec![7; 1024], Vec::new(), vec![7; 512], vec![0; 1024]] {
            let shown = &expected[..expected.len().min(8)];
            assert!(found.contains(&expected), "{} bytes, {shown:?}", expected.len());
        }
    }

    #[test]
    fn a_sync_of_the_file_alone_leaves_the_old_or_the_new() {
        let expected = BTreeSet::from([b"before".to_vec(), vec![7; 1024]]);
        assert_eq!(found(&replaced(&[2])), expected);
    }

    #[test]
    fn a_sync_of_the_directory_alone_leaves_the_new_name_for_anything() {
        let found = found(&replaced(&[0]));
        assert!(!found.contains(b"before".as_slice()));
        assert!(found.contains(&Vec::new()) && found.contains(&vec![7; 1024]));
    }

    #[test]
    fn what_was_synced_is_never_lost() {
        let states = replaced(&[2, 0]);
        assert_eq!(found(&states), BTreeSet::from([vec![7; 1024]]));
        assert_eq!(states.at_risk(states.trace().changes.len()), []);
        let random = TestRandom::new(crate::Seed(1));
        for _ in 0..100 {
            let crash = states.any(&random);
            assert!(crash.point < 6 || crash.lost.is_empty());
        }
    }

    #[test]
    fn a_directory_whose_name_is_lost_takes_with_it_what_was_synced_in_it() {
        let nodes =
            vec![Node::Directory(BTreeMap::new()), Node::Directory(BTreeMap::new()), Node::File(Vec::new())];
        let changes = vec![
            Change::Name { directory: 0, name: "inner".into(), node: 1 },
            Change::Name { directory: 1, name: "file".into(), node: 2 },
            Change::Sync { node: 2 },
            Change::Sync { node: 1 },
        ];
        let states = CrashStates::new(Trace { nodes, changes }, &[]);
        assert_eq!(states.at_risk(4), [Thing::Entry(0)]);
        let lost = BTreeMap::from([(Thing::Entry(0), Loss::Whole)]);
        assert!(states.image(&Crash { point: 4, lost }).is_empty());
    }

    #[test]
    fn what_is_recorded_of_a_program_is_what_it_did() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("there"), "from before").unwrap();
        let output = tempfile::NamedTempFile::new().unwrap();
        let script = "echo one > a; echo two >> a; mv a b; ln b c; mkdir d; mv c d/c; ln -s b l; echo three > there; \
                      truncate -s 3 b; mkdir gone; rmdir gone; sync d; echo done >&2";
        let mut command = stepped("sh");
        command.args(["-c", script]).current_dir(root.path()).stderr(output.reopen().unwrap());
        let recorded = Stepper::start(&mut command)
            .and_then(|stepper| Trace::record(stepper, root.path(), output.path()));
        let (trace, ended) = match recorded {
            Ok(recorded) => recorded,
            Err(error) => return crate::not_run(&format!("processes cannot be traced here: {error}")),
        };
        assert_eq!(ended, Ended::With(0));
        assert_eq!(trace.changes.last(), Some(&Change::Said));
        assert!(trace.changes.iter().any(|change| matches!(change, Change::Sync { .. })));
        let states = CrashStates::new(trace, &[]);
        assert_eq!(states.differs_from(root.path()).unwrap(), None);
        // And the same can be built elsewhere.
        let built = tempfile::tempdir().unwrap();
        let nothing_lost = Crash { point: states.trace().changes.len(), lost: BTreeMap::new() };
        states.build(&nothing_lost, built.path()).unwrap();
        assert_eq!(states.differs_from(built.path()).unwrap(), None);
        std::fs::write(root.path().join("b"), "other").unwrap();
        assert!(states.differs_from(root.path()).unwrap().is_some());
    }
}
