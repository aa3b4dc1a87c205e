//! The object that holds many small segments of the write-ahead log.
//!
//! ```text
//! length of the head u32 | head (a sealed object) | object of a segment | object of a segment | …
//! ```
//!
//! - What it holds are the very bytes of the single objects, each with its own head: who reads one believes it no more than
//!   if it stood alone, and who wrote the bundle is asked nothing about contents.
//! - Its name is the hash of its bytes, and tells the first and the last segment: a look at a list says which one to open.
//! - A bundle is never changed. Of two that hold the same segment the one of higher rank is kept.
//!
//! This module knows the bytes. Whether a bundle counts, and what may go because of it, is not for it to say.

use super::stored::{Place, ReadRange, read_head};
use crate::RepoError;
use crate::cbor;
use crate::layout;
use crate::object::{BadObject, ObjectClass, open_object, seal_object};
use crate::unlocked::Unlocked;
use hikae_model::{BundleId, SegmentName, SystemId, Timeline, WriterId, sabotage};
use hikae_store::ObjectKey;
use jiff::Timestamp;
use minicbor::{Decode, Encode};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

/// The head of a full bundle of writers of today is shorter.
const USUAL_HEAD_BYTES: u64 = 16 << 10;
/// `high u32 | low u32 | bytes u32 | seconds u64`
const MEMBER_BYTES: usize = 20;

/// The name of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleName {
    /// Its first segment.
    pub first: SegmentName,
    /// Its last one, of the same timeline.
    pub last: SegmentName,
    /// Hash of its bytes.
    pub id: BundleId,
}

impl BundleName {
    /// True if a segment could be in it.
    pub fn spans(&self, segment: SegmentName) -> bool {
        (self.first..=self.last).contains(&segment)
    }
}

/// In lower case, as the last part of its key.
impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments = format!("{}-{}", self.first, self.last).to_ascii_lowercase();
        write!(f, "{segments}.{}", self.id)
    }
}

/// No name of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no name of a bundle")]
pub struct BadBundleName;

impl FromStr for BundleName {
    type Err = BadBundleName;

    fn from_str(text: &str) -> Result<Self, BadBundleName> {
        let segment =
            |text: &str| text.to_ascii_uppercase().parse::<SegmentName>().map_err(|_| BadBundleName);
        let (segments, id) = text.split_once('.').ok_or(BadBundleName)?;
        let (first, last) = segments.split_once('-').ok_or(BadBundleName)?;
        let (first, last) = (segment(first)?, segment(last)?);
        let id = id.parse().map_err(|_| BadBundleName)?;
        match first <= last && first.timeline == last.timeline {
            true => Ok(Self { first, last, id }),
            false => Err(BadBundleName),
        }
    }
}

/// What is to be told of a bundle beside the segments that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bundling {
    pub(crate) system: SystemId,
    /// Above that of each bundle that it takes the place of.
    pub(crate) generation: u32,
    /// How long what it takes the place of stays once it is there.
    pub(crate) soft: Duration,
}

/// A bundle whose head was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) name: BundleName,
    pub(crate) bundling: Bundling,
    /// Who made it: signed. Whether it may is for the caller to find out.
    pub(crate) writer: WriterId,
    /// In order.
    pub(crate) members: Vec<Member>,
}

/// A segment in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) segment: SegmentName,
    /// Where its object begins.
    pub(crate) at: u64,
    /// How long that is.
    pub(crate) bytes: u32,
    /// When it was stored by itself: what came last tells which timeline is the present.
    pub(crate) stored: Timestamp,
}

/// A segment that is to be bundled.
pub(crate) struct NewMember {
    pub(crate) segment: SegmentName,
    pub(crate) stored: Timestamp,
    pub(crate) object: Vec<u8>,
}

/// A head as stored.
#[derive(Encode, Decode)]
#[cbor(map)]
struct HeadRecord {
    #[n(0)]
    system: u64,
    #[n(1)]
    timeline: u32,
    #[n(2)]
    generation: u32,
    #[n(3)]
    soft_seconds: u64,
    #[cbor(n(4), with = "minicbor::bytes")]
    members: Vec<u8>,
}

/// A range of bytes that are at hand.
pub(super) fn part_of(bytes: &[u8], range: Range<u64>) -> Result<Vec<u8>, RepoError> {
    let part = bytes.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec);
    part.ok_or(RepoError::NotTheSame)
}

/// So that no head stands in another cluster's place.
fn context(unlocked: &Unlocked, system: SystemId) -> Vec<u8> {
    [unlocked.header.core.repository.as_bytes().as_slice(), &system.0.to_le_bytes()].concat()
}

/// Makes a bundle of the objects of segments of one timeline, in order. Gives its bytes; nothing if there is no segment.
pub(crate) fn make_bundle(
    unlocked: &Unlocked,
    bundling: Bundling,
    objects: &[NewMember],
) -> Result<Option<(BundleName, Vec<u8>)>, RepoError> {
    let (Some(first), Some(last)) = (objects.first(), objects.last()) else { return Ok(None) };
    let (first, last) = (first.segment, last.segment);
    let all: usize = objects.iter().map(|new| new.object.len()).sum();
    let too_large = |_| RepoError::TooLarge { bytes: all as u64 };
    let mut members = Vec::with_capacity(objects.len() * MEMBER_BYTES);
    for NewMember { segment, stored, object } in objects {
        let (high, low) = segment.words();
        let bytes = u32::try_from(object.len()).map_err(too_large)?;
        [high, low, bytes].iter().for_each(|word| members.extend_from_slice(&word.to_le_bytes()));
        members.extend_from_slice(&u64::try_from(stored.as_second()).unwrap_or(0).to_le_bytes());
    }
    let record = HeadRecord {
        system: bundling.system.0,
        timeline: first.timeline.get(),
        generation: bundling.generation,
        soft_seconds: bundling.soft.as_secs(),
        members,
    };
    let context = context(unlocked, bundling.system);
    let body = cbor::to_bytes(&record);
    let head = seal_object(ObjectClass::WalBundle, &context, body, &unlocked.keys, &unlocked.signer);
    let length = u32::try_from(head.len()).map_err(too_large)?;
    let mut stored = Vec::with_capacity(4 + head.len() + all);
    stored.extend_from_slice(&length.to_le_bytes());
    stored.extend_from_slice(&head);
    objects.iter().for_each(|new| stored.extend_from_slice(&new.object));
    let id = BundleId::from_bytes(*blake3::hash(&stored).as_bytes());
    Ok(Some((BundleName { first, last, id }, stored)))
}

impl Bundle {
    /// Opens the head of the bundle of that name and length, of which `read` gives ranges. Nothing says yet that the bytes
    /// behind the head are right.
    pub(crate) fn open(
        unlocked: &Unlocked,
        system: SystemId,
        name: BundleName,
        bytes: u64,
        read: &ReadRange<'_>,
    ) -> Result<Self, RepoError> {
        let key = layout::wal_bundle(system, name);
        let (sealed, end) = read_head(&key, bytes, USUAL_HEAD_BYTES, read)?;
        Self::parse(unlocked, system, name, sealed, end..bytes).map_err(RepoError::damaged(key))
    }

    fn parse(
        unlocked: &Unlocked,
        system: SystemId,
        name: BundleName,
        sealed: Vec<u8>,
        objects: Range<u64>,
    ) -> Result<Self, BadObject> {
        let opened = open_object(ObjectClass::WalBundle, &context(unlocked, system), sealed, &unlocked.keys)?;
        let record: HeadRecord = cbor::from_bytes(&opened.body)?;
        let bad = |what: &str| BadObject::BadBody(what.to_owned());
        let timeline = Timeline::new(record.timeline).ok_or_else(|| bad("no log is of timeline 0"))?;
        let (records, rest) = record.members.as_chunks::<MEMBER_BYTES>();
        let mut members: Vec<Member> = Vec::with_capacity(records.len());
        let mut at = objects.start;
        for record in records {
            let (words, _) = record.as_chunks::<4>();
            let [high, low, bytes, seconds_low, seconds_high] =
                [words[0], words[1], words[2], words[3], words[4]].map(u32::from_le_bytes);
            let seconds = i64::try_from(u64::from(seconds_high) << 32 | u64::from(seconds_low));
            let stored = seconds.ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            let stored = stored.ok_or_else(|| bad("a segment of it was stored at no time"))?;
            let segment = SegmentName::of_words(timeline, high, low);
            if members.last().is_some_and(|last| last.segment >= segment) {
                return Err(bad("its segments are not in order"));
            }
            members.push(Member { segment, at, bytes, stored });
            at += u64::from(bytes);
        }
        if !rest.is_empty() || at != objects.end || record.system != system.0 {
            return Err(bad("its lengths do not add up, or it is another cluster's"));
        }
        let ends =
            (members.first().map(|member| member.segment), members.last().map(|member| member.segment));
        if ends != (Some(name.first), Some(name.last)) {
            return Err(bad("it does not hold the segments that it is named for"));
        }
        let soft = Duration::from_secs(record.soft_seconds);
        let bundling = Bundling { system, generation: record.generation, soft };
        Ok(Self { name, bundling, writer: opened.writer, members })
    }

    /// Opens a bundle all of whose bytes are at hand, and compares them with its name.
    pub(crate) fn open_whole(
        unlocked: &Unlocked,
        system: SystemId,
        name: BundleName,
        bytes: &[u8],
    ) -> Result<Self, RepoError> {
        if blake3::hash(bytes).as_bytes() != name.id.as_bytes() && !sabotage::on("bundle-rot-unseen") {
            return Err(RepoError::damaged(layout::wal_bundle(system, name))(BadObject::BrokenSeal));
        }
        Self::open(unlocked, system, name, bytes.len() as u64, &|range| part_of(bytes, range))
    }

    /// Its key.
    pub(crate) fn key(&self) -> ObjectKey {
        layout::wal_bundle(self.bundling.system, self.name)
    }

    /// Where the object of a segment stands, if it is in it.
    pub(crate) fn place(&self, segment: SegmentName) -> Option<Place> {
        let at = self.members.binary_search_by_key(&segment, |member| member.segment).ok()?;
        Some(self.place_of(&self.members[at]))
    }

    /// Where the object of one of its segments stands.
    pub(crate) fn place_of(&self, member: &Member) -> Place {
        Place { key: self.key(), at: member.at, bytes: member.bytes.into() }
    }

    /// Of two bundles that hold a segment the one of higher rank keeps it. No two are of one rank, so of all that hold it one
    /// stays, whoever removes others and whenever.
    pub(crate) fn rank(&self) -> (u32, usize, BundleId) {
        (self.bundling.generation, self.members.len(), self.name.id)
    }
}
