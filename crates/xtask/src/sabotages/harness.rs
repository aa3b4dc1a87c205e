//! Builds the tests with all bugs in reach, and runs one test by its name.

use super::table::TestName;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A test that takes longer than this many seconds hangs.
const TIME_LIMIT: &str = "300";

/// Programs of tests that were built.
pub(super) struct Harness(Vec<Program>);

struct Program {
    krate: String,
    /// Of the crate.
    directory: PathBuf,
    executable: PathBuf,
    tests: BTreeSet<String>,
}

/// How one test ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It ran and passed.
    Green,
    /// It ran and failed, and said this.
    Red(String),
    /// It says that it cannot run here, and why.
    NotRun(String),
    /// No such test, or it came to no end of its own.
    Broken(String),
}

impl Harness {
    /// Builds the tests of `crates`, as `repo`.
    ///
    /// What is compiled lies with that of all other builds, and the crates of others are compiled once. The finished
    /// command goes elsewhere: nobody shall find one that can be sabotaged where a good one is looked for.
    pub(super) fn build(root: &Path, crates: &BTreeSet<&str>) -> Result<Self, Box<dyn Error>> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(root).args(["test", "--quiet", "--no-run", "--tests", "--message-format=json"]);
        cargo.args(["--features", "hikae-model/sabotage"]);
        cargo.env("CARGO_BUILD_BUILD_DIR", &target).arg("--target-dir").arg(target.join("sabotage"));
        for krate in crates {
            cargo.arg("-p").arg(format!("hikae-{krate}"));
        }
        let built = cargo.stderr(Stdio::inherit()).output()?;
        if !built.status.success() {
            return Err("the tests do not build with the feature `sabotage`".into());
        }
        let mut programs = Vec::new();
        for line in String::from_utf8(built.stdout)?.lines() {
            let message: serde_json::Value = serde_json::from_str(line)?;
            let (Some(executable), Some(true)) =
                (message["executable"].as_str(), message["profile"]["test"].as_bool())
            else {
                continue;
            };
            let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
            let directory = manifest.parent().unwrap_or(root);
            let krate = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let listed = Command::new(executable).args(["--list", "--format=terse"]).output()?;
            let tests = String::from_utf8(listed.stdout)?
                .lines()
                .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
                .collect();
            programs.push(Program {
                krate,
                directory: directory.into(),
                executable: executable.into(),
                tests,
            });
        }
        Ok(Self(programs))
    }

    /// Runs `test` with the bug `sabotage`, or as it is.
    pub(super) fn run(&self, test: &TestName, sabotage: Option<&str>) -> Ended {
        let found =
            self.0.iter().filter(|program| program.krate == test.krate && program.tests.contains(&test.path));
        let [program] = found.collect::<Vec<_>>()[..] else {
            return Ended::Broken(format!("there is no test {test}, or two of them"));
        };
        // `timeout` ends what the test has started as well.
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", TIME_LIMIT]).arg(&program.executable);
        command.args(["--exact", &test.path, "--test-threads=1", "--color=never"]);
        // As cargo does it: tests run in the directory of their crate.
        command.current_dir(&program.directory);
        command.env_remove("HIKAE_SABOTAGE").env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        if let Some(name) = sabotage {
            command.env("HIKAE_SABOTAGE", name);
        }
        match command.output() {
            Ok(ran) => {
                let said = format!(
                    "{}{}",
                    String::from_utf8_lossy(&ran.stdout),
                    String::from_utf8_lossy(&ran.stderr)
                );
                ended(&test.path, ran.status.code(), &said)
            }
            Err(error) => Ended::Broken(format!("cannot run it: {error}")),
        }
    }
}

/// What the test harness says of its one test. A failure counts if the test itself gave up, not if it crashed.
fn ended(test: &str, code: Option<i32>, said: &str) -> Ended {
    let has = |line: &str| said.lines().any(|said| said == line);
    let why_not =
        || said.lines().find_map(|line| line.strip_prefix("NOT RUN ")?.split_once(": ")).map(|(_, why)| why);
    // The failing thread is the test's own, and what it says ends where the harness sums up.
    let mut words = said.split_once(&format!("thread '{test}'")).map(|(_, rest)| rest);
    words = words.map(|rest| rest.split("\nfailures:\n").next().unwrap_or(rest));
    words = words.filter(|rest| rest.contains(" panicked at "));
    if code == Some(124) {
        return Ended::Broken(format!("it hung for {TIME_LIMIT} s"));
    }
    match (code, has("running 1 test"), words) {
        (Some(0), true, _) => why_not().map_or(Ended::Green, |why| Ended::NotRun(why.to_owned())),
        (Some(101), true, Some(words)) if has(&format!("    {test}")) => Ended::Red(words.trim().to_owned()),
        _ => Ended::Broken(format!("it ended with {code:?} and is neither green nor red:\n{said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: &str = "\nrunning 1 test\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n\n\
        thread 'a::b' (7) panicked at crates/repo/tests/it/a.rs:1:2:\n2 blobs are lost\n\nfailures:\n    a::b\n";

    #[test]
    fn a_test_that_did_not_run_or_crashed_is_neither_green_nor_red() {
        assert_eq!(ended("a::b", Some(0), "\nrunning 1 test\ntest a::b ... ok\n"), Ended::Green);
        assert!(
            matches!(ended("a::b", Some(101), RED), Ended::Red(said) if said.contains("2 blobs are lost"))
        );
        let not_run = "running 1 test\nNOT RUN a::b: needs root\ntest a::b ... ok\n";
        assert_eq!(ended("a::b", Some(0), not_run), Ended::NotRun("needs root".to_owned()));
        for (code, said) in [
            (Some(0), "\nrunning 0 tests\n"),
            (None, RED),
            (Some(124), RED),
            (Some(101), "error: no such option"),
            (Some(101), &RED.replace("thread 'a::b'", "thread 'worker'")),
        ] {
            assert!(matches!(ended("a::b", code, said), Ended::Broken(_)), "{code:?} {said}");
        }
    }
}
