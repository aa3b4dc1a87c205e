//! Every request to a bucket is signed here, with the key that holds at that moment, and once more with a new one if the server
//! says that the old one has ended.

use super::lock::S3Lock;
use super::login::{Held, Keys, NoKeys};
use crate::answer::{self, No};
use base64::Engine as _;
use hikae_model::sabotage;
use jiff::SignedDuration;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use std::sync::Arc;

/// Errors that say that a key has ended or gone, and not that it may not.
const OF_THE_KEY: [&str; 5] =
    ["ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"];
/// To a HEAD no server says why. A key that is older than this may have ended.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

/// Signs, then asks.
#[derive(Debug)]
pub(crate) struct Signing {
    pub client: HttpClient,
    pub keys: Arc<Keys>,
    pub region: String,
    /// How objects are locked as they are put, and what their paths begin with.
    pub lock: Option<(S3Lock, String)>,
}

#[async_trait::async_trait]
impl HttpService for Signing {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let held = self.keys.current().await.map_err(no_keys)?;
        let response = self.client.execute(self.signed(&request, &held)?).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (no, response) = answer::read_no(response).await?;
        if !self.is_of_the_key(&no, &held) || sabotage::on("ended-key-is-final") {
            return Ok(response);
        }
        match self.keys.renew(&held).await.map_err(no_keys)? {
            Some(new) => self.client.execute(self.signed(&request, &new)?).await,
            None => Ok(response),
        }
    }
}

impl Signing {
    fn signed(&self, request: &HttpRequest, held: &Held) -> Result<HttpRequest, HttpError> {
        let mut request = request.clone();
        let is_put = request.method() == http::Method::PUT
            && request.uri().query().is_none()
            && !sabotage::on("put-unlocked");
        if let (Some((lock, root)), true) = (&self.lock, is_put)
            && let Some(name) = request.uri().path().strip_prefix(root.as_str())
            && let Some(headers) = lock.headers(name, self.keys.now())
        {
            for (name, value) in headers {
                let value = http::HeaderValue::try_from(value)
                    .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
                request.headers_mut().insert(name, value);
            }
        }
        // What was summed for the checksum is not summed once more.
        let sum = request.headers().get("x-amz-checksum-sha256");
        let sum = sum.and_then(|sum| base64::prelude::BASE64_STANDARD.decode(sum).ok());
        AwsAuthorizer::new(&held.credential, "s3", &self.region)
            .try_authorize(&mut request, sum.as_deref())
            .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        Ok(request)
    }

    fn is_of_the_key(&self, no: &No, held: &Held) -> bool {
        match no.code.as_str() {
            "" => {
                matches!(no.status, 400 | 401 | 403)
                    && held.is_temporary()
                    && !held.is_newer_than(SETTLED, self.keys.now())
            }
            code => OF_THE_KEY.contains(&code),
        }
    }
}

fn no_keys(no: NoKeys) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, no)
}
