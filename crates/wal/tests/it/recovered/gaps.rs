//! Keeps E-6: what the window shows of a real archive, however it came, is what a recovery reaches.
//!
//! `HIKAE_FULL=1` tries 1,000 schedules; without it some are tried.

use super::exact::{Way, live};
use super::*;
use hikae_model::{SegmentName, SegmentSize, WalName};
use hikae_ops::pitr::window::Gap;
use hikae_repo::layout;
use hikae_repo::wal::{Pushed, WalArchive, WalError};
use hikae_store::{DirectoryStore, MemoryStore, Reserve, Store as _};
use hikae_testkit::{Seed, TestRandom};

const SIZE: u64 = 1 << 20;

fn segment(line: u32, number: u64) -> SegmentName {
    SegmentName::holding(Lsn(number * SIZE), timeline(line), SegmentSize::new(SIZE).unwrap())
}

/// The number of a segment on its timeline.
fn number(name: SegmentName) -> u64 {
    name.start(SegmentSize::new(SIZE).unwrap()).unwrap().0 / SIZE
}

/// Names of the files in a directory of copies.
fn names(copies: &Path) -> Vec<WalName> {
    let entries = std::fs::read_dir(copies).unwrap().flatten();
    let mut names: Vec<WalName> =
        entries.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
    names.sort();
    names
}

/// A repository as it is in a directory.
fn in_memory(directory: &Path) -> MemoryStore {
    let (from, to) = (
        DirectoryStore::open(directory, Reserve::Bytes(0), system_cx().random_source()).unwrap(),
        MemoryStore::new(),
    );
    let mut keys = Vec::new();
    from.list("", &mut |object| keys.push(object.key)).unwrap();
    keys.iter().for_each(|key| to.put(key, &from.get(key).unwrap()).unwrap());
    to
}

impl Archived {
    fn copies(&self) -> PathBuf {
        self.world.path("copies")
    }

    /// Archives one of the copies.
    fn deliver(&self, wal: &WalArchive, name: WalName) -> Result<Pushed, WalError> {
        let mut file = std::fs::File::open(self.copies().join(name.to_string())).unwrap();
        wal.push(self.server.system, name, &mut file)
    }

    /// A file that is not what its name says comes to the archiver, and is turned away.
    #[track_caller]
    fn is_turned_away(&self, name: WalName, harm: impl Fn(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.copies().join(name.to_string())).unwrap();
        harm(&mut bytes);
        std::fs::write(self.world.path("data/global/pg_control"), self.server.system.0.to_le_bytes())
            .unwrap();
        let path = self.world.write_log(&name.to_string(), &bytes);
        let ran = self.world.run("push", &[&path]);
        assert!(ran.code != Some(0), "{name} was archived");
    }

    /// An archive of which nothing has come yet.
    fn empty(&self) -> WalArchive {
        drop(std::fs::remove_dir_all(self.world.path("repo/wal")));
        self.world.archive()
    }

    fn gaps(&self) -> Vec<Gap> {
        self.kept().window.gaps
    }
}

/// Archiving is off for a while, as an operator does who is in a hurry: the server believes that all is kept.
#[test]
fn log_that_was_thrown_away_is_a_gap_with_the_next_segment() {
    let Some(mut archived) = Archived::begin() else { return };
    let some = |archived: &mut Archived, n: u32| {
        for _ in 0..n {
            (0..5).for_each(|_| commit(&mut archived.server.client));
            archived.server.client.batch_execute("SELECT pg_switch_wal()").unwrap();
        }
        archived.server.wait_until_archived();
    };
    // What is stored ahead is kept, also if the server calls something else when it comes to it.
    archived.server.archive_one_by_one(&archived.world, "copies");
    archived.back_up();
    some(&mut archived, 2);
    archived.server.archive_with("/bin/true");
    some(&mut archived, 4);
    assert_eq!(archived.gaps(), [], "nobody can know yet");
    let end = archived.kept().window.intervals[0].to;
    archived.server.archive_one_by_one(&archived.world, "copies");
    some(&mut archived, 2);

    let kept: BTreeSet<u64> =
        names(&archived.copies()).into_iter().filter_map(WalName::segment).map(number).collect();
    let missing: Vec<u64> =
        (*kept.first().unwrap()..*kept.last().unwrap()).filter(|n| !kept.contains(n)).collect();
    let (first, last) = (missing[0], missing[missing.len() - 1]);
    assert_eq!((last - first + 1, end), (missing.len() as u64, Lsn(first * SIZE)));
    let gap = Gap { timeline: timeline(1), first: segment(1, first), last: segment(1, last) };
    assert_eq!(archived.gaps(), [gap]);
    assert_eq!(archived.kept().window.intervals[0].to, end, "what is behind the gap is shown as reachable");

    // Of what came before and after we know what was committed; what was between nobody has.
    let whole = ledger(&mut archived.server.client);
    let lost = Lsn((first + 1) * SIZE);
    says(archived.plan(Target::Lsn(lost), true, Course::Current), &["cannot be reached"]);
    says(
        archived.plan(Target::Lsn(Lsn((last + 1) * SIZE + 8192)), true, Course::Current),
        &["cannot be reached"],
    );
    let plan = archived.plan(Target::End, true, Course::Current).unwrap();
    archived.recover(&plan, "before").unwrap();
    let before = ledger(&mut enter(&archived.open("before", &[])));
    assert!(
        before.is_subset(&whole) && before.len() >= 5 && before.len() < whole.len(),
        "{before:?} of {whole:?}"
    );

    // The next base backup leads on, and only what was between stays lost.
    archived.back_up();
    some(&mut archived, 1);
    assert_eq!(archived.gaps(), [gap]);
    let window = archived.kept().window;
    assert_eq!((window.intervals.len(), window.intervals[0].to), (2, end));
    let plan = archived.plan(Target::End, true, Course::Current).unwrap();
    archived.recover(&plan, "after").unwrap();
    let whole = ledger(&mut archived.server.client);
    assert_eq!(ledger(&mut enter(&archived.open("after", &[]))), whole);
}

/// A server with two lives: the first goes on beside the second, which forked from it between its two base backups.
struct TwoLives {
    archived: Archived,
    first: Way,
    second: Way,
    /// Where the second began.
    fork: Lsn,
    all: Vec<WalName>,
}

impl TwoLives {
    fn start() -> Option<Self> {
        let mut archived = Archived::start()?;
        archived.back_up();
        let life = |archived: &mut Archived, from| {
            let Archived { server: Server { cluster, client, .. }, .. } = archived;
            live(client, cluster, from, 24);
        };
        life(&mut archived, 0);
        life(&mut archived, 3);
        archived.server.wait_until_archived();
        let base = archived.kept().bases[0].stop;
        let way = Way { timeline: 1, records: archived.records(1), ledger: BTreeSet::new() };
        let commits = way.commits(base);
        let plan = archived.plan(Target::Lsn(commits[commits.len() / 2].0), true, Course::Current).unwrap();
        archived.recover(&plan, "other").unwrap();
        let other = archived.open("other", &[("archive_mode", "on")]);
        let mut client = enter(&other);
        live(&mut client, &other, 6, 24);
        wait_until_archived(&mut client);
        let on_second = ledger(&mut client);
        drop(client);
        drop(other);
        archived.back_up();
        life(&mut archived, 9);
        archived.server.wait_until_archived();

        let history = std::fs::read_to_string(archived.copies().join("00000002.history")).unwrap();
        let fork: Lsn = history
            .lines()
            .rfind(|line| !line.is_empty())
            .unwrap()
            .split('\t')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        // As a standby leaves it that is promoted: what it had of the segment, under a name of its own.
        let cut = WalName::Partial(segment(1, fork.0 / SIZE));
        let mut bytes = std::fs::read(archived.copies().join(segment(1, fork.0 / SIZE).to_string())).unwrap();
        bytes[(fork.0 % SIZE) as usize..].fill(0);
        std::fs::write(archived.copies().join(cut.to_string()), bytes).unwrap();
        let first =
            Way { timeline: 1, records: archived.records(1), ledger: ledger(&mut archived.server.client) };
        let until = first.records.iter().filter(|record| record.at < fork).cloned();
        let after = archived.records(2).into_iter().filter(|record| record.at >= fork);
        let second = Way { timeline: 2, records: until.chain(after).collect(), ledger: on_second };
        let all = names(&archived.copies());
        Some(Self { archived, first, second, fork, all })
    }

    /// The segment of the `line` that a recovery along it reads at this number.
    fn on(&self, line: u32, at: u64) -> WalName {
        segment(if line == 2 && at >= self.fork.0 / SIZE { 2 } else { 1 }, at).into()
    }

    /// Whether a recovery from a base that is consistent at `stop` on the first timeline reads all up to `target` along `line`.
    fn plays(&self, stop: Lsn, target: Lsn, line: u32, came: &BTreeSet<WalName>) -> bool {
        let leads_there = line == 1 || (stop <= self.fork && came.contains(&WalName::History(timeline(2))));
        let mut numbers = stop.0 / SIZE..=target.0 / SIZE;
        leads_there && stop <= target && numbers.all(|at| came.contains(&self.on(line, at)))
    }

    /// Compares the window with a recovery that is played segment by segment, at every segment of both lines.
    #[track_caller]
    fn check(&self, repo: &Arc<Repo>, came: &BTreeSet<WalName>, what: &str) {
        let kept = KeptCluster::read(repo, "main", &system_cx()).unwrap();
        assert_eq!(kept.stored.keys().copied().collect::<BTreeSet<_>>(), *came, "{what}");
        let last = self.all.iter().filter_map(|name| name.segment()).map(number).max().unwrap();
        for line in [1, 2] {
            for at in 0..last + 2 {
                let target = Lsn(at * SIZE + SIZE / 2);
                let bases = kept.bases.iter().filter(|base| self.plays(base.stop, target, line, came));
                let expected = bases.max_by_key(|base| base.stop).copied();
                let found = kept.window.base_for(timeline(line), target);
                assert_eq!(found, expected, "{what}: segment {at} along {line}, of {came:?}");
            }
            // A gap is all that is missing between what a base backup needs first and the last segment of the line.
            let needs =
                kept.bases.iter().map(|base| base.stop).filter(|stop| line == 1 || *stop <= self.fork);
            let first = needs.min().unwrap().0 / SIZE;
            let of_line = came.iter().filter(|name| matches!(name, WalName::Segment(_)));
            let of_line =
                of_line.filter_map(|name| name.segment()).filter(|name| name.timeline == timeline(line));
            let Some(last) = of_line.map(number).max() else { continue };
            let is_told = line == 1 || came.contains(&WalName::History(timeline(2)));
            let missing: BTreeSet<WalName> = (first..last)
                .map(|at| self.on(line, at))
                .filter(|name| is_told && !came.contains(name))
                .collect();
            let gaps = kept.window.gaps.iter().filter(|gap| is_told && gap.timeline == timeline(line));
            let told: BTreeSet<WalName> = gaps
                .flat_map(|gap| number(gap.first)..=number(gap.last))
                .map(|at| self.on(line, at))
                .collect();
            assert_eq!(told, missing, "{what}: along {line}, of {came:?}");
        }
    }
}

#[test]
fn the_window_of_a_real_archive_is_what_a_recovery_reaches_however_it_came() {
    let Some(lives) = TwoLives::start() else { return };
    let archived = &lives.archived;
    let random = TestRandom::new(Seed::draw());
    let has = |is_it: fn(&WalName) -> bool| lives.all.iter().any(is_it);
    let has_all =
        has(|name| matches!(name, WalName::Backup(..))) && has(|name| matches!(name, WalName::Partial(_)));
    assert!(has_all, "{:?}", lives.all);
    let schedules = if std::env::var_os("HIKAE_FULL").is_some() { 1000 } else { 12 };
    archived.empty();
    let none = in_memory(&archived.world.path("repo"));
    let open = |store: &MemoryStore| archived.world.repo_over(store.clone());
    let full = none.fork();
    let wal = WalArchive::of(&open(&full));
    for name in &lives.all {
        archived.deliver(&wal, *name).unwrap();
    }
    lives.check(&open(&full), &lives.all.iter().copied().collect(), "all came");
    for name in &lives.all {
        let store = full.fork();
        store.remove(&layout::wal(archived.server.system, *name)).unwrap();
        let came = lives.all.iter().filter(|other| *other != name).copied().collect();
        lives.check(&open(&store), &came, &format!("all but {name} came"));
    }
    for schedule in 0..schedules {
        let repo = open(&none.fork());
        let wal = WalArchive::of(&repo);
        let mut came = BTreeSet::new();
        // Some never come, some twice, and none in its turn.
        let mut coming: Vec<WalName> = lives
            .all
            .iter()
            .copied()
            .filter(|_| random.below(12) > 0)
            .flat_map(|name| std::iter::repeat_n(name, 1 + usize::from(random.below(6) == 0)))
            .collect();
        for at in (1..coming.len()).rev() {
            coming.swap(at, random.below(at as u64 + 1) as usize);
        }
        for (at, name) in coming.iter().enumerate() {
            let pushed = archived.deliver(&wal, *name).unwrap();
            assert_eq!(pushed == Pushed::AlreadyThere, !came.insert(*name), "{name}");
            if at % coming.len().div_ceil(3) == 0 {
                lives.check(&repo, &came, &format!("schedule {schedule} under way"));
            }
        }
        lives.check(&repo, &came, &format!("schedule {schedule}"));
    }
    // What is cut, or not log at all, does not come to stand for what it is named.
    let segments = lives.all.iter().copied().filter(|name| matches!(name, WalName::Segment(_)));
    let segments: Vec<WalName> = segments.collect();
    let one = segments[random.below(segments.len() as u64) as usize];
    archived.is_turned_away(one, |bytes| bytes.truncate(random.below(SIZE) as usize));
    archived.is_turned_away(one, |bytes| bytes[1] ^= 0x80);
    lives.check(&archived.repo(), &BTreeSet::new(), "nothing came but what was turned away");
    both_sides_of_a_gap(&lives);
}

/// One segment of each line is missing: what lies before it comes back to the row, and what lies behind is refused.
fn both_sides_of_a_gap(lives: &TwoLives) {
    let archived = &lives.archived;
    let bases = archived.kept().bases;
    let stop = |n: usize| bases.iter().find(|base| base.snapshot == archived.bases[n]).unwrap().stop;
    let (first, second, fork) = (stop(0), stop(1), lives.fork.0 / SIZE);
    let on_first = second.0 / SIZE - 1;
    let on_second =
        lives.all.iter().filter_map(|name| name.segment()).filter(|name| name.timeline == timeline(2));
    let on_second = on_second.map(number).max().unwrap() - 1;
    assert!(fork < on_first && fork < on_second, "{fork}, {on_first}, {on_second}");
    let gone = [segment(1, on_first), segment(2, on_second)];
    let wal = archived.empty();
    // A promotion archives its history before anything else.
    let is_history = |name: &&WalName| matches!(name, WalName::History(_));
    let others = lives.all.iter().filter(|name| !is_history(name));
    let others = others.filter(|name| !gone.iter().any(|gone| **name == WalName::Segment(*gone)));
    for name in lives.all.iter().filter(is_history).chain(others) {
        // With the segment after it, not before.
        let is_next = gone.iter().any(|gone| *name == lives.on(gone.timeline.get(), number(*gone) + 1));
        let before = archived.gaps();
        archived.deliver(&wal, *name).unwrap();
        if is_next {
            assert_eq!(
                archived.gaps().len(),
                before.len() + 1,
                "{name} came, and the gap before it is not seen"
            );
        }
    }
    let gaps = archived.gaps();
    let found: Vec<_> = gaps.iter().map(|gap| (gap.timeline.get(), gap.first, gap.last)).collect();
    assert_eq!(found, [(1, gone[0], gone[0]), (2, gone[1], gone[1])]);
    for (n, (way, gone)) in [(&lives.first, gone[0]), (&lives.second, gone[1])].into_iter().enumerate() {
        let (from, to) = (Lsn(number(gone) * SIZE), Lsn((number(gone) + 1) * SIZE));
        let commits = way.commits(first);
        // One that begins before the gap may end in it.
        let last = commits.iter().rfind(|commit| commit.0.0 + 1000 < from.0).unwrap();
        archived.see_exact(way, Target::Lsn(last.0), true, n);
        let course = || Course::Timeline(timeline(way.timeline));
        for lost in [Lsn(from.0 + 100), Lsn(to.0 + 100)].into_iter().filter(|lost| n == 1 || *lost < second) {
            says(archived.plan(Target::Lsn(lost), true, course()), &["cannot be reached"]);
        }
    }
    // Behind the second base backup it goes on.
    let last = lives.first.commits(second);
    archived.see_exact(&lives.first, Target::Lsn(last[last.len() - 3].0), true, 2);
}
