//! Which repositories have what of each source, and what is left of it when something is lost.
//!
//! - A repository counts for what it holds today: its newest complete snapshot of a source, and the newest that a drill of
//!   that repository restored. One that cannot be looked at counts for nothing, and is named.
//! - Two repositories with one key or one account count as one copy: what takes the one takes the other.
//! - Nothing is taken to be elsewhere, or in other hands, unless the configuration says so.
//!
//! This module reads; it writes nothing.

mod place;
mod score;

pub use place::{domains_of, domains_of_here};
pub use score::{Rule, Score};

use crate::OpsError;
use crate::config::{DomainKind, Domains};
use hikae_model::SnapshotId;
use hikae_repo::Repo;
use hikae_repo::evidence::read_evidence;
use hikae_repo::state::SnapshotState;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A repository that was looked at, or could not be.
pub struct Kept {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is, for people.
    pub address: String,
    /// What it is lost with.
    pub domains: Domains,
    /// True if the configuration says that nobody can reach it from here most of the time.
    pub offline: bool,
    /// The repository, or why it could not be opened.
    pub repo: Result<Arc<Repo>, String>,
}

/// What there is of everything.
#[derive(Clone, Debug, Serialize)]
pub struct CopiesReport {
    /// The repositories.
    pub repositories: Vec<KeptRepository>,
    /// The sources, by name.
    pub sources: Vec<SourceCopies>,
}

/// A repository, as the report shows it.
#[derive(Clone, Debug, Serialize)]
pub struct KeptRepository {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// What it is lost with.
    pub domains: Domains,
    /// Why it could not be looked at.
    pub unreadable: Option<String>,
}

/// What there is of one source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceCopies {
    /// Its name.
    pub source: String,
    /// What each repository has of it that has anything.
    pub copies: Vec<SourceCopy>,
    /// How it stands to 3-2-1-1-0.
    pub score: Score,
}

/// What one repository has of a source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceCopy {
    /// The repository.
    pub repository: String,
    /// Its newest complete snapshot.
    pub newest: SnapshotId,
    /// The moment of that.
    pub moment: Timestamp,
    /// The moment of the newest that a drill has restored from there; nothing if none was.
    pub verified: Option<Timestamp>,
    /// How long that drill took to recover it, in seconds.
    pub recovery_seconds: Option<f64>,
    /// True if the last drill of any snapshot failed that is newer than the verified one.
    pub last_drill_failed: bool,
}

/// What is left when something is lost.
#[derive(Clone, Debug, Serialize)]
pub struct LossReport {
    /// What is lost.
    pub without: String,
    /// The repositories that go with it.
    pub lost: Vec<String>,
    /// What is left of each source.
    pub sources: Vec<Survivor>,
}

/// What is left of one source.
#[derive(Clone, Debug, Serialize)]
pub struct Survivor {
    /// Its name.
    pub source: String,
    /// The best that is left: of the newest moment. Nothing if the source is lost.
    pub from: Option<SourceCopy>,
    /// The newest moment that there is today, of which that much would be lost.
    pub newest_today: Timestamp,
}

/// What is lost: a domain by kind and name, or a repository by its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All that is in a domain.
    Domain(DomainKind, String),
    /// One repository.
    Repository(String),
}

impl std::str::FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('=').ok_or("give what is lost as KIND=NAME, as site=tokyo")?;
        if kind == "repository" {
            return Ok(Self::Repository(name.to_owned()));
        }
        let known = DomainKind::ALL.into_iter().find(|known| known.name() == kind);
        let kinds = DomainKind::ALL.map(DomainKind::name).join(", ");
        let kind = known.ok_or_else(|| format!("`{kind}` is none of {kinds}, repository"))?;
        Ok(Self::Domain(kind, name.to_owned()))
    }
}

impl Loss {
    fn takes(&self, repository: &KeptRepository) -> bool {
        match self {
            Self::Domain(kind, name) => repository.domains.get(kind) == Some(name),
            Self::Repository(name) => repository.name == *name,
        }
    }
}

/// Looks at what each repository has of each of `sources`, and of others that it knows. `here` is where the sources are.
///
/// # Errors
/// Any failure to read a repository that was opened, but damage.
pub fn copies(kept: &[Kept], sources: &[&str], here: &Domains) -> Result<CopiesReport, OpsError> {
    let mut by_source: BTreeMap<String, Vec<SourceCopy>> =
        sources.iter().map(|source| ((*source).to_owned(), Vec::new())).collect();
    for one in kept {
        let Ok(repo) = &one.repo else { continue };
        let (state, _) = repo.readable()?;
        let known: BTreeSet<&str> =
            state.snapshots.values().map(|one| one.snapshot.source.as_str()).collect();
        for source in known {
            let snapshots = state.newest_first(Some(source));
            if let Some(copy) = copy_of(repo, &one.name, &snapshots)? {
                by_source.entry(source.to_owned()).or_default().push(copy);
            }
        }
    }
    let sources = by_source.into_iter().map(|(source, copies)| {
        let score = Score::of(&copies, kept, here);
        SourceCopies { source, copies, score }
    });
    Ok(CopiesReport {
        sources: sources.collect(),
        repositories: kept.iter().map(KeptRepository::of).collect(),
    })
}

/// What a repository has of a source; nothing if no snapshot of it is complete.
fn copy_of(repo: &Repo, name: &str, newest_first: &[&SnapshotState]) -> Result<Option<SourceCopy>, OpsError> {
    let mut complete = newest_first.iter().filter(|state| state.snapshot.complete);
    let Some(newest) = complete.clone().next() else { return Ok(None) };
    let verified = complete.find(|state| state.is_verified());
    let drilled = newest_first.iter().find(|state| state.evidence.is_some());
    let evidence = verified.and_then(|state| state.evidence.as_ref());
    // Evidence that cannot be read says nothing of the time.
    let record = match evidence.map(|evidence| read_evidence(repo, evidence)).transpose() {
        Err(error) if error.is_damage() => None,
        read => read?,
    };
    let recovery = record.map(|evidence| evidence.record.recovery_microseconds as f64 / 1e6);
    Ok(Some(SourceCopy {
        repository: name.to_owned(),
        newest: newest.snapshot.id,
        moment: newest.snapshot.moment,
        verified: verified.map(|state| state.snapshot.moment),
        recovery_seconds: recovery,
        last_drill_failed: drilled.is_some_and(|state| !state.is_verified()),
    }))
}

impl KeptRepository {
    fn of(kept: &Kept) -> Self {
        Self {
            name: kept.name.clone(),
            address: kept.address.clone(),
            domains: kept.domains.clone(),
            unreadable: kept.repo.as_ref().err().cloned(),
        }
    }
}

impl CopiesReport {
    /// What is left without something.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if nothing is in it: a misspelt name must not read as "nothing is lost".
    pub fn without(&self, loss: &Loss) -> Result<LossReport, OpsError> {
        let lost: Vec<String> =
            self.repositories.iter().filter(|one| loss.takes(one)).map(|one| one.name.clone()).collect();
        if lost.is_empty() {
            return Err(self.unknown(loss));
        }
        let survivor = |source: &SourceCopies| {
            let left = source.copies.iter().filter(|copy| !lost.contains(&copy.repository));
            let newest = source.copies.iter().map(|copy| copy.moment).max()?;
            // Of two that are as new, one of which it is known that it comes back.
            let best = left.max_by_key(|copy| (copy.moment, copy.verified));
            Some(Survivor { source: source.source.clone(), from: best.cloned(), newest_today: newest })
        };
        Ok(LossReport {
            without: loss.to_string(),
            sources: self.sources.iter().filter_map(survivor).collect(),
            lost,
        })
    }

    fn unknown(&self, loss: &Loss) -> OpsError {
        let known: BTreeSet<String> = match loss {
            Loss::Repository(_) => self.repositories.iter().map(|one| one.name.clone()).collect(),
            Loss::Domain(kind, _) => {
                self.repositories.iter().filter_map(|one| one.domains.get(kind).cloned()).collect()
            }
        };
        let advice = match known.is_empty() {
            true => "say where each repository is with `domains` in the configuration".to_owned(),
            false => format!("known are: {}", known.into_iter().collect::<Vec<_>>().join(", ")),
        };
        let what = format!("no repository is in {loss}");
        OpsError::refused(hikae_model::ErrorCode::Usage, what, Some(advice.into()))
    }
}

impl LossReport {
    /// Sources of which nothing is left.
    pub fn n_lost(&self) -> usize {
        self.sources.iter().filter(|survivor| survivor.from.is_none()).count()
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Domain(kind, name) => write!(f, "{kind}={name}"),
            Self::Repository(name) => write!(f, "repository={name}"),
        }
    }
}
