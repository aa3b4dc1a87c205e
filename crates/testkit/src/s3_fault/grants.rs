//! Who may ask, and the services that give out keys for a while: roles (STS), a machine's (IMDS), a container's, SSO.

use super::S3Fault;
use super::request::{Answer, Request};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The keys that are good.
pub(crate) struct Grants {
    sessions: BTreeMap<String, Session>,
    pub roles: BTreeMap<String, Option<String>>,
    pub life: Duration,
    pub n: usize,
}

struct Session {
    secret: String,
    token: String,
    ends: Timestamp,
}

/// A request is signed at most so long before it comes.
const SKEW: Duration = Duration::from_secs(15 * 60);

impl Grants {
    pub fn new() -> Self {
        Self { sessions: BTreeMap::new(), roles: BTreeMap::new(), life: Duration::from_secs(3600), n: 0 }
    }

    pub fn end_sessions(&mut self) {
        self.sessions.values_mut().for_each(|session| session.ends = Timestamp::MIN);
    }

    /// Whether a request comes from who has a key that is good now.
    pub fn check(&self, request: &Request, now: Timestamp) -> Result<(), Answer> {
        let access_key = request.access_key().ok_or_else(|| Answer::no(403, "AccessDenied", "not signed"))?;
        let token = request.header("x-amz-security-token");
        let secret = match self.sessions.get(access_key) {
            Some(session) if token != Some(session.token.as_str()) => {
                return Err(Answer::no(400, "InvalidToken", "the token is another's"));
            }
            Some(session) if session.ends <= now => {
                return Err(Answer::no(400, "ExpiredToken", "the provided token has expired"));
            }
            Some(session) => session.secret.as_str(),
            None if access_key == S3Fault::ACCESS_KEY && token.is_none() => S3Fault::SECRET_KEY,
            None => return Err(Answer::no(403, "InvalidAccessKeyId", "nobody has this key")),
        };
        let sent = request.header("x-amz-date").and_then(|date| {
            jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date)
                .ok()?
                .to_zoned(jiff::tz::TimeZone::UTC)
                .ok()
        });
        let age = sent.map(|sent| crate::system_cx().now().duration_since(sent.timestamp()).unsigned_abs());
        if age.is_none_or(|age| age > SKEW) {
            return Err(Answer::no(403, "RequestTimeTooSkewed", "the clocks differ too much"));
        }
        request.check_signature(secret)
    }

    /// The answer, if this is a question for a key.
    pub fn answer(&mut self, request: &Request, now: Timestamp) -> Option<Answer> {
        let json = |text: String| Answer::yes(text);
        let (method, path) = (request.method.as_str(), request.path.as_str());
        match (method, path) {
            ("PUT", "latest/api/token") => Some(Answer::yes("of-the-machine")),
            (
                "GET",
                "latest/meta-data/iam/security-credentials/"
                | "latest/meta-data/iam/security-credentials/machine",
            ) if request.header("x-aws-ec2-metadata-token") != Some("of-the-machine") => {
                Some(Answer::no(401, "Unauthorized", "version 1 is not answered"))
            }
            ("GET", "latest/meta-data/iam/security-credentials/") => Some(Answer::yes("machine\n")),
            ("GET", "latest/meta-data/iam/security-credentials/machine") => {
                Some(json(self.as_json("Token", now)))
            }
            ("GET", "container") if request.header("authorization") == Some("of-the-container") => {
                Some(json(self.as_json("Token", now)))
            }
            ("GET", "container") => Some(Answer::no(403, "AccessDenied", "another container")),
            ("GET", "federation/credentials")
                if request.header("x-amz-sso_bearer_token") == Some("signed-in") =>
            {
                let (access_key, session) = self.session(now);
                Some(json(format!(
                    r#"{{"roleCredentials":{{"accessKeyId":"{access_key}","secretAccessKey":"{}","sessionToken":"{}","expiration":{}}}}}"#,
                    session.secret,
                    session.token,
                    session.ends.as_millisecond()
                )))
            }
            ("POST", "") => Some(self.of_role(request, now)),
            _ => None,
        }
    }

    fn of_role(&mut self, request: &Request, now: Timestamp) -> Answer {
        let denied = |message: &str| Answer::no(403, "AccessDenied", message);
        let arn = request.field("RoleArn").unwrap_or_default();
        let (Some(external_id), true) = (self.roles.get(&arn), request.field("RoleSessionName").is_some())
        else {
            return denied("no such role");
        };
        match request.field("Action").as_deref() {
            Some("AssumeRole") if *external_id != request.field("ExternalId") => {
                return denied("not for you");
            }
            Some("AssumeRole") => {
                if let Err(no) = self.check(request, now) {
                    return no;
                }
            }
            Some("AssumeRoleWithWebIdentity")
                if request.field("WebIdentityToken").as_deref() == Some("vouched") => {}
            _ => return denied("nobody vouches for you"),
        }
        let (access_key, session) = self.session(now);
        Answer::yes(format!(
            "<AssumeRoleResponse><Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials></AssumeRoleResponse>",
            session.secret, session.token, session.ends
        ))
    }

    fn as_json(&mut self, token: &str, now: Timestamp) -> String {
        let (access_key, session) = self.session(now);
        format!(
            r#"{{"Version":1,"Code":"Success","AccessKeyId":"{access_key}","SecretAccessKey":"{}","{token}":"{}","Expiration":"{}"}}"#,
            session.secret, session.token, session.ends
        )
    }

    fn session(&mut self, now: Timestamp) -> (String, &Session) {
        self.n += 1;
        let access_key = format!("ASIAFORTESTS{}", self.n);
        let (secret, token) = (format!("very/secret{}", self.n), format!("token+of/session{}", self.n));
        let session = Session { secret, token, ends: now + self.life };
        (access_key.clone(), self.sessions.entry(access_key).or_insert(session))
    }
}
