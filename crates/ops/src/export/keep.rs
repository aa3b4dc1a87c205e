//! What an export keeps of what it wrote: by the rule of the configuration, run by run.
//!
//! - Only signed manifests of this export are looked at, and only files that they name go. A folder that shows no manifest has
//!   nothing to remove.
//! - A run stays if the rule keeps it for any source that it holds. Of a source nothing goes unless its newest complete export
//!   is there, each file with the length that its manifest says.
//! - What is not as its manifest says is somebody else's: it stays, with all of its run, and is a problem.
//!
//! The rules are those of snapshots; deciding reads no clock and removes nothing.

use super::form::Form;
use super::manifest::Manifest;
use super::{JSON, SIGNATURE, SUM, TEXT, with};
use crate::OpsError;
use hikae_export::place::Place;
use hikae_model::{Problem, TreePath, sabotage};
use hikae_repo::retention::{Kept, Retention, kept};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;

/// A run of the export: the name of its manifest without what it ends with, and what it says.
pub(super) type Earlier = (TreePath, Manifest);

/// Which runs go, in the order of `runs`. `is_whole` says of a run whether all its files are there.
pub(super) fn plan_removal<'r>(
    runs: &'r [Earlier],
    retention: &Retention,
    zone: &TimeZone,
    now: Timestamp,
    is_whole: &dyn Fn(&Manifest) -> bool,
) -> (Vec<&'r Earlier>, Vec<Problem>) {
    let sources: BTreeSet<&str> =
        runs.iter().flat_map(|(_, run)| &run.files).map(|file| file.source.as_str()).collect();
    let (mut stays, mut problems) = (vec![false; runs.len()], Vec::new());
    for source in sources {
        let mut of_source: Vec<(usize, Kept)> = Vec::new();
        for (at, (_, run)) in runs.iter().enumerate() {
            let files = run.files.iter().filter(|file| file.source == source);
            if let Some(moment) = files.clone().map(|file| file.moment).max() {
                of_source.push((at, Kept { moment, complete: files.clone().all(|file| file.complete) }));
            }
        }
        of_source.sort_by_key(|(_, run)| std::cmp::Reverse(run.moment));
        let newest = of_source.iter().find(|(_, run)| run.complete && run.moment <= now);
        let is_there = newest.is_some_and(|(at, _)| is_whole(&runs[*at].1));
        if !is_there && !sabotage::on("export-keeps-by-name-alone") {
            of_source.iter().for_each(|(at, _)| stays[*at] = true);
            let what = "its newest complete export is not there as it was written, so nothing older goes";
            problems
                .push(Problem::new("not-removed", source, what).advise("export it anew with `hikae export`"));
            continue;
        }
        let judged: Vec<Kept> = of_source.iter().map(|(_, run)| *run).collect();
        for ((at, _), by) in of_source.iter().zip(kept(&judged, retention, zone, now)) {
            stays[*at] |= !by.is_empty();
        }
    }
    let goes = runs.iter().zip(stays).filter(|(_, stays)| !stays).map(|(run, _)| run).collect();
    (goes, problems)
}

/// Whether all files of a run are there, each with its length.
pub(super) fn is_whole(place: &Place, run: &Manifest) -> bool {
    run.files.iter().all(|file| matches!(is_as_written(place, file), Ok(Some(true))))
}

/// Whether a file is as its manifest says; nothing if it is gone.
fn is_as_written(place: &Place, file: &super::ExportedFile) -> Result<Option<bool>, OpsError> {
    let Ok(name) = TreePath::parse(&file.name) else { return Ok(Some(false)) };
    let found = place.stat(&name)?;
    Ok(found.map(|(is_folder, bytes)| match file.form {
        Form::Folder => is_folder,
        Form::File | Form::Sql | Form::Dump | Form::Tar => !is_folder && bytes == file.bytes,
    }))
}

/// Removes what a run wrote, but for files that another run names too. Its manifest goes when all else is gone for good.
pub(super) fn remove(
    place: &Place,
    (stem, run): &Earlier,
    named: &BTreeSet<&str>,
) -> Result<Result<Vec<String>, Problem>, OpsError> {
    let ours = || run.files.iter().filter(|file| !named.contains(file.name.as_str()));
    for file in ours() {
        if is_as_written(place, file)? == Some(false) && !sabotage::on("export-removes-what-is-not-its-own") {
            let what = "is not as this export wrote it, so it stays with all of its run";
            return Ok(Err(
                Problem::new("not-removed", &file.name, what).advise("remove it by hand if it can go")
            ));
        }
    }
    let mut removed = Vec::new();
    for file in ours() {
        let Ok(name) = TreePath::parse(&file.name) else { continue };
        match place.stat(&name)? {
            Some((true, _)) => place.remove_folder(&name)?,
            _ => place.remove(&name)?,
        }
        place.remove(&with(&name, SUM))?;
        place.settle(&name)?;
        removed.push(file.name.clone());
    }
    // The signature last: a run that was killed here goes on with the next.
    for suffix in [TEXT, JSON, SIGNATURE] {
        place.remove(&with(stem, suffix))?;
    }
    Ok(Ok(removed))
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::run_of;
    use super::*;

    const NOW: &str = "2026-02-01T00:00:00Z";

    fn retention(rule: &str) -> Retention {
        serde_json::from_str(rule).unwrap()
    }

    /// Which of these runs go; each is `day sources`, and `!` behind it makes it partial.
    #[track_caller]
    fn check_goes(rule: &str, runs: &[&str], whole: &dyn Fn(&Manifest) -> bool, expected: &[&str]) {
        let made: Vec<Earlier> = runs.iter().map(|run| run_of(run)).collect();
        let (goes, _) = plan_removal(&made, &retention(rule), &TimeZone::UTC, NOW.parse().unwrap(), whole);
        let names: Vec<String> = goes.iter().map(|(stem, _)| stem.to_string()).collect();
        assert_eq!(names, expected, "{rule}");
    }

    /// Keeps MK-5.
    #[test]
    fn a_run_goes_when_no_rule_keeps_it_for_any_of_its_sources() {
        let all = |_: &Manifest| true;
        check_goes(r#"{"last": 2}"#, &["03 a", "02 a", "01 a"], &all, &["01"]);
        // The only export of `b` is old, and stays with all of its run.
        check_goes(r#"{"last": 1}"#, &["03 a", "02 a", "01 a b"], &all, &["02"]);
        check_goes(r#"{"daily": 2}"#, &["03 a", "02 a", "01 a"], &all, &["01"]);
        // A partial one takes no complete one's place.
        check_goes(r#"{"last": 1}"#, &["03 a!", "02 a", "01 a"], &all, &["01"]);
        check_goes(r#"{"last": 1}"#, &[], &all, &[]);
    }

    #[test]
    fn nothing_goes_of_a_source_whose_newest_export_is_gone() {
        let gone = |run: &Manifest| run.files.iter().all(|file| file.name != "03-a");
        check_goes(r#"{"last": 1}"#, &["03 a", "02 a", "01 a"], &gone, &[]);
        check_goes(r#"{"last": 1}"#, &["03 a", "03 b", "02 b", "01 a"], &gone, &["02"]);
    }

    #[test]
    fn a_run_of_the_future_stays_and_pushes_nothing_out() {
        let all = |_: &Manifest| true;
        check_goes(r#"{"last": 1}"#, &["28-03 a", "02 a", "01 a"], &all, &["01"]);
    }
}
