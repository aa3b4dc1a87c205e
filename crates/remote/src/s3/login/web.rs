//! Small questions to the services that give out keys.

use super::NoKeys;
use crate::answer::read_at_most;
use crate::client::Reach;
use object_store::client::HttpClient;
use std::time::Duration;

/// Asks them, following nobody elsewhere.
pub(crate) struct Web {
    far: HttpClient,
    near: HttpClient,
}

/// An answer is small.
const MOST_BYTES: usize = 256 << 10;

impl Web {
    pub fn new(reach: &Reach) -> Result<Self, reqwest::Error> {
        let far = Reach { is_plain: true, ..reach.clone() };
        let near = Reach { is_near: true, ..far.clone() };
        Ok(Self { far: far.client()?, near: near.client()? })
    }

    /// The body of an answer that says yes; `whom` is for errors.
    pub async fn ask(
        &self,
        request: http::Request<String>,
        whom: &str,
        within: Duration,
        is_near: bool,
    ) -> Result<String, NoKeys> {
        let client = if is_near { &self.near } else { &self.far };
        let call = async {
            let response = client.execute(request.map(Into::into)).await?;
            let status = response.status();
            let body = read_at_most(response.into_body(), MOST_BYTES).await?;
            Ok::<_, object_store::client::HttpError>((status, body))
        };
        let (status, body) = match tokio::time::timeout(within, call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(NoKeys::passing(format!("{whom} cannot be asked: {}", last_cause(&error))));
            }
            Err(_) => {
                return Err(NoKeys::passing(format!("{whom} does not answer within {} s", within.as_secs())));
            }
        };
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(body);
        }
        // What such a service says no with names the rule that forbids it, and no secret.
        let [code, message] = ["Code", "Message"].map(|name| crate::answer::element(&body, name));
        let what = format!(
            "{whom} answered {} {code}{}{message}",
            status.as_u16(),
            if message.is_empty() { "" } else { ": " }
        );
        let is_passing = status.is_server_error() || status.as_u16() == 429 || code == "Throttling";
        Err(NoKeys { what: what.trim_end().to_owned(), is_passing })
    }
}

fn last_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
