//! An S3 server that checks what others let pass, does what it is told wrong, and knows what it really holds.
//!
//! It keeps all in memory, by a clock that the test may move. It takes no request whose signature, checksum or condition is not
//! as Amazon's documents have it, and writes down each that it had to refuse so ([`S3Fault::complaints`]). It also gives out keys
//! as the services around S3 do: roles, a machine's, a container's, SSO. What becomes of each request a test decides.
//!
//! It is no proof of what real servers do: those are run as well ([`SeaweedFs`](crate::SeaweedFs)).

mod grants;
mod request;
mod truth;

pub use request::{Answer, Request};
pub use truth::{Locked, Version};

use crate::http::{self, Listener};
use crate::http_proxy::flip;
use crate::{Asked, Fate};
use grants::Grants;
use hikae_model::Clock;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use truth::Truth;

type Decide = Box<dyn Fn(&Asked) -> Fate + Send + Sync>;
type Mangle = Box<dyn Fn(&Asked, &mut Answer) + Send + Sync>;
type Forbid = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// A server that runs as long as this lives.
pub struct S3Fault {
    listener: Listener,
    shared: Arc<Shared>,
}

struct Shared {
    n: AtomicUsize,
    decide: Mutex<Arc<Decide>>,
    mangle: Mutex<Arc<Mangle>>,
    forbid: Mutex<Arc<Forbid>>,
    world: Mutex<World>,
}

/// What there is.
pub(crate) struct World {
    pub clock: Arc<dyn Clock>,
    pub truth: Truth,
    pub grants: Grants,
    pub complaints: Vec<String>,
}

impl S3Fault {
    /// A key that is good for ever.
    pub const ACCESS_KEY: &str = "AKIAFORTESTS";
    /// Its secret half.
    pub const SECRET_KEY: &str = "a/secret+of=tests";
    /// Who owns the buckets that are made.
    pub const OWNER: &str = "111122223333";

    /// Starts one. Locks and sessions end by `clock`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn start(clock: Arc<dyn Clock>) -> Self {
        let world = World { clock, truth: Truth::default(), grants: Grants::new(), complaints: Vec::new() };
        let shared = Arc::new(Shared {
            n: AtomicUsize::new(0),
            decide: Mutex::new(Arc::new(Box::new(|_| Fate::Pass))),
            mangle: Mutex::new(Arc::new(Box::new(|_, _| {}))),
            forbid: Mutex::new(Arc::new(Box::new(|_| false))),
            world: Mutex::new(world),
        });
        let serving = shared.clone();
        Self { listener: Listener::start(move |client| serving.serve(client)), shared }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        self.listener.endpoint()
    }

    /// Has this decide on each request from now on.
    pub fn decide(&self, decide: impl Fn(&Asked) -> Fate + Send + Sync + 'static) {
        *lock(&self.shared.decide) = Arc::new(Box::new(decide));
    }

    /// Has this change each answer from now on.
    pub fn mangle(&self, mangle: impl Fn(&Asked, &mut Answer) + Send + Sync + 'static) {
        *lock(&self.shared.mangle) = Arc::new(Box::new(mangle));
    }

    /// Has this say what nobody may from now on.
    pub fn forbid(&self, forbid: impl Fn(&Request) -> bool + Send + Sync + 'static) {
        *lock(&self.shared.forbid) = Arc::new(Box::new(forbid));
    }

    /// Has all be as at the start again, but for what is held.
    pub fn behave(&self) {
        self.decide(|_| Fate::Pass);
        self.mangle(|_, _| {});
        self.forbid(|_| false);
    }

    /// How many requests have come.
    pub fn n_asked(&self) -> usize {
        self.shared.n.load(Ordering::Relaxed)
    }

    /// Every version of every object of a bucket, the oldest first, as they really are.
    pub fn truth(&self, bucket: &str) -> BTreeMap<String, Vec<Version>> {
        self.world().truth.versions_of(bucket)
    }

    /// Changes what is held, behind everybody's back.
    pub fn tamper(&self, bucket: &str, change: impl FnOnce(&mut BTreeMap<String, Vec<Version>>)) {
        change(self.world().truth.objects_of(bucket));
    }

    /// Gives a bucket to somebody else, as if it had been removed and made again.
    pub fn hand_over(&self, bucket: &str, owner: &str) {
        self.world().truth.hand_over(bucket, owner);
    }

    /// Shows so many objects with each page of a list.
    pub fn page(&self, n: usize) {
        self.world().truth.page = n;
    }

    /// Every session that is given out from now on lives so long.
    pub fn sessions_live(&self, life: Duration) {
        self.world().grants.life = life;
    }

    /// A role that may be assumed by who knows the external id; or, without one, by anybody.
    pub fn allow_role(&self, arn: &str, external_id: Option<&str>) {
        self.world().grants.roles.insert(arn.to_owned(), external_id.map(str::to_owned));
    }

    /// Ends every session that was given out.
    pub fn end_sessions(&self) {
        self.world().grants.end_sessions();
    }

    /// How many sessions were given out.
    pub fn n_sessions(&self) -> usize {
        self.world().grants.n
    }

    /// What was refused because no good client asks so.
    pub fn complaints(&self) -> Vec<String> {
        self.world().complaints.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared.world)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut requests = BufReader::new(client);
        while let Some(message) = http::read(&mut requests, true)? {
            let Some(mut request) = Request::parse(message) else { return client.shutdown(Shutdown::Both) };
            let n = self.n.fetch_add(1, Ordering::Relaxed);
            let asked = Asked { n, method: request.method.clone(), path: request.target.clone() };
            let decide = lock(&self.decide).clone();
            let fate = decide(&asked);
            if fate == Fate::HarmRequest {
                flip(&mut request.body);
            }
            let mut answer = match fate {
                Fate::LoseRequest => return client.shutdown(Shutdown::Both),
                Fate::Answer(status, code) => Answer::no(status, code, "so the test says"),
                Fate::Pass | Fate::HarmRequest | Fate::LoseAnswer | Fate::CutAnswer(_) => {
                    self.answer(&request)
                }
            };
            lock(&self.mangle).clone()(&asked, &mut answer);
            match fate {
                Fate::LoseAnswer => return client.shutdown(Shutdown::Both),
                Fate::CutAnswer(at) => {
                    answer.write(client, &request, Some(at))?;
                    return client.shutdown(Shutdown::Both);
                }
                _ => answer.write(client, &request, None)?,
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request) -> Answer {
        let forbid = lock(&self.forbid).clone();
        let world = &mut *lock(&self.world);
        if let Some(answer) = world.grants.answer(request, world.clock.now()) {
            return answer;
        }
        let refused = world.grants.check(request, world.clock.now()).err();
        let answer = match refused {
            Some(no) => no,
            None if forbid(request) => Answer::no(403, "AccessDenied", "not authorized to perform this"),
            None => world.truth.answer(request, world.clock.now()),
        };
        // What only a client with a fault gets.
        let faults = [
            "InvalidRequest",
            "MalformedXML",
            "MissingSecurityHeader",
            "SignatureDoesNotMatch",
            "NotImplemented",
            "BadDigest",
        ];
        if faults.contains(&answer.code.as_str()) {
            world.complaints.push(format!("{} {}: {}", request.method, request.target, answer.code));
        }
        answer
    }
}

impl Answer {
    fn write(&self, mut to: &TcpStream, request: &Request, cut: Option<usize>) -> io::Result<()> {
        let mut head =
            format!("HTTP/1.1 {} {}\r\n", self.status, if self.status < 300 { "OK" } else { "No" });
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let has_length = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if !has_length {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        to.write_all(format!("{head}\r\n").as_bytes())?;
        // Who asked for the head only gets no body.
        if request.method != "HEAD" {
            to.write_all(&self.body[..cut.unwrap_or(usize::MAX).min(self.body.len())])?;
        }
        Ok(())
    }
}
