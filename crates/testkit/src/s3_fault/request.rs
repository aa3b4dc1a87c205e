//! One request and one answer, and whether who asks is who they say: Signature Version 4, to the letter.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.

use crate::http::Message;
use sha2::{Digest as _, Sha256};

/// What was asked.
pub struct Request {
    /// As `PUT`.
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// The path, decoded, without its first `/`.
    pub path: String,
    /// The query, decoded, in its order.
    pub query: Vec<(String, String)>,
    /// Their names in small letters.
    pub headers: Vec<(String, String)>,
    /// What came with it.
    pub body: Vec<u8>,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// As 200.
    pub status: u16,
    /// Besides the length.
    pub headers: Vec<(String, String)>,
    /// What is said.
    pub body: Vec<u8>,
    /// The name of the error, if it is one.
    pub code: String,
}

impl Answer {
    pub(crate) fn yes(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(crate) fn no(status: u16, code: &str, message: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>").into();
        Self { status, code: code.to_owned(), body, ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

impl Request {
    pub(crate) fn parse(message: Message) -> Option<Self> {
        let headers = message.headers();
        let mut words = message.first.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect();
        let path = decode(path.trim_start_matches('/'));
        Some(Self { method, path, query, headers, body: message.body, target })
    }

    /// A header, by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A part of the query.
    pub fn asks(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A field of a form that was sent.
    pub fn field(&self, name: &str) -> Option<String> {
        let body = String::from_utf8_lossy(&self.body).into_owned();
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        let mut named = pairs.filter(|(known, _)| decode(known) == name);
        named.next().map(|(_, value)| decode(value))
    }

    /// The action that a policy would name.
    pub fn action(&self) -> String {
        let has_key = self.path.contains('/');
        let sub = ["retention", "object-lock", "versioning", "lifecycle", "policy", "location", "versions"];
        let sub = sub.into_iter().find(|name| self.asks(name).is_some());
        match (self.method.as_str(), has_key, sub) {
            ("GET" | "HEAD", true, None) => "GetObject".to_owned(),
            ("PUT", true, None) => "PutObject".to_owned(),
            ("DELETE", true, None) => "DeleteObject".to_owned(),
            ("GET", true, Some("retention")) => "GetObjectRetention".to_owned(),
            ("PUT", true, Some("retention")) => "PutObjectRetention".to_owned(),
            ("GET", false, None | Some("versions")) => "ListBucket".to_owned(),
            ("PUT", false, None) => "CreateBucket".to_owned(),
            (method, _, sub) => format!("{method} {}", sub.unwrap_or_default()),
        }
    }

    /// The access key that it is signed with.
    pub(crate) fn access_key(&self) -> Option<&str> {
        self.part_of_authorization("Credential=")?.split('/').next()
    }

    fn part_of_authorization(&self, name: &str) -> Option<&str> {
        let rest = self.header("authorization")?.split_once(name)?.1;
        rest.split(',').next().map(str::trim)
    }

    /// Whether it is signed with this secret, and so that nothing of it can be changed on the way.
    pub(crate) fn check_signature(&self, secret: &str) -> Result<(), Answer> {
        let bad = |message: &str| Answer::no(403, "SignatureDoesNotMatch", message);
        let missing = || Answer::no(400, "MissingSecurityHeader", "a header that a signature needs");
        let scope = self
            .part_of_authorization("Credential=")
            .and_then(|all| all.split_once('/'))
            .ok_or_else(missing)?
            .1;
        let signed = self.part_of_authorization("SignedHeaders=").ok_or_else(missing)?;
        let signature = self.part_of_authorization("Signature=").ok_or_else(missing)?;
        let date = self.header("x-amz-date").ok_or_else(missing)?;
        let content = self.header("x-amz-content-sha256").ok_or_else(missing)?;
        let names: Vec<&str> = signed.split(';').collect();
        let must = |name: &str| name == "host" || name.starts_with("x-amz-") || name == "content-md5";
        if let Some((name, _)) =
            self.headers.iter().find(|(name, _)| must(name) && !names.contains(&name.as_str()))
        {
            return Err(bad(&format!("the header {name} is not signed")));
        }
        if content != hex(&Sha256::digest(&self.body)) {
            return Err(Answer::no(
                400,
                "XAmzContentSHA256Mismatch",
                "the body is not the one that was signed",
            ));
        }
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let mut pairs: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        pairs.sort();
        let headers: String =
            names.iter().map(|name| format!("{name}:{}\n", self.header(name).unwrap_or_default())).collect();
        let canonical =
            format!("{}\n{path}\n{}\n{headers}\n{signed}\n{content}", self.method, pairs.join("&"));
        let canonical = hex(&Sha256::digest(canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in scope.split('/') {
            key = mac(&key, part);
        }
        match hex(&mac(&key, &text)) == signature {
            true => Ok(()),
            false => Err(bad("the signature is another")),
        }
    }
}

/// HMAC-SHA256 (RFC 2104) with a key that is no longer than a block, as these are.
fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let block = |mask: u8| -> Vec<u8> {
        let padded = key.iter().copied().chain(std::iter::repeat(0));
        padded.take(64).map(|byte| byte ^ mask).collect()
    };
    let inner = Sha256::new().chain_update(block(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(block(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text with `%XX` and `+`.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let coded = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (byte, coded.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, _) => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
