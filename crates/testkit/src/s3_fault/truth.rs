//! Buckets and what is in them: versions, conditions, checksums, locks.
//!
//! Source: the pages of each operation below <https://docs.aws.amazon.com/AmazonS3/latest/API/>, and
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>.

use super::S3Fault;
use super::request::{Answer, Request};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All buckets.
pub(crate) struct Truth {
    buckets: BTreeMap<String, Bucket>,
    pub page: usize,
    n_versions: usize,
}

impl Default for Truth {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), page: 1000, n_versions: 0 }
    }
}

struct Bucket {
    owner: String,
    is_versioned: bool,
    is_locked: bool,
    /// Documents that are kept and given back, by the name of what they say.
    documents: BTreeMap<String, Vec<u8>>,
    objects: BTreeMap<String, Vec<Version>>,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub id: String,
    /// What it holds; nothing if it says that the object was removed.
    pub bytes: Option<Arc<Vec<u8>>>,
    /// When it was put.
    pub stored: Timestamp,
    /// Until when nobody removes it.
    pub lock: Option<Locked>,
    /// What else was asked for with it: storage class, encryption.
    pub headers: Vec<(String, String)>,
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// `COMPLIANCE` or `GOVERNANCE`.
    pub mode: String,
    /// When it ends.
    pub until: Timestamp,
}

/// What an object keeps of what was said when it was put, and says again.
const KEPT: [&str; 3] =
    ["x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"];
/// Classes that must be thawed.
const FROZEN: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

impl Truth {
    pub fn versions_of(&self, bucket: &str) -> BTreeMap<String, Vec<Version>> {
        let mut objects = self.buckets.get(bucket).map(|bucket| bucket.objects.clone()).unwrap_or_default();
        objects.retain(|_, versions| !versions.is_empty());
        objects
    }

    pub fn objects_of(&mut self, bucket: &str) -> &mut BTreeMap<String, Vec<Version>> {
        &mut self.buckets.get_mut(bucket).expect("a bucket of that name").objects
    }

    pub fn hand_over(&mut self, bucket: &str, owner: &str) {
        let bucket = self.buckets.get_mut(bucket).expect("a bucket of that name");
        bucket.owner = owner.to_owned();
    }

    pub fn answer(&mut self, request: &Request, now: Timestamp) -> Answer {
        let (bucket_name, key) = match request.path.split_once('/') {
            Some((bucket, key)) => (bucket, key),
            None => (request.path.as_str(), ""),
        };
        let made = self.buckets.contains_key(bucket_name);
        let is_making = request.method == "PUT" && key.is_empty() && request.query.is_empty();
        if is_making && made {
            return Answer::no(409, "BucketAlreadyOwnedByYou", "yours already");
        }
        if is_making {
            let is_locked = request.header("x-amz-bucket-object-lock-enabled") == Some("true");
            let bucket = Bucket {
                owner: S3Fault::OWNER.to_owned(),
                is_versioned: is_locked,
                is_locked,
                documents: BTreeMap::new(),
                objects: BTreeMap::new(),
            };
            self.buckets.insert(bucket_name.to_owned(), bucket);
            return Answer::yes("");
        }
        let (page, n) = (self.page, &mut self.n_versions);
        let Some(bucket) = self.buckets.get_mut(bucket_name) else {
            return Answer::no(404, "NoSuchBucket", "no such bucket");
        };
        if request.header("x-amz-expected-bucket-owner").is_some_and(|owner| owner != bucket.owner) {
            return Answer::no(403, "AccessDenied", "the bucket is another's");
        }
        match key {
            "" => bucket.answer(request, page),
            key => bucket.answer_for(key, request, now, n),
        }
    }
}

impl Bucket {
    fn answer(&mut self, request: &Request, page: usize) -> Answer {
        let documents = ["versioning", "object-lock", "lifecycle", "policy"];
        let named = documents.into_iter().find(|name| request.asks(name).is_some());
        match (request.method.as_str(), named) {
            ("GET" | "HEAD", None) if request.asks("versions").is_some() => self.list_versions(request),
            ("GET", None) if request.asks("list-type") == Some("2") => self.list(request, page),
            ("GET" | "HEAD", None) => Answer::yes(""),
            ("GET", Some("versioning")) => {
                let status = if self.is_versioned { "<Status>Enabled</Status>" } else { "" };
                Answer::yes(format!("<VersioningConfiguration>{status}</VersioningConfiguration>"))
            }
            ("GET", Some(name)) => match self.documents.get(name) {
                Some(document) => Answer::yes(document.clone()),
                None if name == "object-lock" && self.is_locked => Answer::yes(
                    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
                ),
                None if name == "object-lock" => {
                    Answer::no(404, "ObjectLockConfigurationNotFoundError", "no lock here")
                }
                None => Answer::no(404, "NoSuchConfiguration", "none"),
            },
            ("PUT", Some(_)) if !is_summed(request) => {
                Answer::no(400, "InvalidRequest", "a document needs a checksum")
            }
            ("PUT", Some(name)) => {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                match name {
                    "versioning" if self.is_locked && text.contains("Suspended") => {
                        return Answer::no(409, "InvalidBucketState", "a bucket with locks keeps versions");
                    }
                    "versioning" => self.is_versioned = text.contains("<Status>Enabled</Status>"),
                    "object-lock" if !self.is_versioned => {
                        return Answer::no(409, "InvalidBucketState", "versions first");
                    }
                    "object-lock" => self.is_locked = true,
                    _ => {}
                }
                self.documents.insert(name.to_owned(), request.body.clone());
                Answer::yes("")
            }
            _ => Answer::no(501, "NotImplemented", "not here"),
        }
    }

    fn list(&self, request: &Request, page: usize) -> Answer {
        let prefix = request.asks("prefix").unwrap_or_default();
        let after =
            request.asks("continuation-token").or_else(|| request.asks("start-after")).unwrap_or_default();
        let most = request.asks("max-keys").and_then(|n| n.parse().ok()).unwrap_or(page).min(page);
        let current = self.objects.iter().filter_map(|(key, versions)| {
            let last = versions.last()?;
            Some((key, last, last.bytes.as_ref()?))
        });
        let mut shown: Vec<_> = current
            .filter(|(key, ..)| key.starts_with(prefix) && key.as_str() > after)
            .take(most + 1)
            .collect();
        let is_cut = shown.len() > most;
        shown.truncate(most);
        let next = match (is_cut, shown.last()) {
            (true, Some((key, ..))) => format!("<NextContinuationToken>{key}</NextContinuationToken>"),
            _ => String::new(),
        };
        let objects: String = shown
            .iter()
            .map(|(key, version, bytes)| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>{:.3}</LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
                    version.stored, version.id, bytes.len()
                )
            })
            .collect();
        Answer::yes(format!(
            "<ListBucketResult><IsTruncated>{is_cut}</IsTruncated>{next}<KeyCount>{}</KeyCount>{objects}</ListBucketResult>",
            shown.len()
        ))
    }

    fn list_versions(&self, request: &Request) -> Answer {
        let prefix = request.asks("prefix").unwrap_or_default();
        let all = self.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let shown: String = all
            .flat_map(|(key, versions)| versions.iter().rev().map(move |version| (key, version)))
            .map(|(key, version)| {
                let kind = if version.bytes.is_some() { "Version" } else { "DeleteMarker" };
                format!("<{kind}><Key>{key}</Key><VersionId>{}</VersionId></{kind}>", version.id)
            })
            .collect();
        Answer::yes(format!(
            "<ListVersionsResult><IsTruncated>false</IsTruncated>{shown}</ListVersionsResult>"
        ))
    }

    fn answer_for(&mut self, key: &str, request: &Request, now: Timestamp, n: &mut usize) -> Answer {
        let named = request.asks("versionId");
        let versions = self.objects.entry(key.to_owned()).or_default();
        let at = match named {
            Some(id) => versions.iter().position(|version| version.id == id),
            None => versions.len().checked_sub(1),
        };
        let there = at.filter(|&at| versions[at].bytes.is_some());
        match (request.method.as_str(), request.asks("retention").is_some(), there) {
            ("PUT", false, there) => {
                let version = match self.version(request, now) {
                    Ok(version) => version,
                    Err(no) => return no,
                };
                if request.header("if-none-match") == Some("*") && there.is_some() {
                    return Answer::no(412, "PreconditionFailed", "there is one");
                }
                *n += 1;
                let version = Version { id: format!("v{n}"), ..version };
                let answer = Answer::yes("").with("ETag", format!("\"{}\"", version.id));
                let answer =
                    if self.is_versioned { answer.with("x-amz-version-id", &version.id) } else { answer };
                let versions = self.objects.entry(key.to_owned()).or_default();
                if !self.is_versioned {
                    versions.clear();
                }
                versions.push(version);
                answer
            }
            ("PUT", true, Some(at)) => retain(&mut versions[at], self.is_locked, request, now),
            ("GET", true, Some(at)) => match &versions[at].lock {
                Some(lock) => Answer::yes(format!(
                    "<Retention><Mode>{}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
                    lock.mode, lock.until
                )),
                None => Answer::no(404, "NoSuchObjectLockConfiguration", "not locked"),
            },
            ("GET" | "HEAD", false, Some(at)) => read(&versions[at], request),
            ("DELETE", ..) if self.is_versioned && named.is_none() => {
                *n += 1;
                let id = format!("v{n}");
                let marker = Version { id, bytes: None, stored: now, lock: None, headers: Vec::new() };
                versions.push(marker);
                Answer { status: 204, ..Answer::yes("") }.with("x-amz-delete-marker", "true")
            }
            ("DELETE", ..) => {
                let Some(at) = at else { return Answer { status: 204, ..Answer::yes("") } };
                let may_bypass = request.header("x-amz-bypass-governance-retention") == Some("true");
                let is_held = versions[at]
                    .lock
                    .as_ref()
                    .is_some_and(|lock| lock.until > now && !(lock.mode == "GOVERNANCE" && may_bypass));
                if is_held {
                    return Answer::no(403, "AccessDenied", "the object is locked");
                }
                versions.remove(at);
                if versions.is_empty() {
                    self.objects.remove(key);
                }
                Answer { status: 204, ..Answer::yes("") }
            }
            _ => Answer::no(404, "NoSuchKey", "no such object"),
        }
    }

    /// What is put, if it is put as it must be.
    fn version(&self, request: &Request, now: Timestamp) -> Result<Version, Answer> {
        let Some(sum) = request.header("x-amz-checksum-sha256") else {
            return Err(Answer::no(400, "InvalidRequest", "no checksum"));
        };
        if sum != sum_of(&request.body) {
            return Err(Answer::no(400, "BadDigest", "the checksum is another"));
        }
        let lock = match (
            request.header("x-amz-object-lock-mode"),
            request.header("x-amz-object-lock-retain-until-date"),
        ) {
            (None, None) => None,
            (Some(mode), Some(until)) if self.is_locked => Some(locked(mode, until, now)?),
            (Some(_), Some(_)) => return Err(Answer::no(400, "InvalidRequest", "the bucket has no locks")),
            _ => return Err(Answer::no(400, "InvalidRequest", "half a lock")),
        };
        let headers =
            request.headers.iter().filter(|(name, _)| KEPT.contains(&name.as_str())).cloned().collect();
        let bytes = Some(Arc::new(request.body.clone()));
        Ok(Version { id: String::new(), bytes, stored: now, lock, headers })
    }
}

fn read(version: &Version, request: &Request) -> Answer {
    let Some(bytes) = &version.bytes else { return Answer::no(404, "NoSuchKey", "no such object") };
    let is_frozen = version.headers.iter().any(|(_, value)| FROZEN.contains(&value.as_str()));
    if is_frozen && request.method == "GET" {
        return Answer::no(403, "InvalidObjectState", "it must be restored first");
    }
    let stored = version.stored.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let mut answer = Answer::yes("")
        .with("Last-Modified", stored)
        .with("ETag", format!("\"{}\"", version.id))
        .with("x-amz-version-id", &version.id);
    if request.header("x-amz-checksum-mode") == Some("ENABLED") {
        answer = answer.with("x-amz-checksum-sha256", sum_of(bytes));
    }
    if let Some(lock) = &version.lock {
        answer = answer
            .with("x-amz-object-lock-mode", &lock.mode)
            .with("x-amz-object-lock-retain-until-date", lock.until);
    }
    answer.headers.extend(version.headers.iter().cloned());
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((start, end)) = range else {
        // The length of what a GET would give, to a HEAD too.
        let answer = Answer { body: bytes.to_vec(), ..answer };
        return if request.method == "HEAD" { answer.with("Content-Length", bytes.len()) } else { answer };
    };
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1).min(bytes.len());
    if start >= end {
        return Answer::no(416, "InvalidRange", "beyond the end");
    }
    let answer = answer.with("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len()));
    Answer { status: 206, body: bytes[start..end].to_vec(), ..answer }
}

fn retain(version: &mut Version, is_locked: bool, request: &Request, now: Timestamp) -> Answer {
    let text = String::from_utf8_lossy(&request.body).into_owned();
    let element = |name: &str| {
        let inner = text.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>"))?.0;
        Some(inner.to_owned())
    };
    let (Some(mode), Some(until)) = (element("Mode"), element("RetainUntilDate")) else {
        return Answer::no(400, "MalformedXML", "no retention");
    };
    if !is_locked || !is_summed(request) {
        return Answer::no(400, "InvalidRequest", "no locks here, or no checksum");
    }
    let new = match locked(&mode, &until, now) {
        Ok(new) => new,
        Err(no) => return no,
    };
    if let Some(old) = &version.lock
        && old.until > now
        && (new.until < old.until || (old.mode == "COMPLIANCE" && new.mode != old.mode))
    {
        return Answer::no(403, "AccessDenied", "a lock is not shortened");
    }
    version.lock = Some(new);
    Answer::yes("")
}

fn locked(mode: &str, until: &str, now: Timestamp) -> Result<Locked, Answer> {
    let until: Timestamp =
        until.parse().map_err(|_| Answer::no(400, "InvalidArgument", "the end of a lock is no time"))?;
    match ["COMPLIANCE", "GOVERNANCE"].contains(&mode) && until > now {
        true => Ok(Locked { mode: mode.to_owned(), until }),
        false => Err(Answer::no(400, "InvalidArgument", "a lock that is none")),
    }
}

fn is_summed(request: &Request) -> bool {
    request.header("x-amz-checksum-sha256") == Some(sum_of(&request.body).as_str())
        || request.header("content-md5").is_some()
}

fn sum_of(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha256::digest(bytes))
}
