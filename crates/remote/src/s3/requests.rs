//! Requests of our own, for what the library has no words for: buckets as a whole, locks, versions.

use crate::answer::read_at_most;
use object_store::Error;
use object_store::client::{HttpClient, HttpRequest};
use sha2::{Digest as _, Sha256};

/// Asks a bucket. What is asked is signed, and its answer noted, as every request is.
pub(super) struct Requests {
    pub client: HttpClient,
    /// Without a `/` at its end.
    pub url: String,
}

/// What is asked.
#[derive(Default)]
pub(super) struct Ask<'a> {
    pub method: &'a str,
    /// The key with its prefix; empty for the bucket.
    pub path: &'a str,
    /// With its `?`.
    pub query: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

/// A success.
pub(super) struct Said {
    pub headers: http::HeaderMap,
    pub body: String,
}

/// No document of a bucket is longer.
const MOST_BYTES: usize = 1 << 20;

impl Requests {
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Said, Error> {
        let generic = |source| Error::Generic { store: "S3", source };
        let path = if ask.path.is_empty() { String::new() } else { format!("/{}", ask.path) };
        let mut request =
            http::Request::builder().method(ask.method).uri(format!("{}{path}{}", self.url, ask.query));
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        if !ask.body.is_empty() {
            let sum = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, Sha256::digest(ask.body));
            request = request.header("x-amz-checksum-sha256", sum);
        }
        let request: HttpRequest =
            request.body(ask.body.to_owned().into()).map_err(|error| generic(Box::new(error)))?;
        let response = self.client.execute(request).await.map_err(|error| generic(Box::new(error)))?;
        let (parts, body) = response.into_parts();
        let body = read_at_most(body, MOST_BYTES).await.map_err(|error| generic(Box::new(error)))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        match parts.status.is_success() {
            true => Ok(Said { headers: parts.headers, body }),
            false => Err(generic(format!("the server answered {}", parts.status).into())),
        }
    }
}

impl Said {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
    }
}
