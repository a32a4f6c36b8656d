//! Network namespaces of a test's own, links between them, and processes in them.
//!
//! They take root and iproute2; where they are missing, a test says so and shows nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

/// In the environment of the process that stands for the peer: its address.
const PEER: &str = "JACKPOT_TEST_PEER";

pub(crate) fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", told.trim())))
}

pub(crate) fn not_shown(test: &str, error: &io::Error) {
    let _ = writeln!(
        io::stderr(),
        "{test}: not shown, because there may be no network namespace here: {error}"
    );
}

/// A number that no other test has, in this process or beside it.
fn unique() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    std::process::id() * 8 + COUNT.fetch_add(1, SeqCst)
}

/// A network namespace; it goes with its last process once this is dropped.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new() -> io::Result<Self> {
        let name = format!("jackpot-{}", unique());
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub(crate) fn ip(&self, arguments: &str) -> io::Result<()> {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Runs this test once more, in the namespace, with this in its environment.
    pub(crate) fn run(&self, test: &str, key: &str, value: &str) -> Process {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(key, value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(child.stdout.take().unwrap());
        Process { child, told }
    }

    /// Runs this test once more, in the namespace, where it serves on this address.
    pub(crate) fn serve(&self, test: &str, address: &str) -> (Process, SocketAddr) {
        let mut process = self.run(test, PEER, address);
        let address = process.hear("serving on ").parse().unwrap();
        (process, address)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// A process in a namespace; it ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn order(&mut self, what: &str) {
        writeln!(self.child.stdin.as_ref().unwrap(), "{what}").unwrap();
    }

    /// What follows this in the next line that has it.
    #[track_caller]
    pub(crate) fn hear(&mut self, what: &str) -> String {
        let mut lines = self.told.by_ref().lines().map(Result::unwrap);
        let found = lines.find_map(|line| Some(line.split_once(what)?.1.to_owned()));
        found.unwrap_or_else(|| panic!("the process in the namespace never said {what:?}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The two addresses of a link that no other test has.
pub(crate) struct Addresses {
    pub(crate) ours: String,
    pub(crate) theirs: String,
    pub(crate) block: String,
}

impl Addresses {
    pub(crate) fn new() -> Self {
        // Link-local (RFC 3927): one of 8,000 blocks of four, lest two tests choose the same.
        let [_, _, high, low] = (unique() % 8_000 * 4).to_be_bytes();
        let at = |last: u8| format!("169.254.{}.{}", high + 1, low + last);
        Self {
            ours: at(1),
            theirs: at(2),
            block: format!("{}/30", at(0)),
        }
    }
}

/// Names for the two ends of a link.
pub(crate) fn link_names() -> (String, String) {
    let number = unique();
    (format!("jpn{number}"), format!("jpf{number}"))
}

/// In the process that stands for the peer: echoes until it is killed. Elsewhere false at once.
pub(crate) fn is_peer() -> bool {
    let Ok(address) = std::env::var(PEER) else {
        return false;
    };
    let address: IpAddr = address.parse().unwrap();
    let listener = TcpListener::bind((address, 0)).unwrap();
    println!("serving on {}", listener.local_addr().unwrap());
    for socket in listener.incoming().flatten() {
        thread::spawn(move || io::copy(&mut &socket, &mut &socket));
    }
    true
}
