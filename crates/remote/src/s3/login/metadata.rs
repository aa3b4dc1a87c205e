//! A key from where we run: a container's service beside it, or the machine's own (IMDS, version 2 only).
//!
//! Source: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html> and
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.

use super::process::KeyText;
use super::profile::read_text;
use super::{Finder, Found, NoKeys};
use std::path::Path;
use std::time::Duration;

/// They are on the same machine, or there is none.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// The addresses at which containers are told of their keys.
const OF_CONTAINERS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

impl Finder {
    /// The key of the container that we run in; nothing if this is none.
    pub(super) async fn of_container(&self) -> Result<Option<Found>, NoKeys> {
        let around = &self.login.around;
        let address = match (
            around.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            around.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => format!("http://{}{path}", OF_CONTAINERS[0]),
            (None, Some(address)) => address,
            (None, None) => return Ok(None),
        };
        if !may_be_told_in_the_clear(&address) {
            let what = format!("{address} is neither https nor on this machine: no key is asked for there");
            return Err(NoKeys::new(what));
        }
        let token = match around.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => Some(read_text(Path::new(&file)).map_err(|error| {
                NoKeys::new(format!("cannot read the container's token in {file}: {error}"))
            })?),
            None => around.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        let mut request = http::Request::get(&address);
        if let Some(token) = &token {
            request = request.header("authorization", token.trim());
        }
        let origin = format!("the container's service at {address}");
        let answer = self.ask(request, &origin).await?;
        KeyText::parse(&answer, &origin)?.found(&origin).map(Some)
    }

    /// The key of the machine that we run on.
    pub(super) async fn of_instance(&self) -> Result<Found, NoKeys> {
        let around = &self.login.around;
        let nobody = "nothing says who we are: no AWS_ACCESS_KEY_ID, no profile, no role of a container or of this machine";
        if around
            .variable("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return Err(NoKeys::new(nobody));
        }
        let endpoint = around.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let endpoint =
            endpoint.as_deref().unwrap_or("http://169.254.169.254").trim_end_matches('/').to_owned();
        let origin = format!("the machine's service at {endpoint}");
        let token = http::Request::put(format!("{endpoint}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "21600");
        // Where nobody answers there is no such service, and nothing to wait for.
        let token = self.ask(token, &origin).await;
        let token = token.map_err(|NoKeys { what, .. }| NoKeys::new(format!("{nobody} ({what})")))?;
        let of_roles = format!("{endpoint}/latest/meta-data/iam/security-credentials/");
        let asked =
            |address: String| http::Request::get(address).header("x-aws-ec2-metadata-token", token.trim());
        let roles = self.ask(asked(of_roles.clone()), &origin).await?;
        let role = roles.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(NoKeys::new("this machine has no role"));
        }
        let answer = self.ask(asked(format!("{of_roles}{role}")), &origin).await?;
        let origin = format!("the machine's role {role}");
        KeyText::parse(&answer, &origin)?.found(&origin)
    }

    async fn ask(&self, request: http::request::Builder, whom: &str) -> Result<String, NoKeys> {
        let bad = |_| NoKeys::new(format!("{whom} has an address that is none"));
        self.web.ask(request.body(String::new()).map_err(bad)?, whom, ANSWERS_WITHIN, true).await
    }
}

/// Over https, or where nobody can listen.
fn may_be_told_in_the_clear(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else { return address.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let loopback = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || host == "localhost" || OF_CONTAINERS.contains(&host)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_is_not_asked_for_where_others_listen() {
        for (address, may) in [
            ("https://example.com/x", true),
            ("http://127.0.0.1:51679/x", true),
            ("http://[::1]/x", true),
            ("http://localhost/x", true),
            ("http://169.254.170.2/x", true),
            ("http://[fd00:ec2::23]/v1", true),
            ("http://example.com/x", false),
            ("http://127.0.0.1@example.com/x", false),
            ("http://169.254.170.2.example.com/", false),
            ("ftp://127.0.0.1/", false),
        ] {
            assert_eq!(super::may_be_told_in_the_clear(address), may, "{address}");
        }
    }
}
