//! Who we are to an S3 server: an access key, or one of the many places in which Amazon's programs find one.
//!
//! ```text
//! the configuration -> a key of its own | a profile | the surroundings: environment, profile, web identity, container, instance
//!                      and a role that is assumed with what was found
//! ```
//!
//! This module finds a key once, reading every file anew each time; [`keys`] knows how long one is kept. It is our own, and
//! not a library's, because a name that leads nowhere must end here: what goes on to the next place in silence would back up
//! as somebody else.

mod form;
mod keys;
mod metadata;
mod process;
mod profile;
mod sso;
mod sts;
mod web;

pub(crate) use keys::{Held, Keys};
pub(crate) use web::Web;

use super::S3Settings;
use hikae_model::Cx;
use jiff::Timestamp;
use object_store::aws::AwsCredential;
use profile::Profiles;
use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use zeroize::Zeroizing;

/// An access key that is fixed.
#[derive(Clone)]
pub struct S3Key {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: Zeroizing<String>,
}

impl std::fmt::Debug for S3Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Key").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// Where it is found who we are.
#[derive(Clone, Debug)]
pub enum S3Identity {
    /// In the configuration.
    Key(S3Key),
    /// In this profile of `~/.aws`, and nowhere else.
    Profile(String),
    /// Wherever Amazon's programs would look.
    Surroundings,
}

/// A role that is assumed with what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Role {
    /// Its name, as `arn:aws:iam::123456789012:role/backup`.
    pub arn: String,
    /// What whoever trusts us with it asks for besides.
    pub external_id: Option<String>,
    /// How the session is called in their logs.
    pub session: String,
    /// For how long it is wanted, in seconds; the server's default without.
    pub seconds: Option<u32>,
}

/// Who we are to a server, and what of the surroundings says so.
#[derive(Clone)]
pub struct S3Login {
    /// Where it is found.
    pub identity: S3Identity,
    /// The role that is taken with it.
    pub role: Option<S3Role>,
    /// The server that gives out roles, as `https://sts.example.com`. Without one: `AWS_ENDPOINT_URL_STS`, else the store's
    /// own where it is not Amazon's, else Amazon's.
    pub sts_endpoint: Option<String>,
    /// What it is looked for in.
    pub around: S3Surroundings,
}

impl std::fmt::Debug for S3Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Login")
            .field("identity", &self.identity)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Looks up an environment variable.
pub type Variables = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;
/// Runs a program with its arguments, within bounds of time and size; gives what it printed, or why that is nothing.
pub type Run = Arc<dyn Fn(&[String]) -> Result<Zeroizing<String>, String> + Send + Sync>;

/// What of its surroundings may say who we are.
#[derive(Clone)]
pub struct S3Surroundings {
    /// Environment variables.
    pub variables: Variables,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// How a `credential_process` is run.
    pub run: Run,
}

impl S3Surroundings {
    fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name)?.into_string().ok().filter(|value| !value.is_empty())
    }
}

/// Why there is no key. Holds no secret; says what was looked for and where.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct NoKeys {
    pub what: String,
    /// Perhaps there is one in a moment.
    pub is_passing: bool,
}

impl NoKeys {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), is_passing: false }
    }

    fn passing(what: impl Into<String>) -> Self {
        Self { what: what.into(), is_passing: true }
    }
}

/// A key, and until when it lives.
pub(crate) struct Found {
    pub credential: Arc<AwsCredential>,
    pub expires: Option<Timestamp>,
    /// For people: `AWS_ACCESS_KEY_ID`, the profile, the role.
    pub origin: String,
}

impl Found {
    fn new(access_key: &str, secret_key: &str, token: Option<&str>, origin: impl Into<String>) -> Self {
        let credential = AwsCredential {
            key_id: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            token: token.map(str::to_owned),
        };
        Self { credential: Arc::new(credential), expires: None, origin: origin.into() }
    }
}

/// Finds a key, each time anew.
pub(crate) struct Finder {
    login: S3Login,
    region: String,
    sts: String,
    web: Web,
    cx: Cx,
}

type Finding<'f> = Pin<Box<dyn Future<Output = Result<Found, NoKeys>> + Send + 'f>>;

impl Finder {
    pub fn new(settings: &S3Settings, login: &S3Login, web: Web, cx: &Cx) -> Self {
        let sts = login
            .sts_endpoint
            .clone()
            .or_else(|| login.around.variable("AWS_ENDPOINT_URL_STS"))
            .or_else(|| settings.endpoint.clone())
            .unwrap_or_else(|| sts::amazon(&settings.region));
        let region = settings.region.clone();
        Self { login: login.clone(), region, sts, web, cx: cx.clone() }
    }

    /// The key that holds now.
    pub async fn find(&self) -> Result<Found, NoKeys> {
        let found = match &self.login.identity {
            S3Identity::Key(key) => Found::new(&key.access_key, &key.secret_key, None, "the configuration"),
            S3Identity::Profile(name) => self.of_profile(&self.profiles()?, name, &mut Vec::new()).await?,
            S3Identity::Surroundings => self.of_surroundings().await?,
        };
        match &self.login.role {
            Some(role) => self.assume(role, &found).await,
            None => Ok(found),
        }
    }

    fn profiles(&self) -> Result<Profiles, NoKeys> {
        Profiles::read(&self.login.around)
    }

    /// The order of Amazon's own programs.
    async fn of_surroundings(&self) -> Result<Found, NoKeys> {
        let around = &self.login.around;
        if let Some(found) = self.of_environment() {
            return Ok(found);
        }
        let named = around.variable("AWS_PROFILE");
        let profiles = self.profiles()?;
        if named.is_some() || profiles.has("default") {
            let name = named.as_deref().unwrap_or("default");
            return self.of_profile(&profiles, name, &mut Vec::new()).await;
        }
        if let (Some(file), Some(arn)) =
            (around.variable("AWS_WEB_IDENTITY_TOKEN_FILE"), around.variable("AWS_ROLE_ARN"))
        {
            let session = around.variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "hikae".to_owned());
            return self.assume_with_web_identity(&arn, &session, &file).await;
        }
        if let Some(found) = self.of_container().await? {
            return Ok(found);
        }
        self.of_instance().await
    }

    fn of_environment(&self) -> Option<Found> {
        let variable = |name| self.login.around.variable(name);
        let (access_key, secret_key) =
            variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"))?;
        let token = variable("AWS_SESSION_TOKEN");
        Some(Found::new(&access_key, &secret_key, token.as_deref(), "AWS_ACCESS_KEY_ID"))
    }

    /// What a profile says, and the profiles that it is built upon; `seen` keeps two from standing upon each other.
    fn of_profile<'f>(
        &'f self,
        profiles: &'f Profiles,
        name: &'f str,
        seen: &'f mut Vec<String>,
    ) -> Finding<'f> {
        Box::pin(async move {
            let profile = profiles.get(name)?;
            let origin = format!("the profile `{name}`");
            let is_base_of_itself = seen.iter().any(|earlier| earlier == name);
            if let (Some(arn), false) = (profile.get("role_arn"), is_base_of_itself) {
                seen.push(name.to_owned());
                let session = profile.get("role_session_name").unwrap_or("hikae");
                if let Some(file) = profile.get("web_identity_token_file") {
                    return self.assume_with_web_identity(arn, session, file).await;
                }
                let base = match (profile.get("source_profile"), profile.get("credential_source")) {
                    (Some(source), _) => self.of_profile(profiles, source, seen).await?,
                    (None, Some("Environment")) => {
                        let none =
                            || NoKeys::new(format!("{origin} wants AWS_ACCESS_KEY_ID, which is not set"));
                        self.of_environment().ok_or_else(none)?
                    }
                    (None, Some("EcsContainer")) => {
                        let none =
                            || NoKeys::new(format!("{origin} wants a container's key, and this is none"));
                        self.of_container().await?.ok_or_else(none)?
                    }
                    (None, Some("Ec2InstanceMetadata")) => self.of_instance().await?,
                    _ => {
                        let what = "has a role_arn, and neither source_profile nor credential_source";
                        return Err(NoKeys::new(format!("{origin} {what}")));
                    }
                };
                let role = S3Role {
                    arn: arn.to_owned(),
                    external_id: profile.get("external_id").map(str::to_owned),
                    session: session.to_owned(),
                    seconds: profile.get("duration_seconds").and_then(|seconds| seconds.parse().ok()),
                };
                return self.assume(&role, &base).await;
            }
            if let (Some(access_key), Some(secret_key)) =
                (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key"))
            {
                return Ok(Found::new(access_key, secret_key, profile.get("aws_session_token"), origin));
            }
            if let Some(account) = profile.get("sso_account_id") {
                return self.of_sso(profiles, name, profile, account).await;
            }
            match profile.get("credential_process") {
                Some(command) => self.of_process(name, command).await,
                None => Err(NoKeys::new(format!("{origin} names no key, role, SSO or credential_process"))),
            }
        })
    }
}

/// When a key ends, as JSON and XML say it. A moment that cannot be read would be a key that never ends.
fn moment(text: &str, origin: &str) -> Result<Timestamp, NoKeys> {
    text.parse()
        .map_err(|_| NoKeys::new(format!("{origin} gave a key that ends at `{text}`, which is no time")))
}
