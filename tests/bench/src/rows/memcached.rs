//! A real server: memcached's `get`, eight threads on four connections.

use std::io;
use std::time::Duration;

use crate::crowd;
use crate::measure::{Spread, alternate};
use crate::peers::{self, Channel, Fresh};
use crate::report::Goal;
use crate::rows::Bench;
use crate::rows::shared::rates;
use crate::work::{Memcached, get};

const THREADS: usize = 8;
const CONNECTIONS: u32 = 4;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let name = "memcached get, 8 threads on 4";
    let server = match Memcached::start() {
        Ok(server) => server,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!("no memcached here: {error}");
            bench.report.add(name, why, Goal::AtLeast(1.0), None);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let address = server.address();
    let jackpot = peers::jackpot(address, CONNECTIONS as usize);
    let r2d2 = peers::r2d2(address, CONNECTIONS, true);
    let channel = Channel::new(address, CONNECTIONS as usize);
    let fresh = Fresh(address);
    let how_long = Duration::from_millis(if bench.quick { 100 } else { 300 });
    let [jackpot, r2d2, channel, fresh] = alternate(
        bench.rounds(5, 15),
        [
            &mut || crowd::time(&jackpot, THREADS, how_long, get),
            &mut || crowd::time(&r2d2, THREADS, how_long, get),
            &mut || crowd::time(&channel, THREADS, how_long, get),
            &mut || crowd::time(&fresh, THREADS, how_long, get),
        ],
    )
    .map(|outcomes| rates(&outcomes));
    for (measure, goal, other) in [
        ("rate / r2d2", Goal::AtLeast(1.0), &r2d2),
        ("rate / a connect per request", Goal::AtLeast(2.5), &fresh),
        ("rate / channel", Goal::None, &channel),
    ] {
        let ratio = Spread::of_ratios(&jackpot, other);
        bench.report.add(name, measure, goal, ratio);
    }
    Ok(())
}

fn exchange(server: &mut dyn Talk, request: &[u8], reply: &[u8]) {
    let mut received = [0; 256];
    let received = &mut received[..reply.len()];
    server.write_all(request).expect("memcached reads");
    server.read_exact(received).expect("memcached answers");
    assert_eq!(received, reply);
}

/// A memcached of our own on a free port; dropped, it ends.
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
