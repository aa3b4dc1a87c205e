//! A pause for a look, and what may follow it.

use super::*;
use hikae_ops::pitr::paused::{FoundPaused, PausedReport, pause};
use std::os::unix::net::UnixStream;

/// What is paused; given up if the test fails.
struct Standing<'a> {
    archived: &'a Archived,
    report: PausedReport,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        if let Ok(Some(found)) = FoundPaused::at(&self.report.paused.directory) {
            found.discard(&system_cx()).unwrap();
        }
    }
}

impl Archived {
    /// The plan to a moment, on from what is paused for the directory.
    fn plan_on(&self, directory: &str, time: Timestamp) -> Result<RecoveryPlan, OpsError> {
        let mut plan = self.plan(Target::Time(time), true, Course::Latest)?;
        if let Some(found) = FoundPaused::at(&self.world.path(directory))? {
            found.lead_on(&self.kept(), &mut plan)?;
        }
        Ok(plan)
    }

    #[track_caller]
    fn pause(&self, directory: &str, time: Timestamp) -> Standing<'_> {
        let plan = self.plan_on(directory, time).unwrap();
        let options = self.options(directory);
        let report = pause(&self.repo(), &plan, &options, &around(&self.world), &system_cx());
        let report = report.unwrap_or_else(|error| panic!("{}", hikae_model::with_causes(&error)));
        Standing { archived: self, report }
    }
}

impl Standing<'_> {
    fn socket(&self) -> PathBuf {
        let paused = &self.report.paused;
        paused.socket.join(format!(".s.PGSQL.{}", paused.port))
    }

    #[track_caller]
    fn enter(&self) -> postgres::Client {
        let paused = &self.report.paused;
        let mut config = postgres::Config::new();
        config.host_path(&paused.socket).port(paused.port).user(&paused.user).dbname("postgres");
        config.connect(postgres::NoTls).expect("nobody answers where it is paused")
    }

    /// Reads what stands still: it shows exactly `expected`, and takes nothing.
    #[track_caller]
    fn shows(&self, expected: &BTreeSet<u32>) {
        let mut client = self.enter();
        assert_eq!(&ledger(&mut client), expected);
        let written = client.batch_execute("INSERT INTO ledger DEFAULT VALUES").unwrap_err();
        assert!(written.as_db_error().unwrap().message().contains("read-only"), "{written:?}");
    }

    fn find(&self) -> FoundPaused {
        FoundPaused::find(&self.report.paused.directory).unwrap()
    }

    #[track_caller]
    fn promote(self) -> Recovered {
        let promoted =
            self.find().promote(&self.archived.repo(), &around(&self.archived.world), &system_cx());
        promoted.unwrap_or_else(|error| panic!("{}", hikae_model::with_causes(&error)))
    }
}

/// Keeps BC-36.
#[test]
fn a_paused_server_shows_its_moment_goes_only_forward_and_opens_where_it_was_looked_at() {
    let Some(mut archived) = Archived::start() else { return };
    archived.back_up();
    let moments = moments(&mut archived, 4);
    let [early, first, second, late] = &moments[..] else { panic!() };

    let standing = archived.pause("then", first.0);
    standing.shows(&first.1);
    assert!(!archived.world.path("then").exists(), "it has its name before it is opened");

    // Nobody who starts a server beside it takes it for one whose owner was killed, or for room to restore into.
    let plan = archived.plan(Target::Time(late.0), true, Course::Latest).unwrap();
    archived.recover(&plan, "beside").unwrap();
    assert_eq!(ledger(&mut enter(&archived.open("beside", &[]))), late.1);
    standing.shows(&first.1);
    says(archived.recover(&plan, "then"), &["a recovery is paused for", "--promote"]);
    says(archived.plan_on("then", early.0), &["stands at", "only goes forward", "--discard"]);
    standing.shows(&first.1);

    let reached = standing.report.paused.reached;
    let further = archived.pause("then", second.0);
    assert!(further.report.paused.reached > reached, "{:?}", further.report);
    further.shows(&second.1);

    let place = further.report.paused.reached.to_string();
    let opened = further.promote();
    assert_eq!((opened.reached, opened.new_timeline), (place, 2));
    assert_eq!(ledger(&mut enter(&archived.open("then", &[]))), second.1);
    drop(standing);
    archived.assert_nothing_left("then");
}

#[test]
fn what_is_paused_can_be_opened_after_its_server_was_killed_and_can_be_given_up() {
    let Some(mut archived) = Archived::start() else { return };
    archived.back_up();
    let moments = moments(&mut archived, 2);
    let standing = archived.pause("given-up", moments[0].0);
    UnixStream::connect(standing.socket()).unwrap();
    standing.find().discard(&system_cx()).unwrap();
    assert!(UnixStream::connect(standing.socket()).is_err());
    archived.assert_nothing_left("given-up");
    says(FoundPaused::find(&archived.world.path("given-up")).map(drop), &["nothing is paused for"]);

    // A target without a time of its own, which is not the same place twice.
    let plan = archived.plan(Target::Immediate, true, Course::Latest).unwrap();
    let options = archived.options("killed");
    let report = pause(&archived.repo(), &plan, &options, &around(&archived.world), &system_cx()).unwrap();
    let standing = Standing { archived: &archived, report };
    let data = standing.report.paused.socket.with_file_name("data");
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.lines().next().unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap(); // it is a child of ours here
    let opened = standing.promote();
    assert_eq!(opened.new_timeline, 2);
    assert_eq!(ledger(&mut enter(&archived.open("killed", &[]))), BTreeSet::new());

    let end = archived.plan(Target::End, true, Course::Latest).unwrap();
    let options = archived.options("end");
    says(
        pause(&archived.repo(), &end, &options, &around(&archived.world), &system_cx()),
        &["nothing stops a server at the end of the log"],
    );
}
