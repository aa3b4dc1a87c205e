//! Entering: the first messages, and proving who we are.

use super::message::{get_i32, length, put_cstr, unexpected};
use super::stream::Stream;
use super::{Client, WireError};
use crate::postgresql::connection::Connection;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use std::io;

/// How the server made sure who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgresql) enum Authentication {
    /// By nothing that we sent: trust, peer, a certificate.
    None,
    /// The password as it is.
    Cleartext,
    /// MD5, which is weak and on its way out.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
}

impl Client {
    pub(super) fn start_up(&mut self, connection: &Connection) -> Result<(), WireError> {
        let mut body = 196_608_i32.to_be_bytes().to_vec(); // protocol 3.0
        for (word, value) in [
            ("user", connection.user.as_str()),
            ("database", connection.database.as_str()),
            ("application_name", "hikae"),
            ("client_encoding", "UTF8"),
        ] {
            put_cstr(&mut body, word)?;
            put_cstr(&mut body, value)?;
        }
        body.push(0);
        let mut message = length(body.len())?.to_vec();
        message.extend(body);
        self.send(&message)?;
        loop {
            let (tag, body) = self.receive()?;
            match tag {
                b'R' => self.authenticate(&body, connection)?,
                b'K' => {} // the key to cancel a statement; we close the connection instead
                b'Z' => return Ok(()),
                b'v' => {} // the server knows a newer protocol; 3.0 is kept
                tag => return Err(unexpected(tag, "while entering")),
            }
        }
    }

    fn authenticate(&mut self, body: &[u8], connection: &Connection) -> Result<(), WireError> {
        let password = || {
            connection.password.as_ref().map(|secret| secret.reveal()).ok_or_else(|| {
                WireError::Refused(format!(
                    "the server asks for a password of role {} and there is none",
                    connection.user
                ))
            })
        };
        match get_i32(body, 0)? {
            0 => Ok(()),
            3 => {
                if !matches!(self.stream, Stream::Tls(_) | Stream::Unix(_)) {
                    return Err(WireError::Refused(
                        "the server asks for the password in the clear, without TLS".into(),
                    ));
                }
                self.authentication = Authentication::Cleartext;
                let mut body = Vec::new();
                put_cstr(&mut body, password()?)?;
                self.send_message(b'p', &body)
            }
            5 => {
                let salt = body.get(4..8).and_then(|salt| salt.try_into().ok());
                let salt = salt.ok_or_else(|| WireError::Protocol("MD5 without salt".into()))?;
                self.authentication = Authentication::Md5;
                let hash = md5_hash(connection.user.as_bytes(), password()?.as_bytes(), salt);
                let mut body = Vec::new();
                put_cstr(&mut body, &hash)?;
                self.send_message(b'p', &body)
            }
            10 => {
                let mut offered = body[4..].split(|&byte| byte == 0);
                if !offered.any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(WireError::Refused("the server offers no SCRAM-SHA-256".into()));
                }
                let password = password()?.as_bytes().to_vec();
                self.scram(&password)
            }
            7..=9 => {
                Err(WireError::Refused("the server asks for GSSAPI or SSPI, which hikae has not".into()))
            }
            kind => Err(WireError::Protocol(format!("authentication of kind {kind}"))),
        }
    }

    fn scram(&mut self, password: &[u8]) -> Result<(), WireError> {
        let refused =
            |error: io::Error| WireError::Refused(format!("the server did not prove who it is: {error}"));
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let mut body = Vec::new();
        put_cstr(&mut body, SCRAM_SHA_256)?;
        body.extend(i32::try_from(scram.message().len()).unwrap_or(0).to_be_bytes());
        body.extend(scram.message());
        self.send_message(b'p', &body)?;
        let (tag, body) = self.receive()?;
        if tag != b'R' || get_i32(&body, 0)? != 11 {
            return Err(unexpected(tag, "during SCRAM"));
        }
        scram.update(&body[4..]).map_err(refused)?;
        self.send_message(b'p', scram.message())?;
        let (tag, body) = self.receive()?;
        if tag != b'R' || get_i32(&body, 0)? != 12 {
            return Err(unexpected(tag, "during SCRAM"));
        }
        scram.finish(&body[4..]).map_err(refused)?;
        self.authentication = Authentication::Scram;
        Ok(())
    }
}
