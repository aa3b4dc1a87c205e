//! What is done to a bucket, and not to the objects in it: requests of our own.

use super::{Bucket, S3Error};
use crate::answer::Outcome;
use crate::ask::{Asker, What};
use crate::retry::Retry;
use hikae_model::Cx;
use hikae_store::StoreError;
use object_store::Error;
use object_store::client::{HttpClient, HttpRequest};

/// A bucket for what is done to it as a whole.
pub struct Control<'b> {
    bucket: &'b Bucket,
    client: HttpClient,
    asker: Asker,
}

impl Bucket {
    /// Makes ready to change the bucket itself.
    ///
    /// # Errors
    /// [`S3Error`].
    pub fn control(&self, retry: Retry, cx: &Cx) -> Result<Control<'_>, S3Error> {
        let client = self.client()?;
        let asker = Asker::new(self.settings.address(), retry, cx).map_err(S3Error::Runtime)?;
        Ok(Control { bucket: self, client, asker })
    }

    /// The address of the bucket for the server.
    fn url(&self) -> String {
        let settings = &self.settings;
        let endpoint = match &settings.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", settings.region),
        };
        match (settings.path_style, endpoint.split_once("://")) {
            (false, Some((scheme, host))) => format!("{scheme}://{}.{host}/", settings.bucket),
            _ => format!("{endpoint}/{}", settings.bucket),
        }
    }
}

impl Control<'_> {
    /// Makes the bucket. One that is ours already is a success.
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
        self.asker.persist(&what, || match self.asker.ask(self.request("PUT", "", &body)) {
            Err(Outcome::Taken) => Ok(()),
            // Somebody else's, or in the making: neither is over in a moment.
            Err(Outcome::Raced(error)) => Err(Outcome::Failed(error)),
            answer => answer.map(drop),
        })
    }

    /// One request to `query` of the bucket. Gives the body of the answer.
    async fn request(&self, method: &str, query: &str, body: &str) -> Result<Vec<u8>, Error> {
        let generic = |source| Error::Generic { store: "S3", source };
        let request = http::Request::builder().method(method).uri(format!("{}{query}", self.bucket.url()));
        let request: HttpRequest =
            request.body(body.to_owned().into()).map_err(|error| generic(Box::new(error)))?;
        let response = self.client.execute(request).await.map_err(|error| generic(Box::new(error)))?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(|error| generic(Box::new(error)))?;
        match status.is_success() {
            true => Ok(body.into()),
            false => Err(generic(format!("the server answered {status}").into())),
        }
    }
}
