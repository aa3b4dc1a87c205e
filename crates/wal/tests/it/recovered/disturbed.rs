//! Recoveries that somebody or something disturbs in the middle.

use super::*;
use hikae_model::{Advise as _, ErrorCode, WalName};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt as _;

/// How long a recovery may take to come to its middle.
const PATIENCE: Duration = Duration::from_secs(60);

impl Archived {
    /// Recovers to a moment, and does something to the server that recovers, in the middle of it. Gives what came of it.
    fn disturb(
        &self,
        plan: &RecoveryPlan,
        directory: &str,
        what: impl FnOnce(&Path, Pid) + Send,
    ) -> Result<Recovered, OpsError> {
        let segments: Vec<_> = plan.log.iter().filter(|name| matches!(name, WalName::Segment(_))).collect();
        let middle = segments[segments.len() / 2];
        let [waits, go, program] = ["waits", "go", "slow-wal"].map(|name| self.world.path(name));
        let script = format!(
            "#!/bin/sh\nif [ \"$3\" = {middle} ]; then\n  echo > {}\n  while [ ! -e {} ]; do sleep 0.02; done\nfi\nexec {} \"$@\"\n",
            waits.display(),
            go.display(),
            self.world.path("hikae-wal").display(),
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        // The server's user says so there.
        std::fs::set_permissions(self.world.path(""), std::fs::Permissions::from_mode(0o777)).unwrap();
        let options = RecoverOptions { wal_program: program, ..self.options(directory) };
        let root = self.world.path("");
        let recovered = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut waited = Duration::ZERO;
                while !waits.exists() && waited < PATIENCE {
                    std::thread::sleep(Duration::from_millis(10));
                    waited += Duration::from_millis(10);
                }
                let (data, pid) = recovering(&root);
                what(&data, pid);
                std::fs::write(&go, "").unwrap();
            });
            recover(&self.repo(), plan, &options, &around(&self.world), &system_cx())
        });
        for path in [waits, go] {
            std::fs::remove_file(path).unwrap();
        }
        recovered
    }
}

/// The data directory and the process of the server that recovers.
fn recovering(root: &Path) -> (PathBuf, Pid) {
    let found = std::fs::read_dir(root).unwrap().flatten().find_map(|entry| {
        let data = entry.path().join("data");
        let written = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        Some((data, Pid::from_raw(written.lines().next()?.parse().ok()?)?))
    });
    found.expect("no server recovers")
}

#[test]
fn a_server_that_is_killed_in_the_middle_leaves_nothing_and_one_that_is_told_to_open_goes_on() {
    let Some(mut archived) = Archived::start() else { return };
    archived.back_up();
    let moments = moments(&mut archived, 5);
    let plan = archived.plan(Target::Time(moments[4].0), true, Course::Latest).unwrap();

    let killed = archived.disturb(&plan, "then", |_, pid| kill_process(pid, Signal::KILL).unwrap());
    says(killed, &["the throw-away PostgreSQL"]);
    archived.assert_nothing_left("then");

    // As `pg_ctl promote` does.
    let promoted = archived.disturb(&plan, "then", |data, pid| {
        std::fs::write(data.join("promote"), "").unwrap();
        kill_process(pid, Signal::USR1).unwrap();
    });
    promoted.unwrap_or_else(|error| panic!("{}", hikae_model::with_causes(&error)));
    assert_eq!(ledger(&mut enter(&archived.open("then", &[]))), moments[4].1);
}

/// A disk of memory, mounted where a recovery goes.
struct Disk(PathBuf);

impl Disk {
    #[track_caller]
    fn mount(place: PathBuf, mebibytes: u32) -> Option<Self> {
        std::fs::create_dir_all(&place).unwrap();
        let size = format!("size={mebibytes}m,mode=755");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "hikae-test"]).arg(&place).status();
        if !mounted.is_ok_and(|status| status.success()) {
            hikae_testkit::not_run("a disk can be mounted by root alone");
            return None;
        }
        Some(Self(place))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn a_disk_that_is_full_in_the_middle_is_said_and_leaves_nothing() {
    let Some(mut archived) = Archived::start() else { return };
    archived.back_up();
    let moments = moments(&mut archived, 8);
    let plan = archived.plan(Target::Time(moments[7].0), true, Course::Latest).unwrap();
    let base = archived.kept().manifests[&plan.snapshot].bytes.div_ceil(1 << 20) as u32;
    // While the base backup is restored; and once the log comes.
    for mebibytes in [base / 2, base + 3] {
        let Some(disk) = Disk::mount(archived.world.path("small"), mebibytes) else { return };
        let error = archived.recover(&plan, "small/then").expect_err("there was room");
        let said = hikae_model::with_causes(&error);
        assert!(error.code() == ErrorCode::NoSpace || said.contains("No space left"), "{said}");
        let left: Vec<_> = std::fs::read_dir(&disk.0).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
