//! What is lost, cut or refused on the way: retried within bounds, told by its name, and never taken for an answer.

use crate::{bucket_at, retry, told};
use hikae_remote::RemoteStore;
use hikae_store::{ObjectKey, Store, StoreError};
use hikae_testkit::store_contract::{key, listed};
use hikae_testkit::{Asked, Fate, HttpProxy, SeaweedFs, system_cx};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Decide = Box<dyn Fn(&Asked) -> Fate + Send>;

/// A store behind a proxy whose mind can be changed.
struct Behind {
    store: RemoteStore,
    proxy: HttpProxy,
    decide: Arc<Mutex<Decide>>,
    _server: SeaweedFs,
}

impl Behind {
    fn start() -> Option<Self> {
        let server = SeaweedFs::start()?;
        let decide: Arc<Mutex<Decide>> = Arc::new(Mutex::new(Box::new(|_| Fate::Pass)));
        let upstream = server.endpoint().replace("http://", "");
        let asked = decide.clone();
        let proxy = HttpProxy::start(&upstream, move |request| asked.lock().unwrap()(request));
        let bucket = bucket_at(&proxy.endpoint(), "faults", "of");
        bucket.control(retry(), &system_cx()).unwrap().create().unwrap();
        let store = bucket.store(retry(), &system_cx()).unwrap();
        Some(Self { store, proxy, decide, _server: server })
    }

    fn set(&self, decide: impl Fn(&Asked) -> Fate + Send + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    /// Has this become of the next request, and of none after it.
    fn once(&self, fate: Fate) {
        let next = self.proxy.n_asked();
        self.set(move |asked| if asked.n == next { fate } else { Fate::Pass });
    }
}

const PASSING: [Fate; 5] = [
    Fate::LoseRequest,
    Fate::LoseAnswer,
    Fate::Answer(500, "InternalError"),
    Fate::Answer(503, "SlowDown"),
    Fate::Answer(400, "RequestTimeout"),
];

/// Keeps C-1, C-3.
#[test]
fn what_passes_is_asked_again_and_a_lost_answer_is_no_failure() {
    let Some(behind) = Behind::start() else { return };
    let store = &behind.store;
    for (n, fate) in PASSING.into_iter().enumerate() {
        let key = key(&format!("packs/{n}"));
        behind.once(fate);
        store.put(&key, b"content").unwrap_or_else(|error| panic!("{fate:?}: {error:?}"));
        behind.once(fate);
        assert_eq!(store.get(&key).unwrap(), b"content", "{fate:?}");
        behind.once(fate);
        assert_eq!(store.get_range(&key, 1..4).unwrap(), b"ont", "{fate:?}");
        behind.once(fate);
        assert_eq!(store.stat(&key).unwrap().bytes, 7, "{fate:?}");
        behind.once(fate);
        assert_eq!(listed(store, "packs").unwrap().len(), 1, "{fate:?}");
        // One that another made meanwhile is not ours, whatever was lost on the way.
        behind.once(fate);
        assert!(matches!(store.put(&key, b"another"), Err(StoreError::Exists { .. })), "{fate:?}");
        behind.once(fate);
        store.remove(&key).unwrap();
        assert!(store.get(&key).unwrap_err().is_not_found(), "{fate:?}");
    }
}

/// Keeps C-2.
#[test]
fn an_answer_that_is_cut_is_none() {
    let Some(behind) = Behind::start() else { return };
    let (store, key) = (&behind.store, key("packs/0"));
    let content: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    store.put(&key, &content).unwrap();
    for at in [0, 1, 50_000, 99_999] {
        behind.once(Fate::CutAnswer(at));
        assert!(store.get(&key).unwrap() == content, "cut at {at}");
        behind.once(Fate::CutAnswer(at));
        assert!(store.get_range(&key, 10..99_990).unwrap() == content[10..99_990], "cut at {at}");
        behind.set(move |_| Fate::CutAnswer(at));
        assert!(matches!(store.get(&key), Err(StoreError::Unreachable { .. })), "cut at {at}");
    }
}

/// Keeps C-7.
#[test]
fn a_list_is_whole_or_an_error() {
    let Some(behind) = Behind::start() else { return };
    let store = &behind.store;
    let names: Vec<ObjectKey> = (0..1_500).map(|n| key(&format!("index/{n:05}"))).collect();
    std::thread::scope(|scope| {
        for some in names.chunks(names.len() / 8 + 1) {
            scope.spawn(|| some.iter().for_each(|key| store.put(key, b"x").unwrap()));
        }
    });
    let is_second_page =
        |asked: &Asked| asked.path.contains("continuation-token") || asked.path.contains("start-after");
    for fate in PASSING.into_iter().chain([Fate::CutAnswer(500)]) {
        let first = Mutex::new(true);
        behind.set(move |asked| match is_second_page(asked) && std::mem::take(&mut *first.lock().unwrap()) {
            true => fate,
            false => Fate::Pass,
        });
        let shown: Vec<ObjectKey> =
            listed(store, "index").unwrap().into_iter().map(|object| object.key).collect();
        assert!(shown == names, "{fate:?}: {} objects", shown.len());
        behind.set(move |asked| if is_second_page(asked) { fate } else { Fate::Pass });
        assert!(listed(store, "index").is_err(), "{fate:?}");
    }
}

/// Keeps C-1, C-5.
#[test]
fn what_will_not_pass_ends_at_once_and_says_what_the_server_said() {
    let Some(behind) = Behind::start() else { return };
    let store = &behind.store;
    for (status, code) in
        [(403, "AccessDenied"), (401, "Unauthorized"), (301, "PermanentRedirect"), (400, "InvalidRequest")]
    {
        behind.set(move |_| Fate::Answer(status, code));
        let before = behind.proxy.n_asked();
        let error = told(&store.put(&key("packs/1"), b"content").unwrap_err());
        assert!(error.contains(code) && error.contains("packs/1"), "{error}");
        assert_eq!(behind.proxy.n_asked() - before, 1, "{code}");
        let error = told(&store.list("packs", &mut |_| {}).unwrap_err());
        assert!(error.contains(code), "{error}");
    }
    behind.set(|_| Fate::Answer(503, "SlowDown"));
    let (before, began) = (behind.proxy.n_asked(), system_cx());
    let error = store.put(&key("packs/1"), b"content").unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { n_tries, .. } if n_tries > 1), "{error:?}");
    assert!(began.elapsed() < retry().deadline + Duration::from_secs(2));
    assert!(behind.proxy.n_asked() - before < 20);
    assert!(told(&error).contains("503 SlowDown"));
}
