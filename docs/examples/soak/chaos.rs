//! What goes wrong on this side of the wire: the user's functions and the callers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jackpot::{Connector, Factory, Stream};

use crate::random::Random;

/// What may go wrong, beside what the server does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    FactoryFails,
    FactoryPanics,
    FactorySlow,
    HandshakeFails,
    HandshakePanics,
    PingFails,
    PingPanics,
    RecycleFails,
    RecyclePanics,
    EventPanics,
    DestructorPanics,
    ReplyFails,
    ReplyPanics,
    CallerHangsUp,
    CallerPanics,
    CallerShutsDown,
    CallerImpatient,
}

const ALL: [(Fault, &str); 17] = [
    (Fault::FactoryFails, "factory failed"),
    (Fault::FactoryPanics, "factory panicked"),
    (Fault::FactorySlow, "factory was slow"),
    (Fault::HandshakeFails, "handshake failed"),
    (Fault::HandshakePanics, "handshake panicked"),
    (Fault::PingFails, "ping failed"),
    (Fault::PingPanics, "ping panicked"),
    (Fault::RecycleFails, "recycle failed"),
    (Fault::RecyclePanics, "recycle panicked"),
    (Fault::EventPanics, "event function panicked"),
    (Fault::DestructorPanics, "client's destructor panicked"),
    (Fault::ReplyFails, "reply function failed"),
    (Fault::ReplyPanics, "reply function panicked"),
    (Fault::CallerHangsUp, "caller hung up"),
    (Fault::CallerPanics, "caller panicked"),
    (Fault::CallerShutsDown, "caller shut its side down"),
    (Fault::CallerImpatient, "caller gave up at once"),
];

/// Decides what goes wrong, and counts it.
pub(crate) struct Chaos {
    random: Mutex<Random>,
    calm: AtomicBool,
    done: [AtomicU64; ALL.len()],
    /// Clients that are not dropped yet.
    pub(crate) clients: AtomicU64,
}

impl Chaos {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            random: Mutex::new(Random::new(seed, u64::MAX - 1)),
            calm: AtomicBool::new(false),
            done: Default::default(),
            clients: AtomicU64::new(0),
        })
    }

    /// While it is calm nothing goes wrong by itself.
    pub(crate) fn be_calm(&self, yes: bool) {
        self.calm.store(yes, Relaxed);
    }

    /// Whether this goes wrong now, as it does one time in so many.
    pub(crate) fn strikes(&self, fault: Fault, one_in: u64) -> bool {
        let strikes = !self.calm.load(Relaxed) && self.below(one_in) == 0;
        if strikes {
            self.count(fault);
        }
        strikes
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.done[fault as usize].fetch_add(1, Relaxed);
    }

    /// What went wrong, and how often.
    pub(crate) fn record(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ALL.iter()
            .map(|&(fault, name)| (name, self.done[fault as usize].load(Relaxed)))
    }

    fn below(&self, n: u64) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.below(n)
    }
}

/// A panic without the message that the hook would print.
pub(crate) fn panic_quietly() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// Connects to the server; one time in so many something is wrong.
pub(crate) fn factory(address: &str, chaos: &Arc<Chaos>, one_in: u64) -> impl Factory {
    let (connector, chaos) = (Connector::new(address), Arc::clone(chaos));
    move || -> io::Result<TcpStream> {
        if chaos.strikes(Fault::FactoryFails, one_in) {
            return Err(io::Error::other("on purpose"));
        }
        if chaos.strikes(Fault::FactoryPanics, one_in) {
            panic_quietly();
        }
        if chaos.strikes(Fault::FactorySlow, one_in) {
            thread::sleep(Duration::from_millis(15));
        }
        connector.connect()
    }
}

/// What callers work with: a handle on the stream whose end is counted, and may panic.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    chaos: Arc<Chaos>,
    is_fragile: bool,
}

impl Client {
    pub(crate) fn new(stream: Stream, chaos: &Arc<Chaos>) -> Self {
        chaos.clients.fetch_add(1, Relaxed);
        Self {
            stream,
            chaos: Arc::clone(chaos),
            is_fragile: chaos.below(100) == 0,
        }
    }

    /// Its end is the caller's own from now on.
    pub(crate) fn harden(&mut self) {
        self.is_fragile = false;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.chaos.clients.fetch_sub(1, Relaxed);
        if self.is_fragile && !thread::panicking() {
            self.chaos.count(Fault::DestructorPanics);
            panic_quietly();
        }
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Client {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
