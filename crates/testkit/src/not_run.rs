//! Tests that cannot run here say so, instead of counting as passed in silence.

use std::io::Write;
use std::panic::Location;

/// Says that this test is not run, and why: `NOT RUN <test>: <reason>` on standard error. The test then
/// returns. `cargo test` hides what a passed test prints, but not this, so a script can collect the lines.
#[track_caller]
pub fn not_run(reason: &str) {
    let here = Location::caller();
    let thread = std::thread::current();
    // The test harness names its threads after the tests, unless it runs them on the main thread.
    let test = match thread.name() {
        None | Some("main") => format!("{}:{}", here.file(), here.line()),
        Some(name) => name.to_owned(),
    };
    // In one write, so that lines of several tests do not mix. There is nobody to tell if it fails.
    let _ = std::io::stderr().write_all(format!("NOT RUN {test}: {reason}\n").as_bytes());
}
