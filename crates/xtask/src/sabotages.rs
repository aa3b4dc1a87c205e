//! `cargo xtask sabotages`: every bug that we put in on purpose is caught by the test that must catch it.
//!
//! One build holds all bugs. Each listed test must be green in it as it is, and red once its bug is chosen, with its
//! own words: a test that did not run, hung, or failed of something else has caught nothing.

mod harness;
pub(crate) mod table;

use harness::{Ended, Harness};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use table::{Sabotage, TABLE, TestName};

/// What came of one bug.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Caught,
    /// The test cannot run here, and says why.
    NotRun(String),
    /// Not caught, and why that is so.
    Missed(String),
}

/// Which bugs to put in.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    All,
    /// Those whose test is not slow.
    Quick,
    /// These.
    Only(&'a [&'a str]),
}

impl Which<'_> {
    fn holds(self, sabotage: &Sabotage) -> bool {
        match self {
            Self::All => true,
            Self::Quick => !sabotage.slow,
            Self::Only(names) => names.contains(&&*sabotage.name),
        }
    }
}

/// Puts in bugs of the list one by one and prints what came of each. True if every one that could be tried was
/// caught.
///
/// # Errors
/// A list that cannot be read, a name that is not in it, a build that fails.
#[allow(clippy::disallowed_methods)] // to say how long it took; nothing is decided by it
pub(crate) fn run(root: &Path, which: Which<'_>) -> Result<bool, Box<dyn Error>> {
    let mut sabotages = table::parse(&std::fs::read_to_string(root.join(TABLE))?)?;
    if let Which::Only(names) = which
        && let Some(unknown) = names.iter().find(|name| sabotages.iter().all(|one| one.name != **name))
    {
        return Err(format!("{TABLE} has no {unknown}").into());
    }
    sabotages.retain(|sabotage| which.holds(sabotage));

    let started = Instant::now();
    let crates: BTreeSet<&str> = sabotages.iter().map(|sabotage| &*sabotage.test.krate).collect();
    let harness = Harness::build(root, &crates)?;
    println!("built in {} s", started.elapsed().as_secs());

    let tests: BTreeSet<&TestName> = sabotages.iter().map(|sabotage| &sabotage.test).collect();
    let tests: Vec<&TestName> = tests.into_iter().collect();
    let sound = all(&tests, |test| harness.run(test, None), |_, _| ());
    let sound: BTreeMap<&TestName, Ended> = tests.iter().copied().zip(sound).collect();
    println!("{} tests tried without a bug, {} s", tests.len(), started.elapsed().as_secs());

    let verdicts = all(
        &sabotages,
        |sabotage| {
            let began = Instant::now();
            let verdict = match &sound[&sabotage.test] {
                Ended::Green => put_in(sabotage, &harness),
                Ended::NotRun(why) => Verdict::NotRun(why.clone()),
                Ended::Red(said) => Verdict::Missed(format!("its test is red without it:\n{said}")),
                Ended::Broken(why) => Verdict::Missed(why.clone()),
            };
            (verdict, began.elapsed())
        },
        |sabotage, (verdict, took)| print(sabotage, verdict, *took),
    );

    let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|(verdict, _)| is(verdict)).count();
    let n_missed = count(|verdict| matches!(verdict, Verdict::Missed(_)));
    println!(
        "sabotages: {} of {} caught, {n_missed} missed, {} not run here, {} s",
        count(|verdict| *verdict == Verdict::Caught),
        sabotages.len(),
        count(|verdict| matches!(verdict, Verdict::NotRun(_))),
        started.elapsed().as_secs(),
    );
    Ok(n_missed == 0)
}

/// A bug may show by chance only, as one of two processes that meet does; what misses it so often detects nothing.
const TRIES: usize = 3;

fn put_in(sabotage: &Sabotage, harness: &Harness) -> Verdict {
    let once = || judge(sabotage, harness.run(&sabotage.test, Some(&sabotage.name)));
    let mut verdict = once();
    for _ in 1..TRIES {
        if matches!(verdict, Verdict::Missed(_)) {
            verdict = once();
        }
    }
    verdict
}

fn judge(sabotage: &Sabotage, ended: Ended) -> Verdict {
    match ended {
        Ended::Red(said) if said.contains(&sabotage.says) => Verdict::Caught,
        Ended::Red(said) => Verdict::Missed(format!("red, but without saying `{}`:\n{said}", sabotage.says)),
        Ended::Green => Verdict::Missed("its test stays green".to_owned()),
        Ended::NotRun(why) => Verdict::NotRun(why),
        Ended::Broken(why) => Verdict::Missed(why),
    }
}

fn print(sabotage: &Sabotage, verdict: &Verdict, took: Duration) {
    let Sabotage { name, bug, promises, test, .. } = sabotage;
    let word = match verdict {
        Verdict::Caught => "caught",
        Verdict::NotRun(_) => "NOT RUN",
        Verdict::Missed(_) => "MISSED",
    };
    let promises = promises.join(", ");
    println!("{word:7} {:5.1} s  {promises:8} {name}: {bug}\n{:21}{test}", took.as_secs_f32(), "");
    match verdict {
        Verdict::Caught => {}
        // In the words by which ./check collects what was not run.
        Verdict::NotRun(why) => println!("NOT RUN sabotage {name}: {why}"),
        Verdict::Missed(why) => why.lines().for_each(|line| println!("{:21}| {line}", "")),
    }
}

/// `work` on every item, on all cores. `done` is told of each as it ends; results are in the order of `items`.
fn all<I: Sync, R: Send>(items: &[I], work: impl Fn(&I) -> R + Sync, done: impl Fn(&I, &R) + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let worker = || {
        while let Some((i, item)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            items.get(i).map(|item| (i, item))
        } {
            let result = work(item);
            let mut results = results.lock().unwrap();
            done(item, &result);
            results.insert(i, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(worker);
        }
    });
    results.into_inner().unwrap().into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sabotage() -> Sabotage {
        let entry = "name = 'x'\nbug = 'y'\npromise = 'A-1'\ntest = 'repo a::b'\nsays = 'lost'";
        table::parse(&format!("[[sabotage]]\n{entry}\n")).unwrap().remove(0)
    }

    #[test]
    fn only_a_test_that_fails_in_its_own_words_has_caught_anything() {
        let judged = |ended| judge(&sabotage(), ended);
        assert_eq!(judged(Ended::Red("1 blob is lost".to_owned())), Verdict::Caught);
        assert!(matches!(judged(Ended::Red("no such file".to_owned())), Verdict::Missed(_)));
        assert!(matches!(judged(Ended::Green), Verdict::Missed(_)));
        assert!(matches!(judged(Ended::Broken("it hung".to_owned())), Verdict::Missed(_)));
    }

    #[test]
    fn results_are_in_the_order_of_what_was_asked() {
        assert_eq!(all(&[3, 1, 2], |n| n * 2, |_, _| ()), [6, 2, 4]);
    }
}
