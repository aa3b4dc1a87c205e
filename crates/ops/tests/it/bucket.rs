//! Whole operations on a repository in a bucket, whose server does each wrong thing once, and then each at each request.

use crate::world::{KEY, World, files};
use hikae_model::{Advise, ErrorCode, Outcome};
use hikae_ops::OpsError;
use hikae_ops::backup::{BackupOptions, backup};
use hikae_ops::prune::{KeepLog, PruneOptions, Pruned, prune};
use hikae_ops::verify::{VerifyOptions, verify};
use hikae_remote::{Bucket, Retry, S3Identity, S3Key, S3Login, S3Role, S3Settings, S3Surroundings};
use hikae_repo::Repo;
use hikae_repo::forget::{ForgetOptions, ToForget, forget};
use hikae_repo::keys::Secret32;
use hikae_repo::slot::Unlock;
use hikae_source::files::Target;
use hikae_store::Store;
use hikae_testkit::s3_fault::Answer;
use hikae_testkit::{Asked, Fate, S3Fault, Seed, TestRandom, system_clock, system_cx};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ROLE: &str = "arn:aws:iam::111122223333:role/backup";

/// A machine whose repository is in a bucket.
struct Machine {
    server: Arc<S3Fault>,
    world: World,
}

/// Its bucket.
struct Place {
    bucket: Bucket,
    retry: Retry,
}

fn place(server: &S3Fault) -> Place {
    let settings = S3Settings {
        bucket: "backups".to_owned(),
        prefix: "of/here".to_owned(),
        region: "eu-west-1".to_owned(),
        endpoint: Some(server.endpoint()),
        path_style: true,
        ca: None,
        lock: None,
    };
    let key = S3Key {
        access_key: S3Fault::ACCESS_KEY.to_owned(),
        secret_key: S3Fault::SECRET_KEY.to_owned().into(),
    };
    let login = S3Login {
        identity: S3Identity::Key(key),
        role: Some(S3Role {
            arn: ROLE.to_owned(),
            external_id: None,
            session: "hikae".to_owned(),
            seconds: None,
        }),
        sts_endpoint: None,
        around: S3Surroundings {
            variables: Arc::new(|_| None),
            home: None,
            run: Arc::new(|_| Err("nothing is run".to_owned())),
        },
    };
    let retry = Retry {
        first: Duration::from_millis(2),
        longest: Duration::from_millis(20),
        deadline: Duration::from_millis(300),
    };
    Place { bucket: Bucket::new(&settings, &login, &system_cx()).unwrap(), retry }
}

impl Place {
    fn make(&self) {
        self.bucket.control(self.retry, &system_cx()).unwrap().create().unwrap();
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.bucket.store(self.retry, &system_cx()).unwrap())
    }
}

impl Machine {
    fn new() -> Self {
        let server = Arc::new(S3Fault::start(system_clock()));
        server.allow_role(ROLE, None);
        place(&server).make();
        let world = World::of(place(&server).store());
        let machine = Self { server, world };
        for n in 0..12 {
            machine.write(n, &format!("at the start {n}"));
        }
        machine.backup().unwrap();
        machine
    }

    /// Content that nothing else has, and that does not compress away.
    fn write(&self, n: usize, what: &str) {
        let docs = self.world.path("docs");
        std::fs::create_dir_all(&docs).unwrap();
        std::fs::write(docs.join(n.to_string()), what.repeat(200)).unwrap();
    }

    /// As another process would, so that each run asks for all.
    fn open(&self) -> Result<Arc<Repo>, OpsError> {
        let unlock = Unlock::KeyFile(Secret32::new(KEY));
        let cache = self.world.path("cache");
        Ok(Arc::new(Repo::open(place(&self.server).store(), unlock, Vec::new(), &cache, &self.world.cx)?))
    }

    fn backup(&self) -> Result<(), OpsError> {
        let options = BackupOptions {
            purpose: "manual".to_owned(),
            description: None,
            host: "test".to_owned(),
            epoch_days: 90,
        };
        let repo = self.open()?;
        let report = backup(&repo, &[files(&self.world.path("docs"))], &options, &self.world.cx)?;
        assert_eq!(report.outcome, Outcome::Complete);
        Ok(())
    }

    /// Forgets all but the newest.
    fn forget(&self) {
        let repo = self.open().unwrap();
        let mut all = hikae_ops::list::list(&repo, None).unwrap();
        all.sort_by_key(|listed| listed.moment);
        all.pop();
        let options = ForgetOptions { even_last: false, even_many: true };
        let what = ToForget::Snapshots(all.iter().map(|listed| listed.id).collect());
        forget(&repo, &what, "", options, &self.world.cx).unwrap();
    }

    fn prune(&self) -> Result<Pruned, OpsError> {
        let options = PruneOptions { soft: Duration::ZERO, max_unused_percent: 0, ..PruneOptions::default() };
        prune(&*self.open()?, &options, &KeepLog::default(), &self.world.cx)
    }

    fn n_snapshots(&self) -> usize {
        hikae_ops::list::list(&self.open().unwrap(), None).unwrap().len()
    }

    /// All is there, and all of it is what was backed up.
    #[track_caller]
    fn is_well(&self, when: &str) {
        self.server.behave();
        let options = VerifyOptions { read_data: true, ..VerifyOptions::default() };
        let report = verify(&self.open().unwrap(), &options, &self.world.cx).unwrap();
        assert!(
            report.outcome == Outcome::Complete && report.n_problems == 0,
            "{when}: {:?}",
            report.problems
        );
        assert_eq!(self.server.complaints(), [""; 0], "{when}");
    }

    /// Has this become of the n-th request from here, and tells whether it came to it.
    fn at(&self, n: usize, fate: Fate) -> impl Fn(&S3Fault) -> bool + use<> {
        let at = self.server.n_asked() + n;
        self.server.decide(move |asked| if asked.n == at { fate } else { Fate::Pass });
        move |server| server.n_asked() > at
    }
}

fn is_full() -> bool {
    std::env::var_os("HIKAE_FULL").is_some()
}

/// Whatever answer is lost, of every request of a backup and of a prune: of every third, and with `HIKAE_FULL=1` of each.
///
/// Keeps C-3.
#[test]
fn a_lost_answer_of_any_request_neither_loses_nor_doubles_anything() {
    let machine = Machine::new();
    let (mut n, mut n_backups) = (0, 1);
    let step = if is_full() { 1 } else { 3 };
    loop {
        machine.write(3, &format!("changed when the answer to request {n} was lost"));
        let came_to_it = machine.at(n, Fate::LoseAnswer);
        machine.backup().unwrap_or_else(|error| panic!("request {n}: {error:?}"));
        let is_over = !came_to_it(&machine.server);
        machine.server.behave();
        n_backups += 1;
        assert_eq!(machine.n_snapshots(), n_backups, "after the backup whose answer {n} was lost");
        n += step;
        if is_over {
            break;
        }
    }
    let n_of_a_backup = n - step;
    machine.is_well("after all backups");
    let mut n = 0;
    loop {
        machine.write(4, &format!("something that goes away again, {n}"));
        machine.backup().unwrap();
        machine.forget();
        let came_to_it = machine.at(n, Fate::LoseAnswer);
        machine.prune().unwrap_or_else(|error| panic!("request {n}: {error:?}"));
        let is_over = !came_to_it(&machine.server);
        machine.server.behave();
        assert_eq!(machine.n_snapshots(), 1, "after the prune whose answer {n} was lost");
        n += step;
        if is_over {
            break;
        }
    }
    assert!(n_of_a_backup > 8 && n > 10, "{n_of_a_backup} and {n}");
    eprintln!(
        "up to {n_of_a_backup} requests of a backup, {} of a prune, every {step}: its answer was lost once",
        n - step
    );
    machine.is_well("after all prunes");
}

/// Keeps C-1.
#[test]
fn a_server_that_fails_now_and_then_is_outlived_and_not_stormed() {
    let machine = Machine::new();
    let random = Arc::new(TestRandom::new(Seed::draw()));
    let n_runs = if is_full() { 100 } else { 4 };
    let mut n = 0;
    let mut all = |percent: u64| {
        let random = random.clone();
        machine.server.decide(move |_| match (random.below(100) < percent, random.below(5)) {
            (false, _) => Fate::Pass,
            (true, 0) => Fate::LoseRequest,
            (true, 1) => Fate::LoseAnswer,
            (true, 2) => Fate::Answer(500, "InternalError"),
            (true, 3) => Fate::Answer(503, "SlowDown"),
            (true, _) => Fate::HarmRequest,
        });
        let before = machine.server.n_asked();
        for _ in 0..n_runs {
            n += 1;
            machine.write(3, &format!("run {n}"));
            machine.backup().unwrap_or_else(|error| panic!("{percent} in a hundred: {error:?}"));
        }
        machine.server.behave();
        machine.server.n_asked() - before
    };
    let [without, .., with_most] = [all(0), all(1), all(5), all(20)];
    assert!(with_most < 3 * without, "{with_most} requests with faults, {without} without");
    assert_eq!(machine.n_snapshots(), 4 * n_runs + 1);
    machine.is_well("after faults");
    machine.server.decide(|asked| match asked.method.as_str() {
        "POST" => Fate::Pass,
        _ => Fate::Answer(503, "SlowDown"),
    });
    let (before, began) = (machine.server.n_asked(), system_cx());
    let error = machine.open().map(drop).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreUnreachable, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(3) && machine.server.n_asked() - before < 100);
    machine.is_well("after a server that never answers");
}

/// Sessions end at each request in turn and there is no other; then each permission is gone from each request on.
///
/// Keeps C-5.
#[test]
fn a_run_that_may_no_more_says_so_and_leaves_all_well() {
    let machine = Machine::new();
    let step = if is_full() { 1 } else { 2 };
    let (mut n_ended, mut n_snapshots) = (0, 1);
    for n in (1..).step_by(step) {
        machine.write(3, &format!("when the session ended at request {n}"));
        let (at, ends) = (machine.server.n_asked() + n, Arc::downgrade(&machine.server));
        machine.server.decide(move |asked: &Asked| {
            if asked.n == at {
                ends.upgrade().unwrap().end_sessions();
            }
            match asked.method == "POST" && asked.n > at {
                true => Fate::Answer(403, "AccessDenied"),
                false => Fate::Pass,
            }
        });
        let result = machine.backup();
        let came_to_it = machine.server.n_asked() > at;
        machine.server.behave();
        match result {
            // What comes after the commit takes nothing from it.
            Ok(()) => n_snapshots += 1,
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::Credentials, "request {n}: {error:?}");
                n_ended += 1;
            }
        }
        assert_eq!(machine.n_snapshots(), n_snapshots, "request {n}");
        if !came_to_it {
            break;
        }
    }
    assert!(n_ended > 4, "{n_ended}");
    machine.is_well("after sessions that ended");
    for action in ["PutObject", "GetObject", "ListBucket"] {
        for n in (0..24).step_by(step * 3) {
            machine.write(3, &format!("when {action} was forbidden from request {n} on"));
            let n_allowed = AtomicUsize::new(n);
            machine.server.forbid(move |request| {
                let is_left = n_allowed
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok();
                !is_left && request.action() == action
            });
            let result = machine.backup();
            machine.server.behave();
            if let Err(error) = result {
                assert_eq!(error.code(), ErrorCode::Permission, "{action}, request {n}: {error:?}");
            }
        }
    }
    machine.server.forbid(|request| request.action() == "DeleteObject");
    machine.backup().unwrap();
    machine.is_well("after permissions that were taken");
}

/// Keeps C-2.
#[test]
fn what_is_wrong_in_an_answer_is_never_taken_for_right() {
    let machine = Machine::new();
    let expected = std::fs::read(machine.world.path("docs/3")).unwrap();
    let snapshot = hikae_ops::list::list(&machine.open().unwrap(), None).unwrap()[0].id;
    let random = Arc::new(TestRandom::new(Seed::draw()));
    let n_tries = if is_full() { 10_000 } else { 60 };
    let mut n_wrong = 0;
    for n in 0..n_tries {
        let kind = n % 6;
        let (random_too, n_changed) = (random.clone(), Arc::new(AtomicUsize::new(0)));
        // One answer, or each from that one on.
        let (once, changed, is_one) = (random.below(8) as usize, n_changed.clone(), random.below(2) == 0);
        machine.server.mangle(move |asked, answer| {
            let is_content =
                asked.method == "GET" && !asked.path.contains("list-type") && answer.status < 300;
            if !is_content {
                return;
            }
            let n = changed.fetch_add(1, Ordering::Relaxed);
            if n == once || (n > once && !is_one) {
                harm(kind, answer, &random_too);
            }
        });
        let target = machine.world.path("back");
        let read = machine.open().and_then(|repo| {
            let files = Target::into_new(&target, &machine.world.cx).unwrap();
            hikae_ops::restore::restore_files(&repo, snapshot, &[], files, &machine.world.cx)
        });
        machine.server.behave();
        n_wrong += usize::from(n_changed.load(Ordering::Relaxed) > once);
        if let Ok(report) = read
            && report.outcome == Outcome::Complete
        {
            let inside = machine.world.path("docs");
            let back = target.join(inside.strip_prefix("/").unwrap()).join("3");
            assert!(std::fs::read(back).unwrap() == expected, "kind {kind}");
        }
        let _ = std::fs::remove_dir_all(&target);
        let _ = std::fs::remove_dir_all(machine.world.path("cache"));
    }
    assert!(n_wrong > n_tries / 2, "{n_wrong} answers were changed");
    eprintln!("{n_wrong} runs met a wrong answer");
    machine.is_well("after wrong answers");
}

fn harm(kind: usize, answer: &mut Answer, random: &TestRandom) {
    match kind {
        0 => {
            let at = random.below(answer.body.len().max(1) as u64) as usize;
            answer.body.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
        }
        1 => answer.body.truncate(random.below(answer.body.len().max(1) as u64) as usize),
        2 => answer.body = b"<html><body>Please sign in</body></html>".to_vec(),
        3 => answer.body.reverse(),
        // A part is asked for, and something else comes and says that it is all.
        4 => {
            answer.status = 200;
            answer.headers.retain(|(name, _)| name != "Content-Range");
            answer.body.extend_from_slice(b"and more");
        }
        _ => answer.body = vec![0; answer.body.len()],
    }
}

/// Changes the answer to a list.
type Lie = fn(&mut String);

/// Keeps C-7.
#[test]
fn a_list_that_lies_removes_nothing() {
    let machine = Machine::new();
    for n in 0..6 {
        machine.write(n, &format!("another state {n}"));
        machine.backup().unwrap();
    }
    // Nothing is there that a prune could take.
    machine.forget();
    machine.prune().unwrap();
    let well = machine.server.truth("backups");
    machine.server.page(3);
    let lies: [(&str, Lie); 6] = [
        ("empty", |text| *text = without_contents(text, |_| false)),
        ("without its first half", |text| {
            let mut n = 0;
            *text = without_contents(text, |_| {
                n += 1;
                n > 2
            });
        }),
        ("without its later pages", |text| {
            *text = text
                .replace("<IsTruncated>true", "<IsTruncated>false")
                .replace("NextContinuationToken", "Next");
        }),
        ("with each object twice", |text| {
            let doubled: String = contents(text).map(|one| one.repeat(2)).collect();
            *text = without_contents(text, |_| false)
                .replace("</ListBucketResult>", &format!("{doubled}</ListBucketResult>"));
        }),
        ("backwards", |text| {
            let mut all: Vec<String> = contents(text).collect();
            all.reverse();
            *text = without_contents(text, |_| false)
                .replace("</ListBucketResult>", &format!("{}</ListBucketResult>", all.concat()));
        }),
        ("without the newest", |text| {
            let last = contents(text).last();
            *text = without_contents(text, |one| Some(one) != last.as_deref());
        }),
    ];
    for (name, lie) in lies {
        let kinds = if is_full() {
            &["packs", "index", "snapshots", "log", "keys", ""][..]
        } else {
            &["packs", "log", ""]
        };
        for &of in kinds {
            machine.server.mangle(move |asked, answer| {
                if asked.path.contains("list-type") && asked.path.contains(of) && answer.status == 200 {
                    let mut text = String::from_utf8(std::mem::take(&mut answer.body)).unwrap();
                    lie(&mut text);
                    answer.body = text.into();
                }
            });
            let removed_before = n_removed(&machine.server, &well);
            // It may stop, with a reason, or find nothing to do.
            let result = machine.prune();
            machine.server.behave();
            let what = format!("a list of `{of}` that is {name}: {result:?}");
            assert_eq!(n_removed(&machine.server, &well), removed_before, "{what}");
            if let Ok(pruned) = result {
                assert_eq!(pruned.removed.n_packs, 0, "{what}");
            }
        }
    }
    machine.is_well("after lists that lied");
    assert_eq!(machine.n_snapshots(), 1);
}

/// How many packs of `well` are gone.
fn n_removed(
    server: &S3Fault,
    well: &std::collections::BTreeMap<String, Vec<hikae_testkit::s3_fault::Version>>,
) -> usize {
    let now = server.truth("backups");
    well.keys().filter(|key| key.contains("/packs/") && !now.contains_key(*key)).count()
}

fn contents(text: &str) -> impl Iterator<Item = String> {
    text.split("<Contents>")
        .skip(1)
        .filter_map(|rest| Some(format!("<Contents>{}</Contents>", rest.split_once("</Contents>")?.0)))
}

/// The list with only those that are `kept`.
fn without_contents(text: &str, mut kept: impl FnMut(&str) -> bool) -> String {
    let all: Vec<String> = contents(text).collect();
    all.iter()
        .fold(text.to_owned(), |text, one| if kept(one) { text } else { text.replacen(one.as_str(), "", 1) })
}
