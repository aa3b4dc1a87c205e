//! Amazon S3, and what speaks like it.

mod control;

pub use control::Control;

use crate::answer::Noting;
use crate::ask::Asker;
use crate::retry::Retry;
use crate::store::RemoteStore;
use hikae_model::{Advise, Cx, ErrorCode, Hint};
use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider, Checksum, S3ConditionalPut};
use object_store::client::ReqwestConnector;
use object_store::{Certificate, ClientOptions, RetryConfig, StaticCredentialProvider};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
}

/// Who we are to the server.
#[derive(Clone)]
pub struct S3Key {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl std::fmt::Debug for S3Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Key").field("access_key", &self.access_key).finish_non_exhaustive()
    }
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

const CONNECTS_WITHIN: Duration = Duration::from_secs(15);

/// A bucket, as we may speak to it. Nothing was asked of the server yet.
pub struct Bucket {
    settings: S3Settings,
    credentials: AwsCredentialProvider,
    options: ClientOptions,
}

impl Bucket {
    /// Makes ready to speak to a bucket.
    ///
    /// # Errors
    /// [`S3Error`].
    pub fn new(settings: &S3Settings, key: &S3Key) -> Result<Self, S3Error> {
        let is_plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECTS_WITHIN)
            .with_allow_http(is_plain);
        if let Some(path) = &settings.ca {
            for certificate in certificates(path)? {
                options = options.with_root_certificate(certificate);
            }
        }
        let credential =
            AwsCredential { key_id: key.access_key.clone(), secret_key: key.secret_key.clone(), token: None };
        let credentials = Arc::new(StaticCredentialProvider::new(credential));
        Ok(Self { settings: settings.clone(), credentials, options })
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
            .with_credentials(self.credentials.clone())
            // The server refuses what was changed on its way, and keeps the sum beside the object.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Who tries again must know whether a lost answer may have been a success.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Noting(ReqwestConnector::default()))
            .with_client_options(self.options.clone());
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let objects = builder.build().map_err(|error| self.cannot(error.to_string()))?;
        let asker = Asker::new(settings.address(), retry, cx).map_err(S3Error::Runtime)?;
        Ok(RemoteStore::new(asker, Arc::new(objects), &settings.prefix))
    }

    fn cannot(&self, why: String) -> S3Error {
        S3Error::Settings { bucket: self.settings.bucket.clone(), why }
    }
}

impl S3Settings {
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

fn certificates(path: &Path) -> Result<Vec<Certificate>, S3Error> {
    let unreadable = |source| S3Error::Certificates { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(unreadable)?;
    Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(io::Error::other(error.to_string())))
}
