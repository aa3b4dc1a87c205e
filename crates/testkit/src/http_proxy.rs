//! A proxy before a real HTTP server that loses, cuts and replaces answers, so that what the server really stored and what
//! its client was told can differ.
//!
//! Plain HTTP/1.1 with `Content-Length`, which is what servers of objects and their clients speak. Hosts are passed on as the
//! client wrote them, so signatures hold.

use crate::http::{Listener, read};
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A request, as the one who decides on its fate sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How many came before it.
    pub n: usize,
    /// As `PUT`.
    pub method: String,
    /// With the query.
    pub path: String,
}

/// What becomes of a request and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Both arrive.
    Pass,
    /// The server never sees the request; the connection ends.
    LoseRequest,
    /// A bit of its body is changed on the way.
    HarmRequest,
    /// The server carries it out; the connection ends without an answer.
    LoseAnswer,
    /// The server carries it out; only so many bytes of the answer's body arrive.
    CutAnswer(usize),
    /// The server never sees the request; this status is answered, with this as the code of the error.
    Answer(u16, &'static str),
}

/// A proxy that runs as long as this lives.
pub struct HttpProxy {
    listener: Listener,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    n: AtomicUsize,
    decide: Box<dyn Fn(&Asked) -> Fate + Send + Sync>,
}

impl HttpProxy {
    /// Begins to listen before `upstream`, as `127.0.0.1:8333`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn start(upstream: &str, decide: impl Fn(&Asked) -> Fate + Send + Sync + 'static) -> Self {
        let upstream = upstream.parse().expect("an address and a port");
        let shared = Arc::new(Shared { upstream, n: AtomicUsize::new(0), decide: Box::new(decide) });
        let serving = shared.clone();
        Self { listener: Listener::start(move |client| serving.serve(client)), shared }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        self.listener.endpoint()
    }

    /// How many requests have come.
    pub fn n_asked(&self) -> usize {
        self.shared.n.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// One connection of a client, request after request.
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let upstream = TcpStream::connect(self.upstream)?;
        // A head and its body are two writes, and neither is to wait until the other was heard of.
        upstream.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let mut upstream = BufReader::new(upstream);
        let mut requests = BufReader::new(client);
        let mut answers = client;
        while let Some(mut request) = read(&mut requests, true)? {
            let mut words = request.first.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let asked = Asked { n: self.n.fetch_add(1, Ordering::Relaxed), method, path };
            let fate = (self.decide)(&asked);
            match fate {
                Fate::LoseRequest => return client.shutdown(Shutdown::Both),
                Fate::Answer(status, code) => {
                    let body =
                        format!("<Error><Code>{code}</Code><Message>so the test says</Message></Error>");
                    let head = format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\n\r\n", body.len());
                    answers.write_all(head.as_bytes())?;
                    // Who asked for the head only gets no body.
                    if asked.method != "HEAD" {
                        answers.write_all(body.as_bytes())?;
                    }
                    continue;
                }
                Fate::HarmRequest => flip(&mut request.body),
                Fate::Pass | Fate::LoseAnswer | Fate::CutAnswer(_) => {}
            }
            upstream.get_mut().write_all(&request.head)?;
            upstream.get_mut().write_all(&request.body)?;
            let Some(answer) = read(&mut upstream, asked.method != "HEAD")? else { return Ok(()) };
            match fate {
                Fate::LoseAnswer => return client.shutdown(Shutdown::Both),
                Fate::CutAnswer(n) => {
                    answers.write_all(&answer.head)?;
                    answers.write_all(&answer.body[..n.min(answer.body.len())])?;
                    return client.shutdown(Shutdown::Both);
                }
                _ => {
                    answers.write_all(&answer.head)?;
                    answers.write_all(&answer.body)?;
                }
            }
        }
        Ok(())
    }
}

/// Changes one bit in the middle.
pub(crate) fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
}
