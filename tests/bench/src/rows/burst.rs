//! HikariCP's spike test: fifty callers at once on five connections, where a connect takes long.
//!
//! After "Welcome to the jungle" on HikariCP's wiki: five idle connections, a limit of fifty,
//! 150 ms for a connect, 2 ms of use for each caller.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Spread, alternate, milliseconds};
use crate::peers::{self, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;

const IDLE: usize = 5;
const LIMIT: usize = 50;
const CALLERS: usize = 50;
const CONNECT: Duration = Duration::from_millis(150);
const USE: Duration = Duration::from_millis(2);

/// One burst, in milliseconds from its beginning.
#[derive(Clone, Debug)]
pub(crate) struct Burst {
    /// When each caller was served, in order.
    pub(crate) served: Vec<f64>,
    /// Connections that the burst opened on top of the idle ones.
    pub(crate) opened: usize,
}

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    let [jackpot, r2d2] = alternate(
        bench.rounds(5, 15),
        [&mut || jackpot(address), &mut || r2d2(address)],
    );
    let name = "burst of 50 on 5, connects of 150 ms";
    let report = &mut bench.report;
    report.add(name, "last served, ms", Goal::AtMost(30.0), last(&jackpot));
    report.add(
        name,
        "connections opened",
        Goal::AtMost(15.0),
        opened(&jackpot),
    );
    report.add(name, "last served, ms, r2d2", Goal::None, last(&r2d2));
    report.add(name, "connections opened, r2d2", Goal::None, opened(&r2d2));
    bench.plots.bursts = Some((typical(jackpot), typical(r2d2)));
    Ok(())
}

fn last(bursts: &[Burst]) -> Spread {
    Spread::of(bursts.iter().map(Burst::last).collect())
}

fn opened(bursts: &[Burst]) -> Spread {
    Spread::of(bursts.iter().map(|burst| burst.opened as f64).collect())
}

/// The one whose last caller was served in the median time.
fn typical(mut bursts: Vec<Burst>) -> Burst {
    bursts.sort_by(|a, b| a.last().total_cmp(&b.last()));
    bursts.swap_remove(bursts.len() / 2)
}

impl Burst {
    fn last(&self) -> f64 {
        *self.served.last().expect("there were callers")
    }
}

/// A server far away: connects are quick until `slow`, then take their time, and are counted.
#[derive(Debug)]
struct Far {
    address: SocketAddr,
    slow: AtomicBool,
    opened: AtomicUsize,
}

impl Far {
    fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            slow: AtomicBool::new(false),
            opened: AtomicUsize::new(0),
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        if self.slow.load(SeqCst) {
            self.opened.fetch_add(1, SeqCst);
            thread::sleep(CONNECT);
        }
        peers::connect(self.address)
    }
}

fn jackpot(address: SocketAddr) -> Burst {
    let far = Far::new(address);
    let connect = Arc::clone(&far);
    let pool = jackpot::Pool::builder(move || connect.connect())
        .limit(LIMIT)
        .min_idle(IDLE)
        .build()
        .expect("the settings are fine");
    while pool.stats().idle < IDLE {
        thread::sleep(Duration::from_millis(1));
    }
    let burst = burst(&far, || pool.lease());
    // What is under way belongs to this burst, and must not disturb the next one.
    while pool.stats().connecting > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Burst {
        opened: far.opened.load(SeqCst),
        ..burst
    }
}

#[derive(Debug)]
struct FarManager(Arc<Far>);

impl r2d2::ManageConnection for FarManager {
    type Connection = TcpStream;
    type Error = io::Error;

    fn connect(&self) -> io::Result<TcpStream> {
        self.0.connect()
    }

    fn is_valid(&self, socket: &mut TcpStream) -> io::Result<()> {
        peers::Manager(self.0.address).is_valid(socket)
    }

    fn has_broken(&self, _: &mut TcpStream) -> bool {
        false
    }
}

fn r2d2(address: SocketAddr) -> Burst {
    let far = Far::new(address);
    let pool = r2d2::Pool::builder()
        .max_size(u32::try_from(LIMIT).expect("a small number"))
        .min_idle(Some(u32::try_from(IDLE).expect("a small number")))
        .build(FarManager(Arc::clone(&far)))
        .expect("r2d2 connects");
    let burst = burst(&far, || pool.get().expect("a connection comes in time"));
    // r2d2 says nothing of connects that wait their turn, but it begins the next at once.
    let mut opened = 0;
    while std::mem::replace(&mut opened, far.opened.load(SeqCst)) != far.opened.load(SeqCst) {
        thread::sleep(CONNECT * 2);
    }
    Burst { opened, ..burst }
}

fn burst<L>(far: &Far, lease: impl Fn() -> L + Sync) -> Burst {
    far.slow.store(true, SeqCst);
    let begin = Barrier::new(CALLERS + 1);
    let mut served: Vec<f64> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    begin.wait();
                    let lease = lease();
                    let served = Instant::now();
                    thread::sleep(USE);
                    drop(lease);
                    served
                })
            })
            .collect();
        let started = Instant::now();
        begin.wait();
        callers
            .into_iter()
            .map(|caller| caller.join().expect("no caller panics"))
            .map(|at| milliseconds(at.duration_since(started)))
            .collect()
    });
    served.sort_by(f64::total_cmp);
    Burst { served, opened: 0 }
}
