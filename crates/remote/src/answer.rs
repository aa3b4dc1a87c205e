//! What a server answered when it said no, for those who must decide what to make of it.
//!
//! The client library turns answers into a few kinds of errors and keeps the status to itself; so each request notes it here.

use crate::s3::NoKeys;
use futures_util::TryStreamExt;
use object_store::Error;
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService};
use std::io;
use std::sync::{Arc, Mutex};

tokio::task_local! {
    /// Of the call that this request is made for.
    static LAST: Arc<Mutex<Option<No>>>;
}

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct No {
    pub status: u16,
    /// The server's name for it, as `SlowDown`; empty if it gave none, as after a HEAD.
    pub code: String,
    pub message: String,
}

/// What became of one request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// There is something under that name.
    Taken,
    /// There is nothing under that name, or no such bucket.
    NotThere,
    /// The server will not, and it will not in a moment either.
    Refused(io::Error),
    /// We have nothing to show who we are, or the server does not take it.
    Unknown(io::Error),
    /// Nobody may remove it before.
    Locked(jiff::Timestamp),
    /// What was put is not locked as it should be.
    Unlocked(io::Error),
    /// Two put the same name at the same moment, and neither has won yet; nothing of ours was stored.
    Raced(io::Error),
    /// Perhaps it works in a moment. Whether it was carried out, nobody knows.
    Passing(io::Error),
    /// The object is shorter than what was asked of it.
    BeyondEnd,
    /// The server knows us, and we may not.
    NotAllowed(io::Error),
    /// There is no room.
    Full,
    /// There is no store at all.
    NoStore,
    /// Anything else: it would fail again.
    Failed(io::Error),
}

/// Runs the requests of one call; gives its result, and what the last answer was if that was no success.
pub(crate) async fn noting<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Outcome> {
    let last = Arc::new(Mutex::new(None));
    let result = LAST.scope(last.clone(), call).await;
    let no = last.lock().unwrap_or_else(|broken| broken.into_inner()).take();
    result.map_err(|error| judge(&error, no))
}

/// Errors that servers answer with a status that says less, as 400 for a request that they could not read in time: it is
/// right to ask once more. A body whose sum is another was changed on its way, and is sent again.
const PASSING_CODES: [&str; 8] = [
    "BadDigest",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "XAmzContentSHA256Mismatch",
];

/// Errors that are about who we are, and not about what we may.
const OF_WHO_WE_ARE: [&str; 7] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];

fn judge(error: &Error, no: Option<No>) -> Outcome {
    if let Some(no) = cause::<NoKeys>(error) {
        let said = io::Error::other(no.clone());
        return if no.is_passing { Outcome::Passing(said) } else { Outcome::Unknown(said) };
    }
    let Some(No { status, code, message }) = no else {
        // The network, or an answer that could not be read.
        let text = innermost(error);
        return match error {
            Error::NotFound { .. } => Outcome::NotThere,
            _ => Outcome::Passing(io::Error::other(text)),
        };
    };
    let said = match (code.as_str(), message.as_str()) {
        ("", "") => format!("the server answered {status}"),
        (code, "") | ("", code) => format!("the server answered {status}: {code}"),
        (code, message) => format!("the server answered {status} {code}: {message}"),
    };
    let said = io::Error::other(said);
    match status {
        200..300 => Outcome::Passing(said),
        404 => Outcome::NotThere,
        412 => Outcome::Taken,
        409 if code == "BucketAlreadyOwnedByYou" => Outcome::Taken,
        409 => Outcome::Raced(said),
        416 => Outcome::BeyondEnd,
        408 | 429 | 500..=599 => Outcome::Passing(said),
        _ if PASSING_CODES.contains(&code.as_str()) => Outcome::Passing(said),
        _ if OF_WHO_WE_ARE.contains(&code.as_str()) => Outcome::Unknown(said),
        // To a HEAD no server says why; it may be any of these.
        400 if code.is_empty() => Outcome::Passing(said),
        401 => Outcome::Unknown(said),
        403 => Outcome::Refused(said),
        _ => Outcome::Failed(said),
    }
}

/// The cause of that kind, however deep.
fn cause<C: std::error::Error + 'static>(error: &Error) -> Option<&C> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(deeper) = cause {
        if let Some(found) = deeper.downcast_ref() {
            return Some(found);
        }
        cause = deeper.source();
    }
    None
}

/// The last cause: what the library says before it names the whole address once more.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Notes each answer that is no success.
#[derive(Debug)]
pub(crate) struct Noting(pub HttpClient);

#[async_trait::async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let note = |no| {
            // Only what is asked for a call has somebody who wants to know.
            let _ = LAST.try_with(|last| *last.lock().unwrap_or_else(|broken| broken.into_inner()) = no);
        };
        note(None);
        let response = self.0.execute(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (no, response) = read_no(response).await?;
        note(Some(no));
        Ok(response)
    }
}

/// More than this is no answer of a store.
const MOST_READ_OF_AN_ANSWER: usize = 64 << 10;

/// What an answer that is no success says; it can be read again.
pub(crate) async fn read_no(response: HttpResponse) -> Result<(No, HttpResponse), HttpError> {
    let (parts, body) = response.into_parts();
    let body = read_at_most(body, MOST_READ_OF_AN_ANSWER).await?;
    let text = String::from_utf8_lossy(&body);
    let no = No {
        status: parts.status.as_u16(),
        code: element(&text, "Code").to_owned(),
        message: element(&text, "Message").to_owned(),
    };
    Ok((no, HttpResponse::from_parts(parts, HttpResponseBody::from(body))))
}

/// A body, or as much of it as is wanted, to the end of the part that reaches so far.
pub(crate) async fn read_at_most(body: HttpResponseBody, most: usize) -> Result<Vec<u8>, HttpError> {
    let (mut read, mut stream) = (Vec::new(), body.bytes_stream());
    while read.len() < most
        && let Some(part) = stream.try_next().await?
    {
        read.extend_from_slice(&part);
    }
    Ok(read)
}

/// The text of the first element of that name, as it stands; empty if there is none.
pub(crate) fn element<'t>(text: &'t str, name: &str) -> &'t str {
    let inner = || text.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>"));
    inner().map_or("", |(inner, _)| inner)
}
