//! Programs around a source: to quiesce it, to make and remove a file-system snapshot.
//!
//! A program is an argument array, never a line for a shell. It has a time limit; one that fails or takes
//! too long has failed the run of its source. What runs before has something that runs after, on every way
//! out: a run that is cancelled ends the program that runs before, and lets the one that runs after do its work.
//!
//! Each program leads a process group of its own, so that all it started ends with it, and Ctrl-C is ours to answer.

use crate::OpsError;
use crate::child_umask::with_umask;
use hikae_model::{Cx, sabotage};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Programs around the reading of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Run in this order before the source is read.
    pub before: Vec<Vec<String>>,
    /// Run in this order after it was read, whatever came of it.
    pub after: Vec<Vec<String>>,
    /// How long each may take.
    pub time_limit: Duration,
    /// The file mode mask that they run with: that of whoever called hikae, whose own is stricter.
    pub umask: Option<u32>,
}

/// Hooks that have begun: the second half runs when this is finished or dropped.
pub(crate) struct Quiesced<'h> {
    source_name: &'h str,
    hooks: &'h Hooks,
    cx: &'h Cx,
    ended: bool,
}

impl Hooks {
    /// Runs what comes before. If one fails, the rest of them is not run and what comes after is.
    pub(crate) fn begin<'h>(&'h self, source_name: &'h str, cx: &'h Cx) -> Result<Quiesced<'h>, OpsError> {
        let quiesced = Quiesced { source_name, hooks: self, cx, ended: false };
        for program in &self.before {
            run(source_name, program, When::Before, self, cx)?;
        }
        Ok(quiesced)
    }
}

impl Quiesced<'_> {
    /// Runs what comes after: all of it, and the first failure counts.
    pub(crate) fn finish(mut self) -> Result<(), OpsError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), OpsError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let run = |program: &Vec<String>| run(self.source_name, program, When::After, self.hooks, self.cx);
        let results: Vec<_> = self.hooks.after.iter().map(run).collect();
        results.into_iter().collect()
    }
}

impl Drop for Quiesced<'_> {
    fn drop(&mut self) {
        // On a way out that has an error already: that error is the one to report.
        drop(self.end());
    }
}

/// How long a group has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(3);

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
}

fn run(source_name: &str, program: &[String], when: When, hooks: &Hooks, cx: &Cx) -> Result<(), OpsError> {
    let failed = |what: String| OpsError::Hook {
        source_name: source_name.to_owned(),
        when: match when {
            When::Before => "before it is read",
            When::After => "after it was read",
        },
        program: shown(program),
        what,
    };
    let (name, arguments) = program.split_first().ok_or_else(|| failed("has no name".to_owned()))?;
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    if let Some(umask) = hooks.umask {
        with_umask(&mut command, umask);
    }
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let limit = hooks.time_limit;
    match wait(&mut child, limit, when == When::Before, cx) {
        Ok(Some(status)) if status.success() || sabotage::on("hook-failure-ignored") => Ok(()),
        Ok(Some(status)) => Err(failed(format!("ended with {status}"))),
        Ok(None) => {
            end_group(&mut child, cx);
            cx_of(when, cx)?;
            Err(failed(format!("took longer than {limit:?}")))
        }
        Err(error) => Err(failed(format!("cannot be waited for: {error}"))),
    }
}

/// A run that was cancelled ends as such, unless the program is one that has to run in any case.
fn cx_of(when: When, cx: &Cx) -> Result<(), OpsError> {
    match when {
        When::Before => Ok(cx.check()?),
        When::After => Ok(()),
    }
}

/// Waits for a child; nothing if it has not ended within `limit`, or before the run was cancelled.
fn wait(
    child: &mut Child,
    limit: Duration,
    may_be_cancelled: bool,
    cx: &Cx,
) -> std::io::Result<Option<ExitStatus>> {
    let began = cx.elapsed();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let late = cx.elapsed().saturating_sub(began) > limit;
        if late || (may_be_cancelled && cx.cancel().is_cancelled()) {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a child and all that it started and that did not leave its group: asks first, then kills.
fn end_group(child: &mut Child, cx: &Cx) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let group = group.filter(|_| !sabotage::on("hook-children-live-on"));
    let signal = |signal| group.is_some_and(|group| kill_process_group(group, signal).is_ok());
    // While the child is not waited for, its number is nobody else's.
    signal(Signal::TERM);
    let ended = wait(child, GRACE, false, cx);
    // The child may have ended and left others, who hold our stderr.
    signal(Signal::KILL);
    if !matches!(ended, Ok(Some(_))) {
        drop(child.kill());
        drop(child.wait());
    }
}

/// A program with its arguments, as a person would type it, without the secrets in them.
fn shown(program: &[String]) -> String {
    crate::config::masked(program).join(" ")
}
