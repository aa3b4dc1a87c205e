//! Objects as files below a directory of the server.
//!
//! ```text
//! <path>/packs/3f/3f02…    an object, read-only, named by its key
//! <path>/tmp/<32 hex>      an object on its way in, or what a broken upload left of one
//! ```
//!
//! The same places as in a directory of this machine, and the same order: an object gets its name only when all its bytes are
//! on the disk, by a second name for its file, which replaces nothing; and it counts as stored when its directory is on the
//! disk too. OpenSSH on Linux syncs a directory that was opened as a file is.

use super::files::{Opened, is_directory, is_regular};
use super::host_key::{HostKeys, Unlinked};
use super::session::{POSIX_RENAME, Session};
use super::{SftpError, SftpLogin, SftpSettings};
use crate::answer::Outcome;
use crate::wire::{Fetched, Mode, Wire};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt, future};
use hikae_model::{Cx, sabotage};
use hikae_store::{Durability, Object, ObjectKey, Reserve};
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, Status, StatusCode};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Mutex, Semaphore};

/// Where objects stand while they are written. No key below it is ours.
const TMP: &str = "tmp";
const PACKS: &str = "packs";
/// What may stand in a directory that is to become a store.
const OF_A_NEW_STORE: [&str; 4] = [TMP, PACKS, "probe", "lost+found"];
/// One of this many bulky objects is read back before it counts as stored.
const READ_BACK_EVERY: u64 = 64;
/// Directories that are read at one time.
const N_DIRECTORIES: usize = 16;
/// Calls at one time, each with two open files at most: OpenSSH numbers those, and the library takes numbers from 128 on for
/// broken text.
const N_CALLS: usize = 48;

/// A directory of another machine.
pub(super) struct Sftp {
    settings: SftpSettings,
    login: SftpLogin,
    keys: HostKeys,
    /// Room that packs leave.
    reserve: Reserve,
    cx: Cx,
    link: Mutex<Option<Arc<Session>>>,
    calls: Semaphore,
    /// Directories that are there, and known to be on the disk if the server can tell.
    made: std::sync::Mutex<HashSet<String>>,
    /// Whether the server syncs directories.
    syncs_directories: AtomicBool,
    /// Set when the server said that it makes second names, and then did not know how.
    has_no_links: AtomicBool,
    /// Set when a directory could not be synced: nothing in it is promised after that.
    is_broken: AtomicBool,
    n_bulky: AtomicU64,
}

impl Sftp {
    pub fn new(
        settings: SftpSettings,
        login: SftpLogin,
        reserve: Reserve,
        cx: &Cx,
    ) -> Result<Self, SftpError> {
        Ok(Self {
            keys: HostKeys::of(&settings)?,
            settings,
            login,
            reserve,
            cx: cx.clone(),
            link: Mutex::new(None),
            calls: Semaphore::new(N_CALLS),
            made: std::sync::Mutex::default(),
            syncs_directories: AtomicBool::new(false),
            has_no_links: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            n_bulky: AtomicU64::new(0),
        })
    }

    /// Sees that the directory is there, and what the server can do for it.
    pub async fn enter(&self) -> Result<(), Outcome> {
        let session = self.session().await?;
        match session.attributes(&self.path("")).await {
            Ok(root) if is_directory(&root) => {}
            Ok(_) | Err(Outcome::NotThere) => return Err(Outcome::NoStore),
            Err(outcome) => return Err(outcome),
        }
        if session.can.fsync
            && let Ok(root) = Opened::to_read(&session, &self.path("")).await
        {
            self.syncs_directories.store(root.sync().await.is_ok(), Ordering::Relaxed);
            root.leave();
        }
        Ok(())
    }

    /// Makes the directory, with those above it, and sees that nothing else is in it.
    pub async fn make_root(&self) -> Result<(), Outcome> {
        let session = self.session().await?;
        let path = self.path("");
        let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
        // From the end, for above it we may not even look.
        let paths: Vec<&str> = ends.map(|end| &path[..end]).collect();
        let (mut n, mut first) = (paths.len() - 1, paths.len() - 1);
        loop {
            match session.make_directory(paths[n]).await {
                Ok(()) if n + 1 == paths.len() => break,
                Ok(()) => n += 1,
                Err(Outcome::NotThere) if n > 0 => (n, first) = (n - 1, n - 1),
                Err(outcome) => return Err(outcome),
            }
        }
        self.enter().await?;
        for made in &paths[first..] {
            let above =
                made.rsplit_once('/').map_or(".", |(above, _)| if above.is_empty() { "/" } else { above });
            match self.sync_path(&session, above).await {
                // Where we may not even look, somebody else made it before.
                Ok(()) | Err(Outcome::NotAllowed(_)) => {}
                Err(outcome) => return Err(outcome),
            }
        }
        let names = session.names(&path).await?;
        let is_there = |known: &&str| names.iter().any(|file| file.filename == **known);
        let nothing_else = names.iter().all(|file| OF_A_NEW_STORE.contains(&file.filename.as_str()));
        if !nothing_else && ![TMP, PACKS].iter().all(is_there) {
            let why = "the directory is not empty and holds no store";
            return Err(Outcome::Failed(io::Error::new(io::ErrorKind::DirectoryNotEmpty, why)));
        }
        self.ensure(&session, TMP).await?;
        self.ensure(&session, PACKS).await
    }

    /// The connection, or a new one after that broke.
    async fn session(&self) -> Result<Arc<Session>, Outcome> {
        let mut link = self.link.lock().await;
        if let Some(session) = link.as_ref().filter(|session| !session.is_over()) {
            return Ok(session.clone());
        }
        *link = None;
        let session = Session::begin(&self.settings, &self.login, &self.keys).await;
        let session = Arc::new(session.map_err(|error| match error {
            Unlinked::Passing(error) => Outcome::Passing(error),
            Unlinked::Final(error @ SftpError::Login { .. }) => Outcome::Unknown(io::Error::other(error)),
            Unlinked::Final(error) => Outcome::Refused(io::Error::other(error)),
        })?);
        *link = Some(session.clone());
        Ok(session)
    }

    /// The path of what stands below the directory; of itself for the empty name.
    fn path(&self, name: &str) -> String {
        match (self.settings.path.as_str(), name) {
            (root, "") => root.to_owned(),
            (root, name) => format!("{}/{name}", root.trim_end_matches('/')),
        }
    }

    /// That nothing is there says little where the directory itself is gone.
    async fn sure(&self, session: &Session, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::NotThere => match session.attributes(&self.path("")).await {
                Ok(_) => Outcome::NotThere,
                Err(Outcome::NotThere) => Outcome::NoStore,
                Err(outcome) => outcome,
            },
            outcome => outcome,
        }
    }

    /// Makes a directory below ours, if need be. When this returns its name and all above it are on the disk, whoever made
    /// them, as far as the server can tell.
    async fn ensure(&self, session: &Arc<Session>, directory: &str) -> Result<(), Outcome> {
        let is_made =
            |path: &str| self.made.lock().unwrap_or_else(|broken| broken.into_inner()).contains(path);
        if is_made(directory) {
            return Ok(());
        }
        let mut walked = String::new();
        for name in directory.split('/').filter(|name| !name.is_empty()) {
            let above = walked.clone();
            walked = if walked.is_empty() { name.to_owned() } else { format!("{walked}/{name}") };
            if is_made(&walked) {
                continue;
            }
            if let Err(outcome) = session.make_directory(&self.path(&walked)).await {
                return Err(self.sure(session, outcome).await);
            }
            self.sync_directory(session, &above).await?;
            self.made.lock().unwrap_or_else(|broken| broken.into_inner()).insert(walked.clone());
        }
        Ok(())
    }

    async fn sync_directory(&self, session: &Arc<Session>, directory: &str) -> Result<(), Outcome> {
        self.sync_path(session, &self.path(directory)).await
    }

    async fn sync_path(&self, session: &Arc<Session>, path: &str) -> Result<(), Outcome> {
        if !self.syncs_directories.load(Ordering::Relaxed) || sabotage::on("sftp-no-dir-fsync") {
            return Ok(());
        }
        let opened = Opened::to_read(session, path).await?;
        let synced = opened.sync().await;
        if matches!(synced, Err(Outcome::Failed(_))) {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        opened.leave();
        synced
    }

    /// Refuses what would leave less room than this.
    async fn check_room(&self, session: &Session, reserve: Reserve, n_bytes: usize) -> Result<(), Outcome> {
        let room = session.judge(session.sftp.statvfs(self.path("")).await)?;
        let (free, all) = (
            room.blocks_avail.saturating_mul(room.fragment_size),
            room.blocks.saturating_mul(room.fragment_size),
        );
        let needed = reserve.bytes_of(all).saturating_add(n_bytes as u64);
        if all > 0 && free < needed { Err(Outcome::Full) } else { Ok(()) }
    }

    /// Writes an object beside, whole and durable, and then gives it its name.
    async fn bring(
        &self,
        session: &Arc<Session>,
        key: &ObjectKey,
        bytes: &[u8],
        mode: Mode,
    ) -> Result<(), Outcome> {
        let Some((parent, _)) = place(key) else {
            let why = "`tmp` is the store's own";
            return Err(Outcome::Failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        };
        if self.is_broken.load(Ordering::Relaxed) {
            let why =
                "a directory could not be synced before, so nothing here can be called durable any more";
            return Err(Outcome::Failed(io::Error::other(why)));
        }
        if key.is_bulk() && session.can.statvfs {
            // What must follow a pack, so that a run can end, needs some too.
            self.check_room(session, self.reserve, bytes.len()).await?;
        }
        self.ensure(session, TMP).await?;
        self.ensure(session, parent).await?;
        let temporary = self.path(&format!("{TMP}/{:032x}", u128::from_be_bytes(self.cx.random())));
        let named = match self.write(session, &temporary, key, bytes).await {
            Ok(()) => self.name_it(session, &temporary, key, mode).await,
            Err(Outcome::Failed(error)) if session.can.statvfs => {
                // A server has one word for all that goes wrong.
                let room = self.check_room(session, Reserve::Bytes(0), bytes.len()).await;
                Err(room.err().unwrap_or(Outcome::Failed(error)))
            }
            Err(outcome) => Err(outcome),
        };
        // Whatever became of it, the temporary name is not needed; if it stays it is no object, and is reclaimed one day.
        let gone = session.remove(&temporary);
        match named {
            Ok(()) => {
                let (synced, _) = future::join(self.sync_directory(session, parent), gone).await;
                synced
            }
            Err(outcome) => {
                if !session.is_over() {
                    let _ = gone.await;
                }
                // One of the directories may have gone since we made it.
                if matches!(outcome, Outcome::NotThere) {
                    self.made.lock().unwrap_or_else(|broken| broken.into_inner()).clear();
                    return Err(Outcome::Passing(io::Error::other("a directory went away meanwhile")));
                }
                Err(outcome)
            }
        }
    }

    async fn write(
        &self,
        session: &Arc<Session>,
        temporary: &str,
        key: &ObjectKey,
        bytes: &[u8],
    ) -> Result<(), Outcome> {
        let file = Opened::create(session, temporary).await?;
        file.write(bytes).await?;
        if session.can.fsync && !sabotage::on("sftp-no-file-fsync") {
            // After a failure it is not asked again: what was lost is told once.
            file.sync().await?;
        }
        let should_read_back =
            !key.is_bulk() || self.n_bulky.fetch_add(1, Ordering::Relaxed).is_multiple_of(READ_BACK_EVERY);
        let length = if should_read_back { None } else { file.attributes().await?.size };
        file.close().await?;
        let is_right = match should_read_back {
            // Opened anew: there are servers that read from no file that they write.
            true => {
                let file = Opened::to_read(session, temporary).await?;
                let read = file.read(0..bytes.len() as u64 + 1).await;
                file.leave();
                read? == bytes
            }
            false => length == Some(bytes.len() as u64),
        };
        match is_right {
            true => Ok(()),
            false => Err(Outcome::Failed(io::Error::other("what was written does not read back"))),
        }
    }

    async fn name_it(
        &self,
        session: &Arc<Session>,
        temporary: &str,
        key: &ObjectKey,
        mode: Mode,
    ) -> Result<(), Outcome> {
        let path = self.path(key.as_str());
        let result = match mode {
            Mode::Overwrite if session.can.posix_rename => {
                return session.extended(POSIX_RENAME, &[temporary, &path]).await;
            }
            // Who reads in between finds nothing.
            Mode::Overwrite => {
                session.remove(&path).await?;
                session.judge(session.sftp.rename(temporary, &path).await)
            }
            Mode::Create if sabotage::on("sftp-put-replaces") => {
                return session.extended(POSIX_RENAME, &[temporary, &path]).await;
            }
            Mode::Create => self.link(session, temporary, &path).await,
        };
        match result {
            Err(Outcome::Failed(error)) if mode == Mode::Create => match self.settle_at(session, key).await {
                Ok(_) => Err(Outcome::Taken),
                Err(Outcome::NotThere) => Err(Outcome::Failed(error)),
                Err(outcome) => Err(outcome),
            },
            result => result.map(drop),
        }
    }

    /// Gives a file its name, if nothing has that.
    async fn link(&self, session: &Session, temporary: &str, path: &str) -> Result<Status, Outcome> {
        if session.can.hardlink && !self.has_no_links.load(Ordering::Relaxed) {
            match session.sftp.hardlink(temporary, path).await {
                Err(Error::Status(Status { status_code: StatusCode::OpUnsupported, .. })) => {
                    self.has_no_links.store(true, Ordering::Relaxed);
                }
                linked => return session.judge(linked),
            }
        }
        // By the protocol this replaces nothing (draft-ietf-secsh-filexfer-02, 6.5); whether it does, a probe sees.
        session.judge(session.sftp.rename(temporary, path).await)
    }

    /// Makes durable what stands under a key: who put it may not have come so far.
    async fn settle_at(&self, session: &Arc<Session>, key: &ObjectKey) -> Result<Object, Outcome> {
        let object = self.stat_at(session, key).await?;
        if session.can.fsync
            && let Some((parent, _)) = place(key)
        {
            let file = Opened::to_read(session, &self.path(key.as_str())).await?;
            let synced = file.sync().await;
            file.leave();
            synced?;
            self.sync_directory(session, parent).await?;
        }
        Ok(object)
    }

    async fn stat_at(&self, session: &Session, key: &ObjectKey) -> Result<Object, Outcome> {
        if place(key).is_none() {
            return Err(Outcome::NotThere);
        }
        match session.attributes(&self.path(key.as_str())).await {
            Ok(attributes) if is_regular(&attributes) => Ok(object(key.clone(), &attributes)),
            Ok(attributes) if is_directory(&attributes) => Err(Outcome::NotThere),
            Ok(_) => Err(Outcome::Failed(io::Error::other("this is no regular file"))),
            Err(outcome) => Err(self.sure(session, outcome).await),
        }
    }

    async fn fetch_at(
        &self,
        session: &Arc<Session>,
        key: &ObjectKey,
        range: Option<&Range<u64>>,
    ) -> Result<Fetched, Outcome> {
        // Through no link, and from no directory, which a server may open as well.
        let length = self.stat_at(session, key).await?.bytes;
        let file = match Opened::to_read(session, &self.path(key.as_str())).await {
            Err(outcome) => return Err(self.sure(session, outcome).await),
            file => file?,
        };
        let wanted = range.map_or(0..length, |range| range.start.min(length)..range.end.min(length));
        let n_bytes = wanted.end - wanted.start;
        let read = file.read(wanted).await;
        file.leave();
        let bytes = read?;
        match bytes.len() as u64 == n_bytes {
            true => Ok(Fetched { length, bytes }),
            false => {
                let what = format!("{} bytes came for {n_bytes}", bytes.len());
                Err(Outcome::Passing(io::Error::other(what)))
            }
        }
    }

    /// Every object below a prefix: a list that breaks has shown nothing yet.
    async fn walk(&self, prefix: &str) -> Result<Vec<Object>, Outcome> {
        if prefix == TMP || prefix.starts_with("tmp/") {
            return Ok(Vec::new());
        }
        let session = &self.session().await?;
        // That there is none is sure only if ours is there.
        let root = session.attributes(&self.path("")).await;
        if matches!(root, Err(Outcome::NotThere)) {
            return Err(Outcome::NoStore);
        }
        root?;
        match session.attributes(&self.path(prefix)).await {
            Ok(attributes) if is_directory(&attributes) => {}
            Ok(_) | Err(Outcome::NotThere) => return Ok(Vec::new()),
            Err(outcome) => return Err(outcome),
        }
        let (mut objects, mut directories) = (Vec::new(), vec![prefix.to_owned()]);
        while !directories.is_empty() {
            let read = |directory: String| async move {
                let _call = self.calls.acquire().await;
                match session.names(&self.path(&directory)).await {
                    // It went since it was seen.
                    Err(Outcome::NotThere) => Ok((directory, Vec::new())),
                    names => names.map(|names| (directory, names)),
                }
            };
            let read =
                stream::iter(std::mem::take(&mut directories)).map(read).buffer_unordered(N_DIRECTORIES);
            for (directory, files) in read.try_collect::<Vec<_>>().await? {
                for file in files {
                    let name = match directory.as_str() {
                        "" if file.filename == TMP => continue,
                        "" => file.filename,
                        directory => format!("{directory}/{}", file.filename),
                    };
                    let Ok(key) = ObjectKey::parse(&name) else { continue };
                    match &file.attrs {
                        attributes if is_directory(attributes) => directories.push(name),
                        attributes if is_regular(attributes) => objects.push(object(key, attributes)),
                        _ => {}
                    }
                }
            }
        }
        Ok(objects)
    }

    /// Whether what was stored survives a power cut, as far as can be seen from here.
    async fn durable(&self) -> Result<Durability, Outcome> {
        let can = self.session().await?.can;
        let has_links = can.hardlink && !self.has_no_links.load(Ordering::Relaxed);
        let why = match (can.fsync, self.syncs_directories.load(Ordering::Relaxed), has_links) {
            (false, ..) => {
                "a server over SFTP without fsync@openssh.com, which never says when data is on its disk"
            }
            (_, _, false) => {
                "a server over SFTP without hardlink@openssh.com, where only its word keeps two writers of one name apart"
            }
            (_, false, _) => {
                "a server over SFTP that syncs no directories, so that names may not be on its disk"
            }
            (true, true, true) => return Ok(Durability::Full),
        };
        Ok(Durability::BestEffort { why })
    }

    /// Removes what broken uploads left, if last written to before `before`.
    async fn reclaim_at(&self, before: jiff::Timestamp) -> Result<usize, Outcome> {
        let session = self.session().await?;
        let left = match session.names(&self.path(TMP)).await {
            Err(Outcome::NotThere) => return Ok(0),
            left => left?,
        };
        let old =
            |file: &&russh_sftp::protocol::File| is_regular(&file.attrs) && stored(&file.attrs) < before;
        let mut n_removed = 0;
        for file in left.iter().filter(old) {
            session.remove(&self.path(&format!("{TMP}/{}", file.filename))).await?;
            n_removed += 1;
        }
        Ok(n_removed)
    }
}

#[async_trait::async_trait]
impl Wire for Sftp {
    async fn send(&self, key: &ObjectKey, bytes: &Bytes, mode: Mode) -> Result<(), Outcome> {
        let _call = self.calls.acquire().await;
        let session = self.session().await?;
        self.bring(&session, key, bytes, mode).await
    }

    async fn fetch(&self, key: &ObjectKey, range: Option<&Range<u64>>) -> Result<Fetched, Outcome> {
        let _call = self.calls.acquire().await;
        let session = self.session().await?;
        self.fetch_at(&session, key, range).await
    }

    fn list<'w>(&'w self, prefix: &str, after: Option<&ObjectKey>) -> BoxStream<'w, Result<Object, Outcome>> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let walked = async move {
            let mut objects = self.walk(&prefix).await?;
            // A server has no word for this, so all was read.
            objects.retain(|object| after.as_ref().is_none_or(|after| object.key > *after));
            Ok(stream::iter(objects).map(Ok))
        };
        stream::once(walked).try_flatten().boxed()
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Object, Outcome> {
        let session = self.session().await?;
        self.stat_at(&session, key).await
    }

    async fn settle(&self, key: &ObjectKey) -> Result<Object, Outcome> {
        let _call = self.calls.acquire().await;
        let session = self.session().await?;
        self.settle_at(&session, key).await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), Outcome> {
        let Some((parent, _)) = place(key) else { return Ok(()) };
        let _call = self.calls.acquire().await;
        let session = self.session().await?;
        session.remove(&self.path(key.as_str())).await?;
        // Who removed it before us may not have synced the directory yet.
        match self.sync_directory(&session, parent).await {
            Err(Outcome::NotThere) => match self.sure(&session, Outcome::NotThere).await {
                Outcome::NotThere => Ok(()),
                outcome => Err(outcome),
            },
            synced => synced,
        }
    }

    async fn durability(&self) -> Result<Durability, Outcome> {
        self.durable().await
    }

    async fn reclaim(&self, before: jiff::Timestamp) -> Result<usize, Outcome> {
        self.reclaim_at(before).await
    }
}

/// Directory and name of an object. `None` for a key below `tmp`, which is the store's own.
fn place(key: &ObjectKey) -> Option<(&str, &str)> {
    let (parent, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
    if key.as_str() == TMP || key.is_below(TMP) { None } else { Some((parent, name)) }
}

fn object(key: ObjectKey, attributes: &FileAttributes) -> Object {
    Object { key, bytes: attributes.size.unwrap_or_default(), stored: stored(attributes) }
}

/// When it was last written to.
fn stored(attributes: &FileAttributes) -> jiff::Timestamp {
    jiff::Timestamp::from_second(i64::from(attributes.mtime.unwrap_or_default())).unwrap_or_default()
}
