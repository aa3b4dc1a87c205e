//! What is done to a bucket, and not to the objects in it: requests of our own.

use super::requests::{Ask, Requests};
use super::{Bucket, S3Error};
use crate::answer::{Outcome, element};
use crate::ask::{Asker, What};
use crate::retry::Retry;
use hikae_model::Cx;
use hikae_store::StoreError;
use std::io;

/// A bucket for what is done to it as a whole.
pub struct Control<'b> {
    bucket: &'b Bucket,
    requests: Requests,
    asker: Asker,
}

impl Bucket {
    /// Makes ready to change the bucket itself.
    ///
    /// # Errors
    /// [`S3Error`].
    pub fn control(&self, retry: Retry, cx: &Cx) -> Result<Control<'_>, S3Error> {
        let asker = Asker::new(self.settings.address(), retry, cx).map_err(S3Error::Runtime)?;
        Ok(Control { bucket: self, requests: self.requests()?, asker })
    }
}

impl Control<'_> {
    /// Makes the bucket, with versions and locks if objects are to be locked. One that is ours already is a success.
    ///
    /// # Errors
    /// [`StoreError::Refused`], and whatever else the server answers.
    pub fn create(&self) -> Result<(), StoreError> {
        // The one region that may not be named: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html>.
        let body = match self.bucket.settings.region.as_str() {
            "" | "us-east-1" => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        let what = What { verb: "write", key: "the bucket" };
        let locked = [("x-amz-bucket-object-lock-enabled", "true")];
        let headers = if self.bucket.settings.lock.is_some() { &locked[..] } else { &[] };
        let ask = Ask { method: "PUT", body: &body, headers, ..Ask::default() };
        self.asker.persist(&what, || match self.asker.ask(self.requests.ask(&ask)) {
            Err(Outcome::Taken) => Ok(()),
            // Somebody else's, or in the making: neither is over in a moment.
            Err(Outcome::Raced(error)) => Err(Outcome::Failed(error)),
            answer => answer.map(drop),
        })?;
        if self.bucket.settings.lock.is_some() { self.check_lock(true) } else { Ok(()) }
    }

    /// What locks objects in the bucket: with `make`, it is set up where it is not.
    ///
    /// # Errors
    /// [`StoreError::Unlocked`] if it cannot lock objects, and whatever else the server answers.
    pub fn check_lock(&self, make: bool) -> Result<(), StoreError> {
        if self.can_lock()? {
            return Ok(());
        }
        if make {
            // Versions first: a lock is one of a version.
            let open = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
            self.set(
                "?versioning",
                &format!(
                    "<VersioningConfiguration {open}><Status>Enabled</Status></VersioningConfiguration>"
                ),
            )?;
            self.set("?object-lock", &format!("<ObjectLockConfiguration {open}><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"))?;
            if self.can_lock()? {
                return Ok(());
            }
        }
        let source = io::Error::other("the bucket was made without Object Lock");
        Err(StoreError::Unlocked {
            key: "the bucket".to_owned(),
            address: self.asker.address.clone(),
            source,
        })
    }

    fn can_lock(&self) -> Result<bool, StoreError> {
        let what = What { verb: "read", key: "the lock of the bucket" };
        self.asker.persist(&what, || {
            let ask = Ask { method: "GET", query: "?object-lock", ..Ask::default() };
            match self.asker.ask(self.requests.ask(&ask)) {
                Err(Outcome::NotThere) => Ok(false),
                said => Ok(element(&said?.body, "ObjectLockEnabled") == "Enabled"),
            }
        })
    }

    fn set(&self, query: &str, body: &str) -> Result<(), StoreError> {
        let what = What { verb: "write", key: "the lock of the bucket" };
        let ask = Ask { method: "PUT", query, body, ..Ask::default() };
        self.asker.persist(&what, || self.asker.ask(self.requests.ask(&ask)).map(drop))
    }
}
