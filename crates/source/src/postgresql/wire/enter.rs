//! Entering: the first messages, and proving who we are.

use super::binding::server_end_point;
use super::message::{get_i32, length, put_cstr, unexpected};
use super::stream::Stream;
use super::{Client, WireError};
use crate::postgresql::connection::{Binding, Connection};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
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
    /// SCRAM-SHA-256, bound to the TLS connection.
    ScramBound,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Statements in a database.
    Sql,
    /// The commands of physical replication, which know no database.
    Replication,
}

impl Client {
    pub(super) fn start_up(&mut self, purpose: Purpose, connection: &Connection) -> Result<(), WireError> {
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
        if purpose == Purpose::Replication {
            put_cstr(&mut body, "replication")?;
            put_cstr(&mut body, "true")?;
        }
        body.push(0);
        let mut message = length(body.len())?.to_vec();
        message.extend(body);
        self.send(&message)?;
        loop {
            let (tag, body) = self.receive()?;
            match tag {
                b'R' => self.authenticate(&body, connection)?,
                // With it comes the key to cancel a statement; we close the connection instead.
                b'K' => self.process_id = u32::try_from(get_i32(&body, 0)?).unwrap_or_default(),
                b'Z' => return Ok(()),
                b'v' => {} // the server knows a newer protocol; 3.0 is kept
                tag => return Err(unexpected(tag, "while entering")),
            }
        }
    }

    /// Takes this way of proving who we are, before anything of the password is sent.
    fn choose(&mut self, way: Authentication, connection: &Connection) -> Result<(), WireError> {
        if connection.tls.binding == Binding::Require && way != Authentication::ScramBound {
            let what =
                "the server does not bind the proof of the password to TLS, which channel_binding demands";
            return Err(WireError::Refused(what.into()));
        }
        self.authentication = way;
        Ok(())
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
            0 => self.choose(self.authentication, connection),
            3 => {
                if !matches!(self.stream, Stream::Tls(_) | Stream::Unix(_)) {
                    return Err(WireError::Refused(
                        "the server asks for the password in the clear, without TLS".into(),
                    ));
                }
                self.choose(Authentication::Cleartext, connection)?;
                let mut body = Vec::new();
                put_cstr(&mut body, password()?)?;
                self.send_message(b'p', &body)
            }
            5 => {
                let salt = body.get(4..8).and_then(|salt| salt.try_into().ok());
                let salt = salt.ok_or_else(|| WireError::Protocol("MD5 without salt".into()))?;
                self.choose(Authentication::Md5, connection)?;
                let hash = md5_hash(connection.user.as_bytes(), password()?.as_bytes(), salt);
                let mut body = Vec::new();
                put_cstr(&mut body, &hash)?;
                self.send_message(b'p', &body)
            }
            10 => {
                let password = password()?.as_bytes().to_vec();
                self.scram(&password, &body[4..], connection)
            }
            7..=9 => {
                Err(WireError::Refused("the server asks for GSSAPI or SSPI, which hikae has not".into()))
            }
            kind => Err(WireError::Protocol(format!("authentication of kind {kind}"))),
        }
    }

    /// `offered` are the names of the ways that the server knows, each with a NUL at its end.
    fn scram(&mut self, password: &[u8], offered: &[u8], connection: &Connection) -> Result<(), WireError> {
        let offers = |way: &str| offered.split(|&byte| byte == 0).any(|name| name == way.as_bytes());
        let end_point = self.stream.server_certificate().and_then(server_end_point);
        // To say that we could have bound to the connection lets a server find out that somebody in between took the
        // offer out (RFC 5802, section 6).
        let (name, way, binding) = match end_point {
            Some(end_point) if offers(SCRAM_SHA_256_PLUS) => {
                let binding = ChannelBinding::tls_server_end_point(end_point);
                (SCRAM_SHA_256_PLUS, Authentication::ScramBound, binding)
            }
            Some(_) => (SCRAM_SHA_256, Authentication::Scram, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, Authentication::Scram, ChannelBinding::unsupported()),
        };
        if !offers(name) {
            return Err(WireError::Refused("the server offers no SCRAM-SHA-256".into()));
        }
        self.choose(way, connection)?;
        let refused =
            |error: io::Error| WireError::Refused(format!("the server did not prove who it is: {error}"));
        let mut scram = ScramSha256::new(password, binding);
        let mut body = Vec::new();
        put_cstr(&mut body, name)?;
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
        Ok(())
    }
}
