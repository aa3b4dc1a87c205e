//! How long a key is kept: found once, renewed before it ends, by one at a time, and kept while it lives if there is no new one.

use super::{Finder, Found, NoKeys};
use hikae_model::{Cx, sabotage};
use jiff::{SignedDuration, Timestamp};
use object_store::aws::AwsCredential;
use std::sync::{Arc, Mutex};

/// A key is renewed this long before it ends; one that lives for less than twenty minutes, when a quarter of its life is left.
const MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// After a renewal that failed, the next is tried when an eighth of what is left has passed, and within these bounds: who
/// gives out keys is not to be asked for each request.
const SOONEST_AGAIN: SignedDuration = SignedDuration::from_secs(1);
const LATEST_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// The key of a store, for all its requests.
pub(crate) struct Keys {
    finder: Finder,
    /// Of the store, for who follows the run.
    address: String,
    cx: Cx,
    held: Mutex<Option<Held>>,
    /// Held by who looks for a new one.
    finding: tokio::sync::Mutex<()>,
}

/// A key that is used.
#[derive(Clone)]
pub(crate) struct Held {
    pub credential: Arc<AwsCredential>,
    origin: String,
    found: Timestamp,
    expires: Option<Timestamp>,
    renew_at: Option<Timestamp>,
}

impl Held {
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.renew_at.is_none_or(|at| now < at) || sabotage::on("key-never-renewed")
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    /// One that nobody gave us for a while lives until somebody takes it away.
    pub fn is_temporary(&self) -> bool {
        self.credential.token.is_some()
    }

    /// True if it is so new that nothing newer can be had.
    pub fn is_newer_than(&self, age: SignedDuration, now: Timestamp) -> bool {
        now.duration_since(self.found) < age
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Keys {
    pub fn new(finder: Finder, address: String, cx: &Cx) -> Self {
        let (held, finding) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { finder, address, cx: cx.clone(), held, finding }
    }

    pub fn now(&self) -> Timestamp {
        self.cx.now()
    }

    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(|broken| broken.into_inner()).clone()
    }

    fn hold(&self, held: Held) -> Held {
        *self.held.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(held.clone());
        held
    }

    /// The key to sign a request with.
    pub async fn current(&self) -> Result<Held, NoKeys> {
        let old = match self.held() {
            Some(held) if held.is_fresh(self.now()) => return Ok(held),
            old => old,
        };
        let living = old.clone().filter(|held| held.is_alive(self.now()));
        let _finding = match (self.finding.try_lock(), living) {
            (Ok(guard), _) => guard,
            // Somebody is at it.
            (Err(_), Some(living)) => return Ok(living),
            (Err(_), None) => self.finding.lock().await,
        };
        if let Some(held) = self.held()
            && held.is_fresh(self.now())
            && !sabotage::on("each-looks-for-a-key")
        {
            return Ok(held);
        }
        match (self.finder.find().await, old) {
            (Ok(found), _) => Ok(self.keep(found)),
            (Err(no), Some(old)) if old.is_alive(self.now()) && !sabotage::on("living-key-dropped") => {
                let until = old
                    .expires
                    .map_or_else(String::new, |end| format!("; the one that is held lives until {end:.0}"));
                self.cx.tell("key-not-renewed", &self.address, format_args!("{no}{until}"));
                Ok(self.hold(Held { renew_at: self.again(&old), ..old }))
            }
            (Err(no), Some(Held { origin, expires: Some(end), .. })) => Err(NoKeys {
                what: format!("the key of {origin} ended at {end:.0}, and there is no new one: {no}"),
                ..no
            }),
            (Err(no), _) => Err(no),
        }
    }

    /// Another key than `refused`, which the server says has ended; nothing if there is no other.
    pub async fn renew(&self, refused: &Held) -> Result<Option<Held>, NoKeys> {
        let _finding = self.finding.lock().await;
        if let Some(held) = self.held()
            && held.credential != refused.credential
        {
            return Ok(Some(held));
        }
        match self.finder.find().await {
            Ok(found) if found.credential == refused.credential => Ok(None),
            Ok(found) => Ok(Some(self.keep(found))),
            Err(no) => {
                let what = format!(
                    "the server takes the key of {} no more, and there is no new one: {no}",
                    refused.origin
                );
                Err(NoKeys { what, ..no })
            }
        }
    }

    fn keep(&self, found: Found) -> Held {
        let (now, Found { credential, expires, origin }) = (self.now(), found);
        let renew_at = expires.map(|end| {
            let life = end.duration_since(now).max(SignedDuration::ZERO);
            end - MARGIN.min(life / 4)
        });
        self.hold(Held { credential, origin, found: now, expires, renew_at })
    }

    fn again(&self, old: &Held) -> Option<Timestamp> {
        let left = old.expires?.duration_since(self.now());
        Some(self.now() + (left / 8).clamp(SOONEST_AGAIN, LATEST_AGAIN))
    }
}
