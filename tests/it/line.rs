//! A factory that a test holds by the hand, and callers that wait in a known order.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Builder, Connection, Error, Factory, Pool};

use crate::support::{Gate, SOON, eventually, on_thread};

type Obstacle = Arc<dyn Fn(usize) -> io::Result<()> + Send + Sync>;

/// The way to a server: a test blocks it, cuts it and mends it, and counts who takes it.
#[derive(Clone)]
pub(crate) struct Line {
    state: Arc<State>,
}

struct State {
    address: SocketAddr,
    obstacle: Mutex<Obstacle>,
    starts: Mutex<Vec<Instant>>,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Line {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self {
            state: Arc::new(State {
                address,
                obstacle: Mutex::new(Arc::new(|_| Ok(()))),
                starts: Mutex::default(),
                inside: AtomicUsize::new(0),
                most: AtomicUsize::new(0),
            }),
        }
    }

    /// What call *n* meets before it connects; the first call is number 0.
    pub(crate) fn meets(&self, obstacle: impl Fn(usize) -> io::Result<()> + Send + Sync + 'static) {
        *self.state.obstacle.lock().unwrap() = Arc::new(obstacle);
    }

    pub(crate) fn up(&self) {
        self.meets(|_| Ok(()));
    }

    /// Every call is refused, as by a host on which nobody listens.
    pub(crate) fn down(&self) {
        self.meets(|_| Err(io::ErrorKind::ConnectionRefused.into()));
    }

    /// Calls wait at this gate.
    pub(crate) fn held(&self) -> Gate {
        let gate = Gate::default();
        let handle = gate.clone();
        self.meets(move |_| {
            gate.pass();
            Ok(())
        });
        handle
    }

    pub(crate) fn starts(&self) -> Vec<Instant> {
        self.state.starts.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.starts.lock().unwrap().len()
    }

    /// How many calls are under way.
    pub(crate) fn inside(&self) -> usize {
        self.state.inside.load(SeqCst)
    }

    /// The most calls that were ever under way at once.
    pub(crate) fn most(&self) -> usize {
        self.state.most.load(SeqCst)
    }

    pub(crate) fn factory(&self) -> impl Factory {
        let state = Arc::clone(&self.state);
        move || state.connect()
    }

    /// Settings for a pool at the end of this line, without a reaper thread, and with retries so
    /// far apart that only a wake-up can explain that a waiter was served.
    pub(crate) fn builder(&self, limit: usize) -> Builder {
        Pool::builder(self.factory())
            .limit(limit)
            .reap_interval(None)
            .backoff(slow_retries())
    }

    pub(crate) fn pool(&self, limit: usize) -> Pool {
        self.builder(limit).build().unwrap()
    }
}

impl State {
    fn connect(&self) -> io::Result<TcpStream> {
        let call = {
            let mut starts = self.starts.lock().unwrap();
            starts.push(Instant::now());
            starts.len() - 1
        };
        let _inside = Inside::new(self);
        let obstacle = Arc::clone(&self.obstacle.lock().unwrap());
        obstacle(call)?;
        TcpStream::connect(self.address)
    }
}

/// Counts a call in, and out again even if it panics.
struct Inside<'a>(&'a State);

impl<'a> Inside<'a> {
    fn new(state: &'a State) -> Self {
        let inside = state.inside.fetch_add(1, SeqCst) + 1;
        state.most.fetch_max(inside, SeqCst);
        Self(state)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
    }
}

/// What this call on the pool gives; fails the test if it hangs.
#[track_caller]
pub(crate) fn in_time<T: Send + 'static>(
    pool: &Pool,
    call: impl FnOnce(&Pool) -> T + Send + 'static,
) -> T {
    on_thread(pool, call).join()
}

/// Retries a minute apart.
pub(crate) fn slow_retries() -> Backoff {
    Backoff::new().min(Duration::from_secs(60))
}

/// Retries a moment apart, for as long as it takes.
pub(crate) fn fast_retries() -> Backoff {
    Backoff::new()
        .retries(u32::MAX)
        .min(Duration::from_millis(1))
        .max(Duration::from_millis(2))
}

/// Threads that pull, each of them a place behind the one before.
pub(crate) struct Queue {
    served: Receiver<(usize, Result<Connection, Error>)>,
}

impl Queue {
    pub(crate) fn of(pool: &Pool, length: usize) -> Self {
        let (serve, served) = mpsc::channel();
        for place in 0..length {
            let waiting = pool.stats().waiting;
            let (waiter, serve) = (pool.clone(), serve.clone());
            thread::spawn(move || serve.send((place, waiter.pull())));
            eventually("the caller waits", || pool.stats().waiting > waiting);
        }
        Self { served }
    }

    /// Who is served next, and with what.
    #[track_caller]
    pub(crate) fn next(&self) -> (usize, Connection) {
        let (place, outcome) = self
            .served
            .recv_timeout(SOON)
            .expect("somebody is served in good time");
        (place, outcome.unwrap())
    }

    /// All of the others have been served when this returns, each as the one before gave back.
    #[track_caller]
    pub(crate) fn expect_order(&self, places: impl IntoIterator<Item = usize>) {
        for place in places {
            assert_eq!(self.next().0, place);
        }
    }
}
