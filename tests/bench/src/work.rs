//! What a lease is used for, and the real server for one kind of it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::{self, Talk};

const REQUEST: [u8; 64] = [b'x'; 64];
const VALUE: [u8; 100] = [b'v'; 100];

/// Sends 64 bytes to an echo server and reads them back.
pub(crate) fn round_trip(lease: &mut dyn Talk) {
    let mut reply = [0; REQUEST.len()];
    lease.write_all(&REQUEST).expect("the server reads");
    lease.read_exact(&mut reply).expect("the server answers");
}

/// Gets 100 bytes from a [`Memcached`].
pub(crate) fn get(lease: &mut dyn Talk) {
    const REPLY: usize = 20 + 1 + VALUE.len() + 7;
    let mut reply = [0; REPLY];
    exchange(lease, b"get jackpot\r\n", &mut reply);
    assert!(reply.ends_with(b"v\r\nEND\r\n"));
}

fn exchange(server: &mut dyn Talk, request: &[u8], reply: &mut [u8]) {
    server.write_all(request).expect("memcached reads");
    server.read_exact(reply).expect("memcached answers");
}

/// A memcached of our own on a free port, with a value in it; dropped, it ends.
pub(crate) struct Memcached {
    child: Child,
    address: SocketAddr,
}

impl Memcached {
    pub(crate) fn start() -> io::Result<Self> {
        let file = std::env::temp_dir().join(format!("jackpot-bench-{}", std::process::id()));
        let child = Command::new("memcached")
            .args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-t", "1"])
            .args(["-u", "nobody"])
            .env("MEMCACHED_PORT_FILENAME", &file)
            .stdin(Stdio::null())
            .spawn()?;
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let port = server.port(&file);
        let _ = fs::remove_file(&file);
        server.address.set_port(port?);
        let mut setup = peers::connect(server.address)?;
        let set = [b"set jackpot 0 0 100\r\n", &VALUE[..], b"\r\n"].concat();
        exchange(&mut setup, &set, &mut [0; b"STORED\r\n".len()]);
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// It writes "TCP INET: port" into a file once it listens.
    fn port(&mut self, file: &std::path::Path) -> io::Result<u16> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let text = fs::read_to_string(file).unwrap_or_default();
            let port = text
                .lines()
                .find_map(|line| line.strip_prefix("TCP INET: "));
            if let Some(port) = port {
                return port.trim().parse().map_err(io::Error::other);
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("it ended: {status}")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
