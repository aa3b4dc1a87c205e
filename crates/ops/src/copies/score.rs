//! 3-2-1-1-0: three copies, on two media, one elsewhere, one out of reach, no errors.
//!
//! The source itself is the first copy. This module is pure.

use super::{Kept, SourceCopy};
use crate::config::{DomainKind, Domains};
use hikae_model::sabotage;
use serde::Serialize;
use std::collections::BTreeSet;

/// How a source stands to the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Score {
    /// Each part, in the order of the rule.
    pub parts: Vec<Rule>,
}

/// One part of the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// What is wanted, as `3 copies`.
    pub wanted: &'static str,
    /// How many there are; of errors, how many repositories have no proof.
    pub found: usize,
    /// Whether that will do.
    pub kept: bool,
    /// What is missing, in words.
    pub missing: Option<String>,
}

impl Score {
    /// How many of the five parts are kept.
    pub fn n_kept(&self) -> usize {
        self.parts.iter().filter(|part| part.kept).count()
    }

    pub(super) fn of(copies: &[SourceCopy], kept: &[Kept], here: &Domains) -> Self {
        let places: Vec<&Kept> =
            kept.iter().filter(|one| copies.iter().any(|copy| copy.repository == one.name)).collect();
        Self {
            parts: vec![
                three_copies(&places),
                two_media(&places, here),
                one_elsewhere(&places, here),
                one_out_of_reach(&places),
                no_errors(copies),
            ],
        }
    }
}

fn rule(wanted: &'static str, found: usize, least: usize, missing: impl FnOnce() -> String) -> Rule {
    let kept = found >= least;
    Rule { wanted, found, kept, missing: (!kept).then(missing) }
}

/// Repositories that are lost together count as one.
fn three_copies(places: &[&Kept]) -> Rule {
    let mut groups: Vec<Vec<&Kept>> = Vec::new();
    for place in places {
        let shares = |other: &&Kept| {
            let both =
                |kind| place.domains.get(&kind).is_some_and(|name| other.domains.get(&kind) == Some(name));
            !sabotage::on("one-key-two-copies") && (both(DomainKind::Key) || both(DomainKind::Account))
        };
        let (joined, mut apart): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group: &Vec<&Kept>| group.iter().any(shares));
        apart.push(joined.into_iter().flatten().chain([*place]).collect());
        groups = apart;
    }
    let together = groups.iter().find(|group| group.len() > 1);
    rule("3 copies", 1 + groups.len(), 3, || match together {
        Some(group) => {
            let names: Vec<&str> = group.iter().map(|one| one.name.as_str()).collect();
            format!(
                "{} have one key or account and count as one; add a copy with others",
                names.join(" and ")
            )
        }
        None => format!("{} more, with a key and an account of its own", 2 - groups.len().min(2)),
    })
}

fn two_media(places: &[&Kept], here: &Domains) -> Rule {
    let own = here.get(&DomainKind::Disk);
    let mut media: BTreeSet<&str> =
        places.iter().filter_map(|one| one.domains.get(&DomainKind::Disk)).map(String::as_str).collect();
    media.extend(own.map(String::as_str));
    rule("2 media", media.len(), 2, || "a copy on another disk than the source".to_owned())
}

fn one_elsewhere(places: &[&Kept], here: &Domains) -> Rule {
    let own = here.get(&DomainKind::Site);
    let site = |one: &&&Kept| {
        one.domains.get(&DomainKind::Site).filter(|site| own.is_some_and(|own| own != *site)).is_some()
    };
    rule("1 off site", places.iter().filter(site).count(), 1, || match own {
        None => "nothing says where this machine is: set `[here]` `site` in the configuration".to_owned(),
        Some(own) => format!("a copy whose `domains` say another site than {own}"),
    })
}

fn one_out_of_reach(places: &[&Kept]) -> Rule {
    rule("1 offline or locked", places.iter().filter(|one| one.offline).count(), 1, || {
        "a copy that nobody can delete from here: a disk that is unplugged (`offline = true`)".to_owned()
    })
}

/// Every copy has a snapshot that a drill restored from there, and the last drill there was good.
fn no_errors(copies: &[SourceCopy]) -> Rule {
    let unproved: Vec<&str> = copies
        .iter()
        .filter(|copy| copy.verified.is_none() || copy.last_drill_failed)
        .map(|copy| copy.repository.as_str())
        .collect();
    let kept = unproved.is_empty() && !copies.is_empty();
    let missing = match copies.is_empty() {
        true => "there is no copy to be proved".to_owned(),
        false => format!("a drill that passes in {}", unproved.join(" and ")),
    };
    Rule { wanted: "0 errors", found: unproved.len(), kept, missing: (!kept).then_some(missing) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_model::SnapshotId;
    use jiff::Timestamp;

    fn kept(name: &str, domains: &[(DomainKind, &str)], offline: bool) -> Kept {
        let domains = domains.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect();
        Kept { name: name.to_owned(), address: String::new(), domains, offline, repo: Err(String::new()) }
    }

    fn copy(name: &str, is_verified: bool) -> SourceCopy {
        SourceCopy {
            repository: name.to_owned(),
            newest: SnapshotId::from_bytes([1; 32]),
            moment: Timestamp::UNIX_EPOCH,
            verified: is_verified.then_some(Timestamp::UNIX_EPOCH),
            recovery_seconds: None,
            last_drill_failed: false,
        }
    }

    #[track_caller]
    fn check(places: &[Kept], unverified: &[&str], expected: [bool; 5]) {
        use DomainKind::{Disk, Site};
        let here: Domains = [(Disk, "own".to_owned()), (Site, "osaka".to_owned())].into();
        let copies: Vec<_> =
            places.iter().map(|one| copy(&one.name, !unverified.contains(&one.name.as_str()))).collect();
        let score = Score::of(&copies, places, &here);
        assert_eq!(score.parts.iter().map(|part| part.kept).collect::<Vec<_>>(), expected, "{score:?}");
        assert!(score.parts.iter().all(|part| part.kept != part.missing.is_some()));
    }

    /// Keeps MK-72.
    #[test]
    fn what_is_lost_with_another_is_no_further_copy_and_nothing_is_elsewhere_that_does_not_say_so() {
        use DomainKind::{Account, Disk, Key, Site};
        check(&[], &[], [false; 5]);
        let main = || kept("main", &[(Disk, "own"), (Key, "a")], false);
        check(&[main()], &[], [false, false, false, false, true]);
        check(&[main()], &["main"], [false; 5]);
        // Of one key: one copy, though on two media and elsewhere.
        let like = kept("like", &[(Disk, "bucket"), (Key, "a"), (Site, "tokyo")], false);
        check(&[main(), like], &[], [false, true, true, false, true]);
        let other = |key, account| kept("other", &[(Disk, "b"), (Key, key), (Account, account)], true);
        check(&[main(), other("b", "x")], &[], [true, true, false, true, true]);
        let third = kept("third", &[(Disk, "c"), (Key, "c"), (Account, "x"), (Site, "osaka")], false);
        check(&[third, other("b", "x")], &[], [false, true, false, true, true]);
    }
}
