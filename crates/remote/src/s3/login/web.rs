//! Small questions to the services that give out keys.

use super::NoKeys;
use crate::answer::read_at_most;
use crate::client::{Reach, Scheme};
use object_store::client::HttpClient;
use std::sync::OnceLock;
use std::time::Duration;

/// Asks them, following nobody elsewhere. Who has a key of their own never does, so nothing is made ready before.
pub(crate) struct Web {
    reach: Reach,
    far: OnceLock<HttpClient>,
    near: OnceLock<HttpClient>,
}

/// An answer is small.
const MOST_BYTES: usize = 256 << 10;

impl Web {
    pub fn new(reach: &Reach) -> Self {
        let reach = Reach { scheme: Scheme::Any, ..reach.clone() };
        Self { reach, far: OnceLock::new(), near: OnceLock::new() }
    }

    fn client(&self, is_near: bool) -> Result<&HttpClient, NoKeys> {
        let place = if is_near { &self.near } else { &self.far };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let client = Reach { is_near, ..self.reach.clone() }.client();
        let client = client.map_err(|error| NoKeys::new(format!("cannot ask for a key: {error}")))?;
        Ok(place.get_or_init(|| client))
    }

    /// The body of an answer that says yes; `whom` is for errors.
    pub async fn ask(
        &self,
        request: http::Request<String>,
        whom: &str,
        within: Duration,
        is_near: bool,
    ) -> Result<String, NoKeys> {
        let client = self.client(is_near)?;
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
