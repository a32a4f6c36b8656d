//! A server program of its own: found, started, killed, started again on the same port.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::SOON;

/// With this set to anything in the environment, a program that is not there fails its tests.
const REQUIRE: &str = "JACKPOT_REQUIRE_SERVERS";

/// A running server that ends with the test, whether it passes or fails.
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    port: Port,
    child: Option<Child>,
    folder: Folder,
}

impl Program {
    /// Starts this program on a free port and waits until it accepts; `None` if it is not there.
    ///
    /// The arguments come from its address and an empty folder of its own, where it runs.
    pub(crate) fn start(
        name: &str,
        arguments: impl Fn(SocketAddr, &Path) -> Vec<String>,
    ) -> Option<Self> {
        let Some(path) = find(name) else {
            let required = env::var_os(REQUIRE).is_some_and(|value| !value.is_empty());
            return skip(name, required);
        };
        for _ in 0..5 {
            let (port, folder) = (Port::free(), Folder::new());
            let mut program = Self {
                arguments: arguments(port.address, &folder.path),
                path: path.clone(),
                port,
                child: None,
                folder,
            };
            if program.try_run() {
                return Some(program);
            }
        }
        panic!("{name} does not start");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Kills it without warning (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, and waits until it accepts.
    pub(crate) fn start_again(&mut self) {
        assert!(self.try_run(), "{} does not come back", self.path.display());
    }

    /// Whether it came to accept connections, rather than ending.
    fn try_run(&mut self) -> bool {
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .current_dir(&self.folder.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let child = self.child.insert(child);
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(self.port.address).is_err() {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "it never accepts");
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where this program is, if it is installed.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Says that this program's tests are skipped, or fails the test.
fn skip<T>(name: &str, required: bool) -> Option<T> {
    assert!(!required, "{name} is not installed, and {REQUIRE} is set");
    // Not `eprintln!`, which the test harness captures.
    let _ = writeln!(io::stderr(), "skipped: {name} is not installed");
    None
}

/// A port that stays ours while its server is dead.
struct Port {
    address: SocketAddr,
    /// Bound, but not listening: beside it a server may bind the port, but neither another test
    /// nor the system's choice for an outgoing connection. Elsewhere than on Linux it would be in
    /// the server's way.
    _claim: Option<Socket>,
}

impl Port {
    fn free() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        Self {
            address: socket.local_addr().unwrap().as_socket().unwrap(),
            _claim: cfg!(target_os = "linux").then_some(socket),
        }
    }
}

/// A folder that is removed in the end.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Relaxed);
        let path = env::temp_dir().join(format!("jackpot-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Self { path }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
#[should_panic(expected = "no-such-server is not installed")]
fn a_server_that_is_required_must_be_there() {
    assert!(find("no-such-server").is_none());
    skip::<Program>("no-such-server", true);
}
