//! The way to a server: a unix socket, TCP, or TLS over TCP.

use super::{POLL, WireError};
use crate::postgresql::connection::{Connection, Host};
use crate::postgresql::tls;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Stream {
    /// The certificate that the server showed, as DER.
    pub(super) fn server_certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Tls(stream) => stream.conn.peer_certificates()?.first().map(|certificate| &**certificate),
            Self::Unix(_) | Self::Tcp(_) => None,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

pub(super) fn open(connection: &Connection) -> Result<Stream, WireError> {
    let name = match &connection.host {
        Host::Socket(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", connection.port));
            let stream = UnixStream::connect(&path).map_err(|error| {
                WireError::Unreachable(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
            })?;
            stream.set_read_timeout(Some(POLL)).map_err(WireError::Unreachable)?;
            return Ok(Stream::Unix(stream));
        }
        Host::Name(name) => name,
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses = (name.as_str(), connection.port).to_socket_addrs().map_err(WireError::Unreachable)?;
    for address in addresses {
        match TcpStream::connect_timeout(&address, connection.connect_timeout) {
            Ok(stream) => return set_up_tcp(stream, name, connection),
            Err(error) => failure = error,
        }
    }
    Err(WireError::Unreachable(failure))
}

fn set_up_tcp(stream: TcpStream, name: &str, connection: &Connection) -> Result<Stream, WireError> {
    // A peer that was unplugged says nothing; without probes a read would wait for ever.
    let probes = rustix::net::sockopt::set_socket_keepalive(&stream, true)
        .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60)))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(10)));
    probes.map_err(|error| WireError::Unreachable(error.into()))?;
    stream.set_nodelay(true).map_err(WireError::Unreachable)?;
    stream.set_read_timeout(Some(connection.connect_timeout)).map_err(WireError::Unreachable)?;
    let Some(config) = tls::client_config(&connection.tls).map_err(WireError::Refused)? else {
        stream.set_read_timeout(Some(POLL)).map_err(WireError::Unreachable)?;
        return Ok(Stream::Tcp(stream));
    };
    let mut plain = stream;
    plain.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).map_err(WireError::Unreachable)?; // SSLRequest
    let mut answer = [0];
    // One byte and no more: what follows it belongs to TLS (CVE-2021-23222).
    plain.read_exact(&mut answer).map_err(WireError::Unreachable)?;
    let stream = match answer[0] {
        b'S' => tls::enter(plain, name, config).map_err(|error| WireError::Refused(error.to_string()))?,
        b'N' if tls::is_optional(&connection.tls) => {
            plain.set_read_timeout(Some(POLL)).map_err(WireError::Unreachable)?;
            return Ok(Stream::Tcp(plain));
        }
        _ => return Err(WireError::Refused("the server has no TLS, which sslmode demands".into())),
    };
    stream.sock.set_read_timeout(Some(POLL)).map_err(WireError::Unreachable)?;
    Ok(Stream::Tls(Box::new(stream)))
}
