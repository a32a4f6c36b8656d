//! The spike test of `HikariCP`: fifty callers at once on five connections, where a connect takes
//! long.
//!
//! After "Welcome to the jungle" on its wiki: five idle connections, a limit of fifty,
//! 150 ms for a connect, 2 ms of use for each caller.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Spread, alternate, milliseconds};
use crate::peers::{self, Manager, Source};
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
    /// When each connect that it caused began, in order.
    pub(crate) connects: Vec<f64>,
}

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    // r2d2 takes seconds to open what it thinks it needs, so it has fewer bursts.
    let [jackpot, r2d2] = alternate(
        bench.rounds(1, 4),
        [
            &mut || (0..5).map(|_| jackpot(address)).collect(),
            &mut || vec![r2d2(address)],
        ],
    )
    .map(|bursts| bursts.concat());
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
    Spread::of(
        bursts
            .iter()
            .map(|burst| burst.connects.len() as f64)
            .collect(),
    )
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

/// A server far away: connects are quick until the burst, then take their time, and are noted.
struct Far {
    address: SocketAddr,
    connects: Mutex<Option<Vec<Instant>>>,
}

impl Far {
    fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            connects: Mutex::new(None),
        })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let is_slow = {
            let mut connects = self.connects.lock().expect("nobody panics");
            connects.as_mut().map(|begun| begun.push(Instant::now()))
        };
        if is_slow.is_some() {
            thread::sleep(CONNECT);
        }
        peers::connect(self.address)
    }

    fn connects(&self) -> Vec<Instant> {
        let connects = self.connects.lock().expect("nobody panics");
        connects.clone().unwrap_or_default()
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
    burst(&far, || pool.lease())
}

fn r2d2(address: SocketAddr) -> Burst {
    let far = Far::new(address);
    let connect = Arc::clone(&far);
    let pool = r2d2::Pool::builder()
        .max_size(u32::try_from(LIMIT).expect("a small number"))
        .min_idle(Some(u32::try_from(IDLE).expect("a small number")))
        .test_on_check_out(true)
        .build(Manager(move || connect.connect()))
        .expect("r2d2 connects");
    burst(&far, || pool.lease())
}

fn burst<L>(far: &Far, lease: impl Fn() -> L + Sync) -> Burst {
    *far.connects.lock().expect("nobody panics") = Some(Vec::new());
    let gate = Barrier::new(CALLERS + 1);
    let (begun, served) = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    gate.wait();
                    let begun = Instant::now();
                    let lease = lease();
                    let served = Instant::now();
                    thread::sleep(USE);
                    drop(lease);
                    (begun, served)
                })
            })
            .collect();
        gate.wait();
        let callers = callers.into_iter();
        callers
            .map(|caller| caller.join().expect("no caller panics"))
            .unzip::<_, _, Vec<Instant>, Vec<Instant>>()
    });
    let mut connects = far.connects();
    // A pool that connects at all begins the next connect when one is done.
    loop {
        thread::sleep(CONNECT * 2);
        let before = std::mem::replace(&mut connects, far.connects());
        if before.len() == connects.len() {
            break;
        }
    }
    let started = begun.into_iter().min().expect("there were callers");
    let since_start = |instants: Vec<Instant>| {
        let since = |at: Instant| milliseconds(at.duration_since(started));
        let mut times: Vec<f64> = instants.into_iter().map(since).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    Burst {
        served: since_start(served),
        connects: since_start(connects),
    }
}
