//! Which places a backup of files starts from: the includes, resolved and merged into one tree.
//!
//! Links on the way to an include are listed as links, and the include is read where it really is. So
//! `/srv/current -> releases/42` in the configuration backs up both the link and the release, and a restore
//! brings both back. Links below an include are never followed.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use hikae_model::Problem;

use super::Include;
use crate::SourceError;

/// Where to walk, as a tree of names from `/` down: nothing but what leads to an include is in it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    nodes: Vec<Node>,
    /// The includes that are there, where they really are.
    pub(super) places: Vec<PathBuf>,
    /// Includes that are not there or cannot be reached.
    pub(super) problems: Vec<Problem>,
}

/// One name on the way to an include.
#[derive(Debug, Default)]
struct Node {
    included: bool,
    children: BTreeMap<Vec<u8>, NodeId>,
}

/// A name in a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(usize);

/// As many links as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

impl Plan {
    /// The node of `/`.
    pub(super) const ROOT: NodeId = NodeId(0);

    /// Looks at every include.
    ///
    /// # Errors
    /// [`SourceError`] if none of them is there.
    pub(super) fn make(includes: &[Include]) -> Result<Self, SourceError> {
        let mut plan = Self { nodes: vec![Node::default()], ..Self::default() };
        let mut first_error = None;
        for include in includes {
            match resolve(&include.path) {
                Ok(resolved) => {
                    for link in &resolved.links {
                        plan.add(link);
                    }
                    plan.add(&resolved.place);
                    plan.places.push(resolved.place);
                }
                Err(error) => {
                    let missing = error.kind() == io::ErrorKind::NotFound;
                    if !(missing && include.optional) {
                        plan.problems.push(problem(&include.path, &error));
                    }
                    first_error.get_or_insert((include.path.clone(), error));
                }
            }
        }
        match first_error {
            Some((path, error)) if plan.places.is_empty() => Err(match error.kind() {
                io::ErrorKind::NotFound => SourceError::Missing { path },
                _ => SourceError::Io { verb: "look at", path, source: error },
            }),
            _ => Ok(plan),
        }
    }

    fn add(&mut self, place: &Path) {
        let mut at = Self::ROOT;
        for component in place.components() {
            let Component::Normal(name) = component else { continue };
            let next = NodeId(self.nodes.len());
            at = *self.nodes[at.0].children.entry(name.as_bytes().to_vec()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at.0].included = true;
    }

    /// Whether all below this node is to be read.
    pub(super) fn is_included(&self, node: NodeId) -> bool {
        self.nodes[node.0].included
    }

    /// The names below this node that lead to includes, sorted bytewise.
    pub(super) fn names(&self, node: NodeId) -> impl Iterator<Item = &[u8]> {
        self.nodes[node.0].children.keys().map(Vec::as_slice)
    }

    /// The node of one name below this one.
    pub(super) fn child(&self, node: NodeId, name: &[u8]) -> Option<NodeId> {
        self.nodes[node.0].children.get(name).copied()
    }
}

fn problem(path: &Path, error: &io::Error) -> Problem {
    if error.kind() == io::ErrorKind::NotFound {
        Problem::new("missing", path.display(), "is not there")
            .advise("see that the path is right and its disk is mounted, or mark it `optional = true`")
    } else {
        Problem::new("unreadable", path.display(), format_args!("cannot be reached: {error}"))
            .advise("run hikae as a user who may read there")
    }
}

/// An include as it stands on the disk.
struct Resolved {
    /// Links that were followed to it.
    links: Vec<PathBuf>,
    /// Where it is: absolute, no link in it.
    place: PathBuf,
}

fn resolve(path: &Path) -> io::Result<Resolved> {
    let mut ahead = names(&std::path::absolute(path)?);
    let mut links = Vec::new();
    let mut place = PathBuf::from("/");
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            place.pop();
            continue;
        }
        let next = place.join(&name);
        if !next.symlink_metadata()?.is_symlink() {
            place = next;
            continue;
        }
        if links.len() == MAX_LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = std::fs::read_link(&next)?;
        if target.is_absolute() {
            place = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            ahead.push_front(name);
        }
        links.push(next);
    }
    Ok(Resolved { links, place })
}

/// The names of a path, with `..` kept: only after its links are known can it be undone.
fn names(path: &Path) -> VecDeque<OsString> {
    let bytes = path.as_os_str().as_bytes();
    let names = bytes.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.map(|name| OsString::from_vec(name.to_vec())).collect()
}
