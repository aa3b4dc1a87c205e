//! Parts of pages that several subcommands show.

use crate::app::App;
use crate::page::{Align, Mark, Table, count, duration, marked};
use hikae_model::{Bytes, Count, Outcome, Problem};
use hikae_ops::drill::DrillReport;
use hikae_ops::report::BackupReport;

/// A check of a table's rows is named so, and says how many.
const ROWS: &str = "rows of ";
/// Tables whose rows are listed.
const LISTED_TABLES: usize = 8;
/// Checks that are named; those of single tables are not.
const LISTED_CHECKS: usize = 12;
/// Problems listed before the rest is counted.
const LISTED_PROBLEMS: usize = 20;

/// How something ended, in the colour of that.
pub fn outcome(outcome: Outcome) -> String {
    let mark = match outcome {
        Outcome::Complete => Mark::Good,
        Outcome::WithProblems => Mark::Doubtful,
        Outcome::Failed => Mark::Bad,
    };
    marked(mark, outcome)
}

/// Problems with their advice, the first of them in full.
pub fn problems(problems: &[Problem], n_problems: u64, more: &str) -> String {
    let mut text = String::new();
    let mut last_advice = None;
    for problem in problems.iter().take(LISTED_PROBLEMS) {
        text.push_str(&format!("  {} {problem}\n", marked(Mark::Doubtful, "!")));
        // Many problems of one kind have one cure.
        if problem.advice.is_some() && problem.advice != last_advice {
            let advice = problem.advice.as_deref().unwrap_or_default();
            for line in advice.lines() {
                text.push_str(&format!("    {} {line}\n", marked(Mark::Faint, "hint:")));
            }
        }
        last_advice.clone_from(&problem.advice);
    }
    let rest = n_problems.saturating_sub(problems.len().min(LISTED_PROBLEMS) as u64);
    if rest > 0 {
        text.push_str(&format!("  and {}{more}\n", count(rest, "more problem", "more problems")));
    }
    text
}

/// What a run did, source by source.
pub fn backup(report: &BackupReport) -> String {
    let mut table = Table::new(&[
        ("source", Align::Left),
        ("snapshot", Align::Left),
        ("entries", Align::Right),
        ("size", Align::Right),
        ("read", Align::Right),
        ("added", Align::Right),
        ("time", Align::Right),
        ("", Align::Left),
    ]);
    for snapshot in &report.snapshots {
        let known = snapshot.id.is_some();
        let or_dash = |text: String| if known { text } else { "-".to_owned() };
        table.row([
            snapshot.source.clone(),
            snapshot.id.map_or("-".to_owned(), |id| id.short()),
            or_dash(Count(snapshot.entries).to_string()),
            or_dash(Bytes(snapshot.bytes).to_string()),
            or_dash(Bytes(snapshot.read_bytes).to_string()),
            or_dash(Bytes(snapshot.added_bytes).to_string()),
            duration(snapshot.seconds),
            outcome(snapshot.outcome),
        ]);
    }
    let mut text = table.text();
    for snapshot in report.snapshots.iter().filter(|snapshot| snapshot.n_problems > 0) {
        let what = if snapshot.id.is_some() { "is partial" } else { "was not backed up" };
        text.push_str(&format!("\n{} {what}:\n", marked(Mark::Strong, &snapshot.source)));
        let more =
            snapshot.id.map_or(String::new(), |id| format!("; `hikae show {}` lists them", id.short()));
        text.push_str(&problems(&snapshot.problems, snapshot.n_problems, &more));
    }
    for snapshot in report.snapshots.iter().filter(|snapshot| !snapshot.notes.is_empty()) {
        text.push_str(&format!("\nTo know about {}:\n", marked(Mark::Strong, &snapshot.source)));
        text.push_str(&problems(&snapshot.notes, snapshot.notes.len() as u64, ""));
    }
    let n_kept = report.snapshots.iter().filter(|snapshot| snapshot.id.is_some()).count();
    if n_kept > 1 {
        text.push_str(&format!(
            "\nOne run; the moments of its sources are {} apart.\n",
            duration(report.skew_seconds)
        ));
    }
    text
}

/// What a drill showed: one line, and what did not hold.
pub fn drill(report: &DrillReport, app: &App) -> String {
    let n_checks = report.checks.len() as u64;
    let failed: Vec<_> = report.checks.iter().filter(|check| !check.passed).collect();
    let passed = report.outcome != Outcome::Failed;
    let (mark, verdict) = if passed { (Mark::Good, "restored") } else { (Mark::Bad, "NOT PROVED") };
    let partial = match report.complete {
        true => String::new(),
        false => {
            let n = count(report.n_problems_at_backup, "problem", "problems");
            format!("{}, ", marked(Mark::Doubtful, format!("partial: {n} at backup")))
        }
    };
    let mut text = format!(
        "{}  {}  {partial}{}, {}, recovered in {}, state of {}\n",
        marked(mark, verdict),
        marked(Mark::Strong, &report.source),
        what_was_compared(report),
        count(n_checks, "check", "checks"),
        duration(report.recovery_seconds),
        app.time(report.recovered_moment),
    );
    for check in failed.iter().take(LISTED_PROBLEMS) {
        text.push_str(&format!("  {} {check}\n", marked(Mark::Bad, "x")));
    }
    if failed.len() > LISTED_PROBLEMS {
        text.push_str(&format!("  and {} more\n", failed.len() - LISTED_PROBLEMS));
    }
    let rows = report.checks.iter().filter(|check| check.passed && check.name.starts_with(ROWS));
    let tables: Vec<String> =
        rows.map(|check| format!("{} {}", &check.name[ROWS.len()..], check.actual)).collect();
    if tables.len() > 1 {
        let shown = tables.iter().take(LISTED_TABLES).cloned().collect::<Vec<_>>().join(", ");
        let more = if tables.len() > LISTED_TABLES { ", …" } else { "" };
        text.push_str(&format!("  {}\n", marked(Mark::Faint, format!("rows: {shown}{more}"))));
    }
    let of_a_table = |name: &str| name.starts_with(ROWS) || name.starts_with("hash of ");
    let names: Vec<&str> =
        report.checks.iter().filter(|check| check.passed).map(|check| check.name.as_str()).collect();
    let mut names: Vec<&str> = names.into_iter().filter(|name| !of_a_table(name)).collect();
    if names.len() > LISTED_CHECKS {
        names.truncate(LISTED_CHECKS);
        names.push("…");
    }
    if !names.is_empty() {
        text.push_str(&format!("  {}\n", marked(Mark::Faint, format!("checked: {}", names.join(", ")))));
    }
    let phases: Vec<String> =
        report.phases.iter().map(|phase| format!("{} {}", phase.name, duration(phase.seconds))).collect();
    text.push_str(&format!("  {}\n", marked(Mark::Faint, phases.join(", "))));
    for note in &report.notes {
        text.push_str(&format!("  {note}\n"));
    }
    text.push_str(&problems(&report.problems, report.problems.len() as u64, ""));
    text
}

/// What was put side by side, in the words of the kind of source.
fn what_was_compared(report: &DrillReport) -> String {
    if matches!(report.kind.as_str(), "files" | "postgresql-cluster") {
        return format!("{}, {}", count(report.entries, "entry", "entries"), Bytes(report.bytes));
    }
    let rows = report.checks.iter().filter(|check| check.name.starts_with(ROWS));
    let counts: Vec<u64> =
        rows.filter_map(|check| check.actual.split_whitespace().next()?.parse().ok()).collect();
    let n_rows: u64 = counts.iter().sum();
    let tables = count(counts.len() as u64, "table", "tables");
    format!("{tables} with {}, {}", count(n_rows, "row", "rows"), Bytes(report.bytes))
}
