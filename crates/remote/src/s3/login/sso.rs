//! A key for who has signed in with SSO: `aws sso login` leaves a token, which is shown for a key of a role.
//!
//! Source: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-sso-credentials.html> and
//! <https://docs.aws.amazon.com/singlesignon/latest/PortalAPIReference/API_GetRoleCredentials.html>. A sign-in that has ended
//! is not renewed here: that takes a person, or `aws sso login`.

use super::profile::{Profile, Profiles, read_text};
use super::{Finder, Found, NoKeys, form, moment};
use jiff::Timestamp;
use serde::Deserialize;
use std::time::Duration;

const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// What `aws sso login` leaves.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedIn {
    access_token: String,
    expires_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    role_credentials: RoleKey,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleKey {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// Milliseconds since 1970.
    expiration: i64,
}

impl Finder {
    pub(super) async fn of_sso(
        &self,
        profiles: &Profiles,
        name: &str,
        profile: &Profile,
        account: &str,
    ) -> Result<Found, NoKeys> {
        let origin = format!("the SSO of the profile `{name}`");
        let session_name = profile.get("sso_session");
        let session = session_name.and_then(|session| profiles.sso_session(session));
        let setting = |name: &str| {
            let value = profile.get(name).or_else(|| session.and_then(|session| session.get(name)));
            value.ok_or_else(|| NoKeys::new(format!("{origin} lacks {name}")))
        };
        let (role, region) = (setting("sso_role_name")?, setting("sso_region")?);
        let start = setting("sso_start_url")?;
        let home =
            self.login.around.home.as_ref().ok_or_else(|| NoKeys::new("there is no home directory"))?;
        let cached = sha1(session_name.unwrap_or(start));
        let path = home.join(".aws/sso/cache").join(format!("{cached}.json"));
        let again = format!("run `aws sso login --profile {name}`");
        let signed_in = read_text(&path)
            .map_err(|_| NoKeys::new(format!("nobody has signed in for {origin}: {again}")))
            .and_then(|text| {
                serde_json::from_str::<SignedIn>(&text)
                    .map_err(|_| NoKeys::new(format!("{} is no sign-in: {again}", path.display())))
            })?;
        if moment(&signed_in.expires_at, &origin)? <= self.cx.now() {
            return Err(NoKeys::new(format!(
                "the sign-in for {origin} ended at {}: {again}",
                signed_in.expires_at
            )));
        }
        let portal = self.login.around.variable("AWS_ENDPOINT_URL_SSO");
        let portal = portal.unwrap_or_else(|| format!("https://portal.sso.{region}.amazonaws.com"));
        let query = form::encode(&[("role_name", role), ("account_id", account)]);
        let request =
            http::Request::get(format!("{}/federation/credentials?{query}", portal.trim_end_matches('/')))
                .header("x-amz-sso_bearer_token", &signed_in.access_token)
                .body(String::new())
                .map_err(|_| NoKeys::new(format!("`{portal}` is no address of a portal")))?;
        let answer =
            self.web.ask(request, &format!("{portal}, asked for {origin},"), ANSWERS_WITHIN, false).await?;
        let Answer { role_credentials: key } =
            serde_json::from_str(&answer).map_err(|_| NoKeys::new(format!("{portal} gave no key")))?;
        let expires = Timestamp::from_millisecond(key.expiration)
            .map_err(|_| NoKeys::new(format!("{portal} gave a key that ends at no time")))?;
        let found = Found::new(&key.access_key_id, &key.secret_access_key, Some(&key.session_token), origin);
        Ok(Found { expires: Some(expires), ..found })
    }
}

/// The name of the file in which a sign-in is kept follows from what it is for.
fn sha1(text: &str) -> String {
    use sha1::Digest as _;
    sha1::Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
