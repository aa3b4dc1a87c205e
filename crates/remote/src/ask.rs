//! One request after the other until the answer counts.

use crate::answer::{Outcome, noting};
use crate::retry::{Again, Budget, Retry, Tries};
use crate::s3::NoKeys;
use hikae_model::Cx;
use hikae_store::{ObjectKey, StoreError};
use object_store::Error;
use std::io;
use tokio::runtime::Runtime;

/// Asks one server. Shared between threads behind a reference.
pub(crate) struct Asker {
    runtime: Runtime,
    pub address: String,
    retry: Retry,
    budget: Budget,
    cx: Cx,
}

/// What a call is about, for errors.
pub(crate) struct What<'k> {
    pub verb: &'static str,
    pub key: &'k str,
}

impl Asker {
    /// # Errors
    /// The operating system gives us no threads.
    pub fn new(address: String, retry: Retry, cx: &Cx) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("hikae-remote")
            .enable_all()
            .build()?;
        Ok(Self { runtime, address, retry, budget: Budget::new(), cx: cx.clone() })
    }

    /// One request of the library for HTTP: its result, or what it was answered.
    pub fn ask<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Outcome> {
        self.run(noting(call))
    }

    /// What is asked for in one go.
    pub fn run<T>(&self, call: impl Future<Output = Result<T, Outcome>>) -> Result<T, Outcome> {
        let result = self.runtime.block_on(call);
        if result.is_ok() {
            self.budget.earn();
        }
        result
    }

    /// The same request until it has an answer that does not pass. For what may be done twice.
    pub fn persist<T>(
        &self,
        what: &What<'_>,
        mut ask: impl FnMut() -> Result<T, Outcome>,
    ) -> Result<T, StoreError> {
        let mut tries = self.tries();
        loop {
            let (error, why) = match ask() {
                Err(Outcome::Passing(error)) => (error, Again::Failed),
                Err(Outcome::Raced(error)) => (error, Again::Raced),
                result => return result.map_err(|outcome| self.failed(what, outcome)),
            };
            if !tries.wait(why) {
                return Err(self.unreachable(what, tries.n, error));
            }
        }
    }

    pub fn tries(&self) -> Tries<'_> {
        Tries::begin(self.retry, &self.budget, &self.cx)
    }

    pub fn unreachable(&self, what: &What<'_>, n_tries: u32, source: io::Error) -> StoreError {
        let (verb, key, address) = (what.verb, what.key.to_owned(), self.address.clone());
        if source.get_ref().is_some_and(|cause| cause.is::<NoKeys>()) {
            return StoreError::Credentials { verb, key, address, source };
        }
        StoreError::Unreachable { verb, key, address, n_tries, source }
    }

    /// The error for an answer that is final.
    pub fn failed(&self, what: &What<'_>, outcome: Outcome) -> StoreError {
        let (verb, key, address) = (what.verb, what.key.to_owned(), self.address.clone());
        match (outcome, ObjectKey::parse(what.key)) {
            (Outcome::NotThere, Ok(key)) if verb != "list" && verb != "write" => StoreError::NotFound { key },
            (Outcome::NotThere | Outcome::NoStore, _) => StoreError::Missing { address },
            (Outcome::Taken, Ok(key)) => StoreError::Exists { key },
            (Outcome::Refused(source), _) => StoreError::Refused { verb, key, address, source },
            (Outcome::Locked(until), Ok(key)) => StoreError::Locked { key, until },
            (Outcome::Unlocked(source), _) => StoreError::Unlocked { key, address, source },
            (Outcome::Unknown(source), _) => StoreError::Credentials { verb, key, address, source },
            (Outcome::NotAllowed(source), _) => StoreError::Permission { verb, key, address, source },
            (Outcome::Full, Ok(key)) => StoreError::NoSpace { key, address },
            (Outcome::Passing(source) | Outcome::Raced(source), _) => self.unreachable(what, 1, source),
            (Outcome::Failed(source), _) => StoreError::Io { verb, key, address, source },
            (outcome @ (Outcome::Taken | Outcome::BeyondEnd | Outcome::Full | Outcome::Locked(_)), _) => {
                let source = io::Error::other(format!("an answer that does not fit: {outcome:?}"));
                StoreError::Io { verb, key, address, source }
            }
        }
    }
}
