//! A sweep over ten thousand idle connections, and what a caller feels of it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::crowd::{self, whole_nanoseconds};
use crate::descriptors;
use crate::measure::{Spread, alternate, nanoseconds};
use crate::peers::{self, Source, is_alive};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;

const CONNECTIONS: usize = 10_000;
const FEWER: usize = 5_000;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let room = descriptors::raise_limit()?;
    let pool_size = CONNECTIONS.min(room / 2);
    // The server's process has the same limit, so the other sockets end in another one.
    let server = Server::start()?;
    let other_server = Server::start()?;
    let address = server.address();
    let pool = peers::filled(builder(address), pool_size);
    let others = connect(CONNECTIONS.min(room - pool_size), other_server.address())?;
    let [swept, peeked] = alternate(
        bench.rounds(20, 100),
        [&mut || sweep(&pool, pool_size), &mut || peek(&others)],
    );
    let name = format!("a sweep over {pool_size}");
    bench.report.add(
        &name,
        format!("time / peek at {} others", others.len()),
        Goal::AtMost(1.8),
        Spread::of_ratios(&swept, &peeked),
    );
    tails(bench, &name, &pool, &others);
    drop((pool, others));
    let pool = peers::filled(builder(address), FEWER);
    let others = connect(FEWER, other_server.address())?;
    tails(bench, &format!("a sweep over {FEWER}"), &pool, &others);
    Ok(())
}

fn builder(address: SocketAddr) -> jackpot::Builder {
    let builder = jackpot::Pool::builder(move || peers::connect_and_greet(address));
    builder.reap_interval(None)
}

fn connect(count: usize, address: SocketAddr) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| peers::connect_and_greet(address))
        .collect()
}

/// The rows of what one thread that pulls feels of another one that sweeps, or peeks.
fn tails(bench: &mut Bench, name: &str, pool: &jackpot::Pool, others: &[TcpStream]) {
    let how_long = Duration::from_millis(if bench.quick { 100 } else { 300 });
    let size = others.len();
    let [beside_sweeps, beside_peeks] = alternate(
        bench.rounds(7, 31),
        [
            &mut || pulls_beside(pool, how_long, || sweep(pool, size)),
            &mut || pulls_beside(pool, how_long, || peek(others)),
        ],
    );
    for (quantile, text, goal) in [
        (0.99, "p99", Goal::None),
        (0.999, "p99.9", Goal::AtMost(2.0)),
        (0.9999, "p99.99", Goal::None),
    ] {
        let at = |waits: &[Histogram<u64>]| -> Vec<f64> {
            let waits = waits.iter();
            waits
                .map(|waits| waits.value_at_quantile(quantile) as f64)
                .collect()
        };
        bench.report.add(
            name,
            format!("{text} of pull meanwhile / beside peeks"),
            goal,
            Spread::of_ratios(&at(&beside_sweeps), &at(&beside_peeks)),
        );
    }
}

/// One sweep; nanoseconds per connection.
fn sweep(pool: &jackpot::Pool, size: usize) -> f64 {
    let started = Instant::now();
    let evicted = pool.reap();
    let each = nanoseconds(started.elapsed()) / size as f64;
    assert_eq!(evicted, 0, "all are alive");
    each
}

/// A look at each; nanoseconds per socket.
fn peek(sockets: &[TcpStream]) -> f64 {
    let started = Instant::now();
    assert!(sockets.iter().all(is_alive));
    nanoseconds(started.elapsed()) / sockets.len() as f64
}

/// How long each pull takes, in nanoseconds, while another thread does this over and over.
fn pulls_beside(
    pool: &jackpot::Pool,
    how_long: Duration,
    other: impl Fn() -> f64 + Sync,
) -> Histogram<u64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                let _ = other();
            }
        });
        let mut waits = crowd::waits();
        let begin = Instant::now();
        while begin.elapsed() < how_long {
            let started = Instant::now();
            let lease = pool.lease();
            waits.saturating_record(whole_nanoseconds(started.elapsed()));
            drop(lease);
        }
        stop.store(true, Relaxed);
        waits
    })
}
