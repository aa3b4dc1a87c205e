//! A store that fails as it is told to, remembers every call, and can be stopped before any of them.
//!
//! ```
//! use hikae_store::{MemoryStore, Store, StoreError};
//! use hikae_testkit::{Fault, FaultyStore, Verb, store_contract::key};
//!
//! let store = FaultyStore::new(MemoryStore::new());
//! store.inject(Verb::Put, "log", 2, Fault::answer_lost());
//! store.put(&key("log/1"), b"one").unwrap();
//! assert!(store.put(&key("log/2"), b"two").unwrap_err().outcome_is_unknown());
//! assert_eq!(store.get(&key("log/2")).unwrap(), b"two"); // applied, though its answer was lost
//! assert_eq!(store.calls().last().unwrap().to_string(), "get log/2");
//! ```
//!
//! To try a fault at every call of an operation, run it once, count [`FaultyStore::calls`], and then run it
//! again for each number with [`FaultyStore::inject_at`].

use hikae_store::{Object, ObjectKey, Store, StoreError};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What a store can be asked for. `get` and `get_range` are both `Get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// `put`
    Put,
    /// `get` and `get_range`
    Get,
    /// `list`
    List,
    /// `stat` and `settle`
    Stat,
    /// `remove`
    Remove,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::List, Self::Stat, Self::Remove];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::List => "list",
            Self::Stat => "stat",
            Self::Remove => "remove",
        })
    }
}

/// One call. Shown as `put log/0000000000000001`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number among all calls, from 1.
    pub n: usize,
    /// What was asked for.
    pub verb: Verb,
    /// The key, or the prefix of a list.
    pub key: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.key)
    }
}

/// What goes wrong in one call.
#[derive(Clone)]
pub enum Fault {
    /// Nothing is done, and the call ends with an error.
    Before(Failure),
    /// All is done, and the call ends with an error all the same: the answer was lost.
    After(Failure),
    /// A put or a remove ends with an error, and is done only when [`FaultyStore::land`] is called: it was
    /// still under way when its caller gave up.
    Delayed,
    /// What a get brought is changed before it is answered.
    Read(Arc<Edit<Vec<u8>>>),
    /// What a list found is changed before it is shown, and the list ends well.
    List(Arc<Edit<Vec<Object>>>),
    /// A list shows so many objects and then ends with an error.
    ListBreaks(usize),
}

/// Changes an answer before it is given.
pub type Edit<T> = dyn Fn(&mut T) + Send + Sync;
/// Is called before each call.
type Hook = dyn Fn(&Call) + Send + Sync;

/// The kind of error that a fault ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The store did not answer in time.
    TimedOut,
    /// The disk failed.
    Io,
    /// The disk is full.
    NoSpace,
    /// The store refuses us.
    Permission,
    /// The store says that there is no such object.
    NotFound,
    /// There is no store any more.
    Missing,
}

impl Failure {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::TimedOut, Self::Io, Self::NoSpace, Self::Permission, Self::NotFound, Self::Missing];
}

impl Fault {
    /// Nothing is done; an error.
    pub fn refused() -> Self {
        Self::Before(Failure::Io)
    }

    /// All is done; an error.
    pub fn answer_lost() -> Self {
        Self::After(Failure::TimedOut)
    }

    /// A get answers with the first `n_bytes` only and calls that success.
    pub fn short_read(n_bytes: usize) -> Self {
        Self::Read(Arc::new(move |bytes| bytes.truncate(n_bytes)))
    }

    /// A get answers with one bit turned over, counted from the start and round the end.
    pub fn flip_bit(n: usize) -> Self {
        Self::Read(Arc::new(move |bytes| {
            let n_bits = bytes.len() * 8;
            if n_bits > 0 {
                bytes[n % n_bits / 8] ^= 1 << (n % 8);
            }
        }))
    }

    /// A list shows nothing and calls that success.
    pub fn empty_list() -> Self {
        Self::partial_list(0)
    }

    /// A list shows `n` objects and calls that success.
    pub fn partial_list(n: usize) -> Self {
        Self::List(Arc::new(move |objects| objects.truncate(n)))
    }

    /// A list shows everything twice, last object first.
    pub fn muddled_list() -> Self {
        Self::List(Arc::new(|objects| {
            objects.extend(objects.clone());
            objects.reverse();
        }))
    }

    /// A list does not show what was stored after `moment`, as if it had been taken then.
    pub fn stale_list(moment: jiff::Timestamp) -> Self {
        Self::List(Arc::new(move |objects| objects.retain(|object| object.stored <= moment)))
    }

    fn applies_to(&self, verb: Verb) -> bool {
        match self {
            Self::Before(_) | Self::After(_) => true,
            Self::Delayed => matches!(verb, Verb::Put | Verb::Remove),
            Self::Read(_) => verb == Verb::Get,
            Self::List(_) | Self::ListBreaks(_) => verb == Verb::List,
        }
    }
}

/// A store around another one, with faults. Cheap to clone; clones share.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    calls: Vec<Call>,
    n_struck: usize,
    delayed: Vec<Delayed>,
    before_each: Option<Arc<Hook>>,
    stops: Vec<(Match, Arc<Stop>)>,
}

/// Which calls something is meant for.
struct Match {
    /// Any, if `None`.
    verb: Option<Verb>,
    prefix: String,
    /// How many such calls are let by before.
    skip: usize,
}

struct Rule {
    when: Match,
    /// How often it strikes; for ever, if `None`.
    times: Option<usize>,
    fault: Fault,
}

enum Delayed {
    Put { key: ObjectKey, bytes: Vec<u8> },
    Remove { key: ObjectKey },
}

impl Match {
    /// Counts this call, and says whether it is one that is meant.
    fn meets(&mut self, call: &Call) -> bool {
        let meant = self.verb.is_none_or(|verb| verb == call.verb) && call.key.starts_with(&self.prefix);
        if meant && self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        meant
    }
}

impl FaultyStore {
    /// A store that does as `inner` does until it is told otherwise.
    pub fn new(inner: impl Store + 'static) -> Self {
        Self { inner: Arc::new(inner), state: Arc::default() }
    }

    /// The store inside, for looking at what is really there.
    pub fn inner(&self) -> &dyn Store {
        &*self.inner
    }

    /// The `n`-th call of `verb` (from 1, counted from now) on a key that begins with `prefix` meets `fault`,
    /// once.
    pub fn inject(&self, verb: Verb, prefix: &str, n: usize, fault: Fault) {
        assert!(fault.applies_to(verb), "such a fault cannot happen to a {verb}");
        self.add(Some(verb), prefix, n, Some(1), fault);
    }

    /// The `n`-th call of any kind (from 1, counted from now) meets `fault`. A call that it cannot happen to
    /// is left alone ([`n_struck`](Self::n_struck) stays).
    pub fn inject_at(&self, n: usize, fault: Fault) {
        self.add(None, "", n, Some(1), fault);
    }

    /// Every call of `verb` on a key that begins with `prefix` meets `fault`, until [`heal`](Self::heal).
    pub fn inject_always(&self, verb: Verb, prefix: &str, fault: Fault) {
        assert!(fault.applies_to(verb), "such a fault cannot happen to a {verb}");
        self.add(Some(verb), prefix, 1, None, fault);
    }

    /// Every call from the `n`-th on (from 1, counted from now) fails: the store has gone away.
    pub fn go_away_at(&self, n: usize) {
        self.add(None, "", n, None, Fault::Before(Failure::TimedOut));
    }

    fn add(&self, verb: Option<Verb>, prefix: &str, n: usize, times: Option<usize>, fault: Fault) {
        assert!(n > 0, "calls are counted from 1");
        let when = Match { verb, prefix: prefix.to_owned(), skip: n - 1 };
        self.state().rules.push(Rule { when, times, fault });
    }

    /// Forgets every fault that has not struck. What is delayed stays delayed.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// How many calls met a fault.
    pub fn n_struck(&self) -> usize {
        self.state().n_struck
    }

    /// Every call so far, in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Forgets the calls so far, and counts from 1 again.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    /// How often `verb` was called on keys that begin with `prefix`.
    pub fn n_calls(&self, verb: Verb, prefix: &str) -> usize {
        self.state().calls.iter().filter(|call| call.verb == verb && call.key.starts_with(prefix)).count()
    }

    /// Does what was delayed, oldest first. A put whose key was taken meanwhile does nothing, as on every
    /// store. Returns how many were done.
    pub fn land(&self) -> usize {
        let delayed = std::mem::take(&mut self.state().delayed);
        let n_done = delayed.len();
        for late in delayed {
            match late {
                Delayed::Put { key, bytes } => match self.inner.put(&key, &bytes) {
                    Ok(()) | Err(StoreError::Exists { .. }) => {}
                    Err(error) => panic!("the store inside failed: {error}"),
                },
                Delayed::Remove { key } => self.inner.remove(&key).expect("the store inside failed"),
            }
        }
        n_done
    }

    /// Calls `hook` before each call, on the caller's thread: it may look at the store, use it, or wait. It
    /// takes the place of an earlier hook. Calls of the hook itself go to [`inner`](Self::inner), or they
    /// would call the hook.
    pub fn before_each(&self, hook: impl Fn(&Call) + Send + Sync + 'static) {
        self.state().before_each = Some(Arc::new(hook));
    }

    /// Stops the `n`-th call of `verb` (from 1, counted from now) on a key that begins with `prefix` before
    /// anything is done.
    pub fn stop_before(&self, verb: Verb, prefix: &str, n: usize) -> Stopped {
        assert!(n > 0, "calls are counted from 1");
        let stop = Arc::new(Stop::default());
        let when = Match { verb: Some(verb), prefix: prefix.to_owned(), skip: n - 1 };
        self.state().stops.push((when, stop.clone()));
        Stopped(stop)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed on one thread must not hide why behind a poisoned lock on another.
        self.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    /// Notes a call, runs the hook, waits at a stop, and says which fault the call meets.
    fn begin(&self, verb: Verb, key: &str) -> Option<Fault> {
        let mut state = self.state();
        let call = Call { n: state.calls.len() + 1, verb, key: key.to_owned() };
        state.calls.push(call.clone());
        let stop = state.stops.iter_mut().position(|(when, _)| when.meets(&call));
        let stop = stop.map(|i| state.stops.remove(i).1);
        // Every rule counts the call, and the oldest that is due strikes.
        let due: Vec<usize> = (0..state.rules.len()).filter(|&i| state.rules[i].when.meets(&call)).collect();
        let fault = due.first().and_then(|&i| {
            let rule = &mut state.rules[i];
            let fault = rule.fault.clone();
            let is_spent = match &mut rule.times {
                None => false,
                Some(times) => {
                    *times -= 1;
                    *times == 0
                }
            };
            if is_spent {
                state.rules.remove(i);
            }
            fault.applies_to(verb).then_some(fault)
        });
        state.n_struck += usize::from(fault.is_some());
        let hook = state.before_each.clone();
        drop(state);
        if let Some(hook) = hook {
            hook(&call);
        }
        if let Some(stop) = stop {
            stop.wait_here(&call);
        }
        fault
    }

    fn fail(&self, failure: Failure, verb: Verb, key: &str) -> StoreError {
        let address = self.address();
        let word = match verb {
            Verb::Put => "write",
            Verb::Get | Verb::Stat => "read",
            Verb::List => "list",
            Verb::Remove => "remove",
        };
        let io = |kind: io::ErrorKind| StoreError::Io {
            verb: word,
            key: key.to_owned(),
            address: address.clone(),
            source: io::Error::new(kind, "a fault that the test put in"),
        };
        match (failure, ObjectKey::parse(key)) {
            (Failure::NoSpace, Ok(key)) => StoreError::NoSpace { key, address },
            (Failure::NotFound, Ok(key)) => StoreError::NotFound { key },
            (Failure::NoSpace | Failure::NotFound | Failure::Io, _) => io(io::ErrorKind::Other),
            (Failure::TimedOut, _) => io(io::ErrorKind::TimedOut),
            (Failure::Permission, _) => StoreError::Permission {
                verb: word,
                key: key.to_owned(),
                address,
                source: io::ErrorKind::PermissionDenied.into(),
            },
            (Failure::Missing, _) => StoreError::Missing { address },
        }
    }

    /// Does a call that changes the store.
    fn change(
        &self,
        verb: Verb,
        key: &ObjectKey,
        delayed: impl FnOnce() -> Delayed,
        change: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self.begin(verb, key.as_str()) {
            Some(Fault::Before(failure)) => Err(self.fail(failure, verb, key.as_str())),
            Some(Fault::After(failure)) => {
                change()?;
                Err(self.fail(failure, verb, key.as_str()))
            }
            Some(Fault::Delayed) => {
                self.state().delayed.push(delayed());
                Err(self.fail(Failure::TimedOut, verb, key.as_str()))
            }
            Some(Fault::Read(_) | Fault::List(_) | Fault::ListBreaks(_)) | None => change(),
        }
    }

    fn read(
        &self,
        key: &ObjectKey,
        read: impl FnOnce() -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<u8>, StoreError> {
        match self.begin(Verb::Get, key.as_str()) {
            Some(Fault::Before(failure) | Fault::After(failure)) => {
                Err(self.fail(failure, Verb::Get, key.as_str()))
            }
            Some(Fault::Read(harm)) => {
                let mut bytes = read()?;
                harm(&mut bytes);
                Ok(bytes)
            }
            Some(Fault::Delayed | Fault::List(_) | Fault::ListBreaks(_)) | None => read(),
        }
    }

    fn look(
        &self,
        key: &ObjectKey,
        look: impl FnOnce() -> Result<Object, StoreError>,
    ) -> Result<Object, StoreError> {
        match self.begin(Verb::Stat, key.as_str()) {
            Some(Fault::Before(failure) | Fault::After(failure)) => {
                Err(self.fail(failure, Verb::Stat, key.as_str()))
            }
            Some(Fault::Delayed | Fault::Read(_) | Fault::List(_) | Fault::ListBreaks(_)) | None => look(),
        }
    }
}

impl Store for FaultyStore {
    fn address(&self) -> String {
        self.inner.address()
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let delayed = || Delayed::Put { key: key.clone(), bytes: bytes.to_vec() };
        self.change(Verb::Put, key, delayed, || self.inner.put(key, bytes))
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<(), StoreError> {
        let delayed = || Delayed::Put { key: key.clone(), bytes: bytes.to_vec() };
        self.change(Verb::Put, key, delayed, || self.inner.replace(key, bytes))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>, StoreError> {
        self.read(key, || self.inner.get(key))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.read(key, || self.inner.get_range(key, range))
    }

    fn list(&self, prefix: &str, show: &mut dyn FnMut(Object)) -> Result<(), StoreError> {
        let fault = self.begin(Verb::List, prefix);
        let mut objects = Vec::new();
        match fault {
            Some(Fault::Before(failure) | Fault::After(failure)) => {
                Err(self.fail(failure, Verb::List, prefix))
            }
            Some(Fault::List(edit)) => {
                self.inner.list(prefix, &mut |object| objects.push(object))?;
                edit(&mut objects);
                objects.into_iter().for_each(show);
                Ok(())
            }
            Some(Fault::ListBreaks(n_shown)) => {
                self.inner.list(prefix, &mut |object| objects.push(object))?;
                objects.into_iter().take(n_shown).for_each(show);
                Err(self.fail(Failure::TimedOut, Verb::List, prefix))
            }
            Some(Fault::Delayed | Fault::Read(_)) | None => self.inner.list(prefix, show),
        }
    }

    fn stat(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.look(key, || self.inner.stat(key))
    }

    fn settle(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.look(key, || self.inner.settle(key))
    }

    fn remove(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let delayed = || Delayed::Remove { key: key.clone() };
        self.change(Verb::Remove, key, delayed, || self.inner.remove(key))
    }
}

/// How long a stop waits before it says that the test hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A call that is stopped, or will be. Dropped, it lets the call go on.
pub struct Stopped(Arc<Stop>);

#[derive(Default)]
struct Stop {
    state: Mutex<StopState>,
    changed: Condvar,
}

#[derive(Default)]
struct StopState {
    reached: Option<Call>,
    is_released: bool,
}

impl Stopped {
    /// Waits until the call has been reached, and gives it.
    ///
    /// # Panics
    /// If nobody makes the call within a minute.
    pub fn wait(&self) -> Call {
        self.0.wait_until("nobody made the call that should be stopped", |state| state.reached.clone())
    }

    /// Lets the call go on.
    pub fn release(self) {}
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(|broken| broken.into_inner()).is_released = true;
        self.0.changed.notify_all();
    }
}

impl Stop {
    fn wait_here(&self, call: &Call) {
        self.state.lock().unwrap_or_else(|broken| broken.into_inner()).reached = Some(call.clone());
        self.changed.notify_all();
        self.wait_until("nobody released the stopped call", |state| state.is_released.then_some(()));
    }

    fn wait_until<T>(&self, what_hangs: &str, mut is_so: impl FnMut(&StopState) -> Option<T>) -> T {
        let mut state = self.state.lock().unwrap_or_else(|broken| broken.into_inner());
        loop {
            if let Some(answer) = is_so(&state) {
                return answer;
            }
            let (next, waited) =
                self.changed.wait_timeout(state, PATIENCE).unwrap_or_else(|broken| broken.into_inner());
            assert!(!waited.timed_out(), "{what_hangs}");
            state = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_contract::{self, key, listed};
    use hikae_store::MemoryStore;

    fn faulty() -> (FaultyStore, MemoryStore) {
        let memory = MemoryStore::new();
        (FaultyStore::new(memory.clone()), memory)
    }

    #[test]
    fn without_faults_it_is_a_store() {
        store_contract::check(|| Box::new(faulty().0));
    }

    #[test]
    fn every_fault_strikes_the_call_that_it_was_meant_for() {
        let (store, memory) = faulty();
        store.inject(Verb::Put, "a/", 2, Fault::refused());
        store.inject(Verb::Put, "a/", 3, Fault::answer_lost());
        let put = |name: &str| store.put(&key(name), name.as_bytes());
        put("a/1").unwrap();
        put("b/1").unwrap();
        assert!(put("a/2").is_err());
        assert!(put("a/3").unwrap_err().outcome_is_unknown());
        put("a/4").unwrap();
        assert_eq!(memory.keys(), ["a/1", "a/3", "a/4", "b/1"].map(key));
        assert_eq!(store.n_struck(), 2);
    }

    #[test]
    fn a_delayed_put_lands_when_told() {
        let (store, memory) = faulty();
        store.inject(Verb::Put, "", 1, Fault::Delayed);
        assert!(store.put(&key("a"), b"late").unwrap_err().outcome_is_unknown());
        assert_eq!(memory.keys(), []);
        assert_eq!(store.land(), 1);
        assert_eq!(memory.get(&key("a")).unwrap(), b"late");
    }

    #[test]
    fn a_delayed_put_replaces_nothing() {
        let (store, memory) = faulty();
        store.inject(Verb::Put, "", 1, Fault::Delayed);
        store.put(&key("a"), b"late").unwrap_err();
        store.put(&key("a"), b"in time").unwrap();
        store.land();
        assert_eq!(memory.get(&key("a")).unwrap(), b"in time");
    }

    #[test]
    fn reads_lie_as_told() {
        let (store, _) = faulty();
        store.put(&key("a"), &[0, 0, 0]).unwrap();
        store.inject(Verb::Get, "", 1, Fault::short_read(2));
        store.inject(Verb::Get, "", 2, Fault::flip_bit(9));
        let answers = [0, 1, 2].map(|_| store.get(&key("a")).unwrap());
        assert_eq!(answers, [vec![0, 0], vec![0, 2, 0], vec![0, 0, 0]]);
    }

    #[test]
    fn lists_lie_as_told() {
        let (store, memory) = faulty();
        for name in ["a", "b", "c"] {
            store.put(&key(name), b"").unwrap();
        }
        let until_b = memory.stat(&key("b")).unwrap().stored;
        for (fault, expected) in [
            (Fault::empty_list(), Some(vec![])),
            (Fault::partial_list(1), Some(vec!["a"])),
            (Fault::muddled_list(), Some(vec!["a", "a", "b", "b", "c", "c"])),
            (Fault::stale_list(until_b), Some(vec!["a", "b"])),
            (Fault::ListBreaks(2), None),
        ] {
            store.inject(Verb::List, "", 1, fault);
            let shown = listed(&store, "").ok();
            let names = |objects: Vec<Object>| objects.into_iter().map(|object| object.key).collect();
            assert_eq!(
                shown.map(names),
                expected.map(|names| names.into_iter().map(key).collect::<Vec<_>>())
            );
        }
        assert_eq!(listed(&store, "").unwrap().len(), 3);
    }

    #[test]
    fn a_call_can_be_stopped_and_another_overtake_it() {
        let (store, memory) = faulty();
        let stopped = store.stop_before(Verb::Put, "log", 1);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| store.put(&key("log/1"), b"slow"));
            assert_eq!(stopped.wait().to_string(), "put log/1");
            store.put(&key("log/1"), b"fast").unwrap();
            stopped.release();
            assert!(matches!(slow.join().unwrap(), Err(StoreError::Exists { .. })));
        });
        assert_eq!(memory.get(&key("log/1")).unwrap(), b"fast");
    }

    #[test]
    fn a_store_that_went_away_answers_again_when_healed() {
        let (store, _) = faulty();
        store.go_away_at(2);
        store.put(&key("a"), b"").unwrap();
        assert!(store.get(&key("a")).is_err() && listed(&store, "").is_err());
        store.heal();
        assert_eq!(listed(&store, "").unwrap().len(), 1);
        assert_eq!(store.n_calls(Verb::List, ""), 2);
    }
}
