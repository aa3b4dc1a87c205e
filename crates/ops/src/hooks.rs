//! Programs around a source: to quiesce it, to make and remove a file-system snapshot.
//!
//! A program is an argument array, never a line for a shell. It has a time limit; one that fails or takes
//! too long has failed the run of its source. What runs before has something that runs after, on every way
//! out.

use crate::OpsError;
use crate::child_umask::with_umask;
use hikae_model::Cx;
use std::process::{Child, Command, Stdio};
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
            run(source_name, program, self, cx)?;
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
        let run = |program: &Vec<String>| run(self.source_name, program, self.hooks, self.cx);
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

fn run(source_name: &str, program: &[String], hooks: &Hooks, cx: &Cx) -> Result<(), OpsError> {
    let failed = |what: String| OpsError::Hook {
        source_name: source_name.to_owned(),
        program: program.first().cloned().unwrap_or_default(),
        what,
    };
    let (name, arguments) = program.split_first().ok_or_else(|| failed("has no name".to_owned()))?;
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(umask) = hooks.umask {
        with_umask(&mut command, umask);
    }
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let began = cx.elapsed();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(format!("ended with {status}"))),
            Ok(None) if cx.elapsed().saturating_sub(began) > hooks.time_limit => {
                end(&mut child);
                return Err(failed(format!("took longer than {} s", hooks.time_limit.as_secs())));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
        }
    }
}

fn end(child: &mut Child) {
    // A child that has ended meanwhile needs no killing; one that is killed is waited for, so that no
    // zombie stays.
    drop(child.kill());
    drop(child.wait());
}
