//! Amazon S3, and what speaks like it.

mod control;
mod lock;
mod login;
mod requests;
mod signing;

pub use control::Control;
pub use lock::{S3Lock, S3LockMode};
pub(crate) use login::NoKeys;
pub use login::{S3Identity, S3Key, S3Login, S3Role, S3Surroundings};

use crate::answer::Noting;
use crate::ask::Asker;
use crate::client::{Reach, Ready, Scheme};
use crate::objects::Objects;
use crate::retry::Retry;
use crate::store::RemoteStore;
use hikae_model::{Advise, Cx, ErrorCode, Hint, sabotage};
use lock::Locking;
use login::{Finder, Keys, Web};
use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::client::HttpClient;
use object_store::{ClientOptions, RetryConfig};
use requests::Requests;
use signing::Signing;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Where a bucket is, and what opens it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// What all names begin with, without a `/` at either end; nothing for the whole bucket.
    pub prefix: String,
    /// The region; some servers do not care.
    pub region: String,
    /// The server, as `https://s3.example.com:9000`; AWS if there is none.
    pub endpoint: Option<String>,
    /// The bucket is named in the path, not in the host's name, as most servers but AWS have it.
    pub path_style: bool,
    /// A file of certificates that the server's is checked against, beside those of the system.
    pub ca: Option<PathBuf>,
    /// How long what is put stays, whoever wants it gone.
    pub lock: Option<S3Lock>,
}

/// Why no store could be made of the settings. Nothing was asked of the server yet.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// Something in the settings cannot be.
    #[error("cannot use the bucket {bucket}: {why}")]
    Settings {
        /// The bucket.
        bucket: String,
        /// What is wrong.
        why: String,
    },
    /// The certificates cannot be read.
    #[error("cannot read the certificates in {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system gives us no threads.
    #[error("cannot begin to speak to the network")]
    Runtime(#[source] io::Error),
}

impl Advise for S3Error {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Settings { .. } | Self::Certificates { .. } => ErrorCode::Usage,
            Self::Runtime(_) => ErrorCode::Failure,
        }
    }

    fn advice(&self) -> Option<Hint> {
        match self {
            Self::Settings { .. } => {
                Some("`endpoint` is as \"https://s3.example.com\", without the bucket".into())
            }
            Self::Certificates { .. } => Some("`ca` names a file of certificates in PEM".into()),
            Self::Runtime(_) => None,
        }
    }
}

/// A bucket, as we may speak to it. Nothing was asked of the server yet.
pub struct Bucket {
    settings: S3Settings,
    keys: Arc<Keys>,
    reach: Reach,
}

impl Bucket {
    /// Makes ready to speak to a bucket. The key is found with the first request.
    ///
    /// # Errors
    /// [`S3Error`].
    pub fn new(settings: &S3Settings, login: &S3Login, cx: &Cx) -> Result<Self, S3Error> {
        let reach = Reach::with_certificates(settings.ca.as_deref()).map_err(|source| {
            S3Error::Certificates { path: settings.ca.clone().unwrap_or_default(), source }
        })?;
        let is_plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let scheme = if is_plain { Scheme::Http } else { Scheme::Https };
        let finder = Finder::new(settings, login, Web::new(&reach), cx);
        let keys = Arc::new(Keys::new(finder, settings.address(), cx));
        Ok(Self { settings: settings.clone(), keys, reach: Reach { scheme, ..reach } })
    }

    /// A client whose requests are signed, and whose answers are noted.
    fn client(&self) -> Result<HttpClient, S3Error> {
        let client = self.reach.client().map_err(|error| self.settings.cannot(&error))?;
        let (keys, region) = (self.keys.clone(), self.settings.region.clone());
        let lock = self.settings.lock.clone().map(|lock| (lock, self.settings.root()));
        Ok(HttpClient::new(Noting(HttpClient::new(Signing { client, keys, region, lock }))))
    }

    fn requests(&self) -> Result<Requests, S3Error> {
        Ok(Requests { client: self.client()?, url: self.settings.url() })
    }

    /// The bucket as a store.
    ///
    /// # Errors
    /// [`S3Error`].
    pub fn store(&self, retry: Retry, cx: &Cx) -> Result<RemoteStore, S3Error> {
        let settings = &self.settings;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(!settings.path_style)
            // `Signing` does, with the key that holds at the moment of each request.
            .with_skip_signature(true)
            // What many are removed with answers yes, and its no for each within; one is told as any other request is.
            .with_disable_bulk_delete(true)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Who tries again must know whether a lost answer may have been a success.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Ready(self.client()?))
            .with_client_options(ClientOptions::new().with_allow_http(self.reach.scheme == Scheme::Http));
        // The server refuses what was changed on its way, and keeps the sum beside the object.
        if !sabotage::on("sums-left-out") {
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let objects = builder.build().map_err(|error| settings.cannot(&error))?;
        let asker = Asker::new(settings.address(), retry, cx).map_err(S3Error::Runtime)?;
        let Some(lock) = settings.lock.clone() else {
            return Ok(RemoteStore::new(asker, Arc::new(objects), &settings.prefix));
        };
        let objects = Objects { objects: Arc::new(objects), prefix: settings.prefix.clone() };
        let (requests, prefix) = (self.requests()?, settings.prefix.clone());
        let locking =
            Locking { inner: objects, requests, prefix, lock, cx: cx.clone(), seen: Mutex::default() };
        Ok(RemoteStore::over(asker, Box::new(locking)))
    }
}

impl S3Settings {
    fn cannot(&self, error: &dyn std::error::Error) -> S3Error {
        S3Error::Settings { bucket: self.bucket.clone(), why: error.to_string() }
    }

    /// The address of the bucket for the server.
    fn url(&self) -> String {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", self.region),
        };
        match (self.path_style, endpoint.split_once("://")) {
            (false, Some((scheme, host))) => format!("{scheme}://{}.{host}", self.bucket),
            _ => format!("{endpoint}/{}", self.bucket),
        }
    }

    /// What the path of each of our objects begins with.
    fn root(&self) -> String {
        let parts = [if self.path_style { self.bucket.as_str() } else { "" }, self.prefix.as_str()];
        let parts: String =
            parts.iter().filter(|part| !part.is_empty()).map(|part| format!("/{part}")).collect();
        format!("{parts}/")
    }

    /// For people and for the recovery sheet.
    pub fn address(&self) -> String {
        let bucket = match &self.endpoint {
            Some(endpoint) => format!("s3:{endpoint}/{}", self.bucket),
            None => format!("s3://{}", self.bucket),
        };
        match self.prefix.as_str() {
            "" => bucket,
            prefix => format!("{bucket}/{prefix}"),
        }
    }
}
