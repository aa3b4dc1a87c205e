//! Messages of plain HTTP/1.1 with `Content-Length` or chunks, as far as servers and proxies of tests need them.

use std::io::{self, BufRead};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Listens on a free port of this machine as long as this lives.
pub(crate) struct Listener {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Listener {
    /// Hands each connection to `serve`, each on a thread.
    pub fn start(serve: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, serve) = (is_over.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), serve) = (client, serve.clone()) else { continue };
                // An end of a connection is an answer too.
                std::thread::spawn(move || drop(serve(&client)));
            }
        });
        Self { address, is_over }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

/// A head and a body, of a request or of an answer.
pub(crate) struct Message {
    pub first: String,
    /// As it came, with the first line and the empty one.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
}

impl Message {
    /// The headers, their names in small letters, in their order.
    pub fn headers(&self) -> Vec<(String, String)> {
        let text = String::from_utf8_lossy(&self.head);
        let headers = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
    }
}

/// The next message. Nothing if the connection ended between two.
pub(crate) fn read(from: &mut impl BufRead, has_body: bool) -> io::Result<Option<Message>> {
    let (mut head, mut first, mut length, mut is_chunked) = (Vec::new(), String::new(), 0, false);
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            break;
        }
        if first.is_empty() {
            first = text;
        } else if let Some((name, value)) = text.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
            is_chunked |= name.eq_ignore_ascii_case("transfer-encoding") && value.contains("chunked");
        }
    }
    let mut body = Vec::new();
    if has_body && is_chunked {
        read_chunks(from, &mut body)?;
    } else if has_body {
        body.resize(length, 0);
        from.read_exact(&mut body)?;
    }
    Ok(Some(Message { first, head, body }))
}

/// Keeps the chunks as they came.
fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        let size = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| io::Error::other("no size of a chunk"))?;
        body.extend_from_slice(&line);
        // Its bytes, and the end of their line.
        let from_here = body.len();
        body.resize(from_here + size + 2, 0);
        from.read_exact(&mut body[from_here..])?;
        if size == 0 {
            return Ok(());
        }
    }
}
