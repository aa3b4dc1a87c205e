//! A proxy before any server on TCP that cuts its connections after so many bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// A proxy that runs as long as this lives.
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    /// Bytes of the clients that may still pass before all connections are cut; below zero, none is cut.
    left: AtomicI64,
    passed: AtomicU64,
    n_connections: AtomicUsize,
    is_over: AtomicBool,
}

const NEVER: i64 = -1;

impl TcpProxy {
    /// Begins to listen before the server on this port.
    ///
    /// # Panics
    /// If it cannot.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream: (Ipv4Addr::LOCALHOST, upstream).into(),
            left: AtomicI64::new(NEVER),
            passed: AtomicU64::new(0),
            n_connections: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of_thread.is_over.load(Ordering::Relaxed) {
                    return;
                }
                of_thread.n_connections.fetch_add(1, Ordering::Relaxed);
                of_thread.clone().serve(client);
            }
        });
        Self { address, shared }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many bytes clients have sent.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// How many connections were made.
    pub fn n_connections(&self) -> usize {
        self.shared.n_connections.load(Ordering::Relaxed)
    }

    /// Cuts a connection once its client has sent so many more bytes; those that are made after that last.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.left.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes who waits for the next.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.upstream) else { return };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let (Ok(to_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
        let shared = self.clone();
        std::thread::spawn(move || shared.pass(client, to_server, true));
        std::thread::spawn(move || self.pass(server, to_client, false));
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, is_of_client: bool) {
        let mut buffer = [0; 16 << 10];
        while let Ok(n) = from.read(&mut buffer) {
            let n = if is_of_client { self.allowed(n) } else { Some(n) };
            let Some(n) = n.filter(|n| *n > 0) else { break };
            if is_of_client {
                self.passed.fetch_add(n as u64, Ordering::Relaxed);
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        for stream in [&from, &to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many of so many bytes may pass; nothing if this is where the connection is cut.
    fn allowed(&self, n: usize) -> Option<usize> {
        let left = self.left.load(Ordering::Relaxed);
        match left {
            NEVER => Some(n),
            left if left >= n as i64 => {
                self.left.store(left - n as i64, Ordering::Relaxed);
                Some(n)
            }
            _ => {
                self.left.store(NEVER, Ordering::Relaxed);
                None
            }
        }
    }
}
