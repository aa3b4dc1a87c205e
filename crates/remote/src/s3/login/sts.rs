//! Roles: a key for a while, from the service of tokens (STS), for another key or for what somebody else vouches for.
//!
//! Source: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html> and
//! `API_AssumeRoleWithWebIdentity.html` beside it.

use super::profile::{at_home, read_text};
use super::{Finder, Found, NoKeys, S3Role, form, moment};
use crate::answer::element;
use object_store::aws::AwsAuthorizer;
use object_store::client::HttpRequest;
use std::time::Duration;

const ANSWERS_WITHIN: Duration = Duration::from_secs(15);
const VERSION: (&str, &str) = ("Version", "2011-06-15");

/// Amazon's own, in the region that the key is for.
pub(super) fn amazon(region: &str) -> String {
    let end = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://sts.{region}.{end}")
}

impl Finder {
    /// A key of `role` for who `base` says we are.
    pub(super) async fn assume(&self, role: &S3Role, base: &Found) -> Result<Found, NoKeys> {
        let seconds = role.seconds.map(|seconds| seconds.to_string());
        let mut fields = vec![
            ("Action", "AssumeRole"),
            VERSION,
            ("RoleArn", role.arn.as_str()),
            ("RoleSessionName", role.session.as_str()),
        ];
        fields.extend(role.external_id.as_deref().map(|id| ("ExternalId", id)));
        fields.extend(seconds.as_deref().map(|seconds| ("DurationSeconds", seconds)));
        let request = self.request(&form::encode(&fields))?;
        let mut signed: HttpRequest = request.clone().map(Into::into);
        AwsAuthorizer::new(&base.credential, "sts", &self.region)
            .try_authorize(&mut signed, None)
            .map_err(|error| NoKeys::new(format!("cannot sign for {}: {error}", self.sts)))?;
        let request = http::Request::from_parts(signed.into_parts().0, request.into_body());
        self.granted(request, format!("the role {} for {}", role.arn, base.origin)).await
    }

    /// A key of a role for the token in a file, which whoever runs us keeps new.
    pub(super) async fn assume_with_web_identity(
        &self,
        arn: &str,
        session: &str,
        file: &str,
    ) -> Result<Found, NoKeys> {
        let token = read_text(&at_home(&self.login.around, file))
            .map_err(|error| NoKeys::new(format!("cannot read the web identity token in {file}: {error}")))?;
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            VERSION,
            ("RoleArn", arn),
            ("RoleSessionName", session),
            ("WebIdentityToken", token.trim()),
        ];
        let request = self.request(&form::encode(&fields))?;
        self.granted(request, format!("the role {arn} for the token in {file}")).await
    }

    fn request(&self, body: &str) -> Result<http::Request<String>, NoKeys> {
        http::Request::post(format!("{}/", self.sts.trim_end_matches('/')))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned())
            .map_err(|_| NoKeys::new(format!("`{}` is no address of a service of tokens", self.sts)))
    }

    async fn granted(&self, request: http::Request<String>, origin: String) -> Result<Found, NoKeys> {
        let whom = format!("{}, asked for {origin},", self.sts);
        let answer = self.web.ask(request, &whom, ANSWERS_WITHIN, false).await?;
        let [access_key, secret_key, token, expires] =
            ["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"]
                .map(|name| element(&answer, name));
        if access_key.is_empty() || secret_key.is_empty() || token.is_empty() {
            return Err(NoKeys::new(format!("{whom} gave no key")));
        }
        let expires = moment(expires, &origin)?;
        Ok(Found { expires: Some(expires), ..Found::new(access_key, secret_key, Some(token), origin) })
    }
}
