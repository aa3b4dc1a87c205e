//! Object Lock: what is put stays for a while, whatever key somebody steals.
//!
//! - Everything but leases and probes is locked as it is put, for half as long again as is asked for, and looked at again: that
//!   the server has taken a lock is believed only once it has said so of the object.
//! - Before a commit, whatever it may rely on and has less than the time that is asked for is locked anew; so each object is
//!   asked for once in half of that time, and not at each backup.
//! - What is removed is removed with its version, once its lock has ended. Before, it is [`Outcome::Locked`].
//!
//! When locks end is what the server said of each object, never what follows from when it was put: it may have been put by
//! another rule, or before there was any. It is remembered in a file; of what does not stand there, the server is asked.
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>.

use super::requests::{Ask, Requests, Said};
use crate::answer::{Outcome, noting};
use crate::wire::{Fetched, Mode, Wire};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use hikae_model::{Cx, sabotage};
use hikae_store::{Held, MayGo, Object, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

/// Who may end a lock early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3LockMode {
    /// Nobody.
    Compliance,
    /// Who has a right of its own to.
    Governance,
}

impl S3LockMode {
    /// As the server has it.
    fn name(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// How long what is stored stays, whoever wants it gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Lock {
    /// Who may end it early.
    pub mode: S3LockMode,
    /// The least that each object is locked for when a commit relies on it.
    pub length: SignedDuration,
    /// A file in which it is remembered when locks end.
    pub remembered: Option<PathBuf>,
}

/// What is never locked: it is put to be removed again.
const EXEMPT: [&str; 2] = ["leases/", "probe/"];
/// Locks that are asked for at once.
const AT_ONCE: usize = 16;

impl S3Lock {
    /// Until when something is locked that is locked now.
    fn until(&self, now: Timestamp) -> Timestamp {
        let end = now + self.length + self.length / 2;
        Timestamp::from_second(end.as_second()).unwrap_or(end)
    }

    /// The headers that lock the object of this name, if it is to be locked.
    pub(super) fn headers(&self, name: &str, now: Timestamp) -> Option<[(&'static str, String); 2]> {
        let is_locked = !name.is_empty() && !EXEMPT.iter().any(|exempt| name.starts_with(exempt));
        is_locked.then(|| {
            [
                ("x-amz-object-lock-mode", self.mode.name().to_owned()),
                ("x-amz-object-lock-retain-until-date", self.until(now).to_string()),
            ]
        })
    }
}

/// A bucket whose objects are locked.
pub(super) struct Locking<W> {
    pub inner: W,
    pub requests: Requests,
    pub prefix: String,
    pub lock: S3Lock,
    pub cx: Cx,
    pub seen: Mutex<SeenLocks>,
}

/// What the server said of locks.
#[derive(Default)]
pub(super) struct SeenLocks {
    held: Held,
    ends: BTreeMap<String, Timestamp>,
}

/// What the server says of one object.
struct Seen {
    version: Option<String>,
    mode: Option<String>,
    until: Option<Timestamp>,
    sum: Option<String>,
}

impl<W: Wire> Locking<W> {
    fn path(&self, key: &ObjectKey) -> String {
        match self.prefix.as_str() {
            "" => key.as_str().to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    async fn see(&self, key: &ObjectKey) -> Result<Seen, Outcome> {
        let (path, headers) = (self.path(key), [("x-amz-checksum-mode", "ENABLED")]);
        let ask = Ask { method: "HEAD", path: &path, headers: &headers, ..Ask::default() };
        let said: Said = noting(self.requests.ask(&ask)).await?;
        let text = |name| said.header(name).map(str::to_owned);
        Ok(Seen {
            version: text("x-amz-version-id").filter(|version| version != "null"),
            mode: text("x-amz-object-lock-mode"),
            until: said.header("x-amz-object-lock-retain-until-date").and_then(|until| until.parse().ok()),
            sum: text("x-amz-checksum-sha256"),
        })
    }

    /// That the server has locked it as long as is asked for, and has what was put.
    async fn look(&self, key: &ObjectKey, bytes: &Bytes, now: Timestamp) -> Result<(), Outcome> {
        let seen = self.see(key).await?;
        let until = seen.until.filter(|until| *until >= now + self.lock.length);
        let Some(until) = until.filter(|_| seen.mode.as_deref() == Some(self.lock.mode.name())) else {
            let found = match (seen.mode, seen.until) {
                (Some(mode), Some(until)) => format!("{mode} until {until}"),
                _ => "not, or we may not see it (s3:GetObjectRetention)".to_owned(),
            };
            return Err(unlocked(format!("{key} was put, and is locked {found}")));
        };
        let sum = base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            <sha2::Sha256 as sha2::Digest>::digest(bytes),
        );
        if seen.sum.is_some_and(|seen| seen != sum) {
            return Err(Outcome::Failed(io::Error::other("the server has other bytes than were put")));
        }
        let mut seen = self.seen();
        seen.held.n_put += 1;
        seen.ends.insert(key.as_str().to_owned(), until);
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, SeenLocks> {
        self.seen.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// When the lock of an object ends of which nothing is remembered. One that is gone needs none.
    async fn end_of(&self, key: &ObjectKey) -> Result<(String, Timestamp), Outcome> {
        let end = match self.see(key).await {
            Err(Outcome::NotThere) => Timestamp::MAX,
            seen => seen?.until.unwrap_or(Timestamp::MIN),
        };
        Ok((key.as_str().to_owned(), end))
    }

    /// Locks what is there for as long as what is put now.
    async fn extend(&self, key: &ObjectKey, until: Timestamp) -> Result<(), Outcome> {
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode>\
             <RetainUntilDate>{until}</RetainUntilDate></Retention>",
            self.lock.mode.name()
        );
        let path = self.path(key);
        let ask = Ask { method: "PUT", path: &path, query: "?retention", body: &body, ..Ask::default() };
        match noting(self.requests.ask(&ask)).await {
            // A lock that ends later than ours is not shortened, and need not be.
            Err(Outcome::Refused(error)) => match self.see(key).await?.until {
                Some(there) if there >= until => Ok(()),
                _ => Err(Outcome::Refused(error)),
            },
            // Removed meanwhile, by who had doomed it.
            Err(Outcome::NotThere) => Ok(()),
            said => said.map(drop),
        }
    }
}

fn unlocked(what: String) -> Outcome {
    Outcome::Unlocked(io::Error::other(what))
}

#[async_trait::async_trait]
impl<W: Wire> Wire for Locking<W> {
    async fn send(&self, key: &ObjectKey, bytes: &Bytes, mode: Mode) -> Result<(), Outcome> {
        let now = self.cx.now();
        self.inner.send(key, bytes, mode).await?;
        let is_locked = self.lock.headers(key.as_str(), now).is_some() && !sabotage::on("lock-unseen");
        if is_locked { self.look(key, bytes, now).await } else { Ok(()) }
    }

    async fn fetch(&self, key: &ObjectKey, range: Option<&Range<u64>>) -> Result<Fetched, Outcome> {
        self.inner.fetch(key, range).await
    }

    fn list<'w>(&'w self, prefix: &str, after: Option<&ObjectKey>) -> BoxStream<'w, Result<Object, Outcome>> {
        self.inner.list(prefix, after)
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Object, Outcome> {
        self.inner.stat(key).await
    }

    async fn settle(&self, key: &ObjectKey) -> Result<Object, Outcome> {
        self.inner.settle(key).await
    }

    /// With each version of it, so that nothing of it is left to be paid for.
    async fn remove(&self, key: &ObjectKey) -> Result<(), Outcome> {
        loop {
            let seen = match self.see(key).await {
                Err(Outcome::NotThere) => return Ok(()),
                seen => seen?,
            };
            if let Some(until) = seen.until.filter(|until| *until > self.cx.now()) {
                return Err(Outcome::Locked(until));
            }
            let Some(version) = seen.version else { return self.inner.remove(key).await };
            let (path, query) = (self.path(key), format!("?versionId={version}"));
            let ask = Ask { method: "DELETE", path: &path, query: &query, ..Ask::default() };
            noting(self.requests.ask(&ask)).await?;
        }
    }

    async fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>, Outcome> {
        Ok(self.see(key).await?.until.filter(|until| *until > self.cx.now()))
    }

    async fn hold(&self, may_go: MayGo<'_>) -> Result<Held, Outcome> {
        let (now, mut ends) = (self.cx.now(), Ends::read(&self.lock));
        for (key, end) in &self.seen().ends {
            // What another process has made longer meanwhile stays so.
            let known = ends.0.entry(key.clone()).or_insert(*end);
            *known = (*known).max(*end);
        }
        let mut kept: Vec<ObjectKey> = Vec::new();
        let mut there = self.inner.list("", None);
        while let Some(object) = there.try_next().await? {
            if self.lock.headers(object.key.as_str(), now).is_some() && !may_go(&object.key) {
                kept.push(object.key);
            }
        }
        let n_remembered = ends.0.len();
        let unknown: Vec<_> = kept
            .iter()
            .filter(|key| !ends.0.contains_key(key.as_str()))
            .map(|key| self.end_of(key))
            .collect();
        let found: Vec<_> = stream::iter(unknown).buffer_unordered(AT_ONCE).try_collect().await?;
        ends.0.extend(found);
        let (least, until) = (now + self.lock.length, self.lock.until(now));
        let is_short = |key: &&ObjectKey| ends.0.get(key.as_str()).is_none_or(|end| *end < least);
        let short: Vec<&ObjectKey> =
            kept.iter().filter(is_short).filter(|_| !sabotage::on("old-packs-not-held")).collect();
        let extended: Vec<_> = short.iter().map(|key| self.extend(key, until)).collect();
        stream::iter(extended).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let longer: Vec<_> = short.iter().map(|key| (key.as_str().to_owned(), until)).collect();
        let n_extended = longer.len() as u64;
        ends.0.extend(longer);
        let names: BTreeSet<&str> = kept.iter().map(ObjectKey::as_str).collect();
        ends.0.retain(|key, _| names.contains(key.as_str()));
        if n_extended > 0 || ends.0.len() != n_remembered {
            ends.write(&self.lock);
        }
        let mut seen = self.seen();
        seen.held.n_extended += n_extended;
        seen.held.until = ends.0.values().min().copied();
        seen.ends = ends.0;
        Ok(seen.held.clone())
    }
}

/// When locks end, by the names of objects.
struct Ends(BTreeMap<String, Timestamp>);

impl Ends {
    /// What cannot be read is not known.
    fn read(lock: &S3Lock) -> Self {
        let text = lock.remembered.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let end = |line: &str| {
            let (key, end) = line.split_once(' ')?;
            Some((key.to_owned(), end.parse().ok()?))
        };
        Self(text.unwrap_or_default().lines().filter_map(end).collect())
    }

    /// What cannot be written is asked for again.
    fn write(&self, lock: &S3Lock) {
        let Some(path) = &lock.remembered else { return };
        let text: String = self.0.iter().map(|(key, end)| format!("{key} {end}\n")).collect();
        let new = path.with_extension("new");
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let _ = made.and_then(|()| std::fs::write(&new, text)).and_then(|()| std::fs::rename(&new, path));
    }
}
