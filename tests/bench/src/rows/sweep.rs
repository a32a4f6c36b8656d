//! A sweep over ten thousand idle connections, and what a caller feels of it.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::crowd::{self, whole_nanoseconds};
use crate::descriptors;
use crate::measure::{Spread, alternate, nanoseconds};
use crate::peers::{self, Source, is_alive};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;

const CONNECTIONS: usize = 10_000;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let room = descriptors::raise_limit()?;
    let pool_size = CONNECTIONS.min(room / 2);
    // The server's process has the same limit, so the other sockets end in another one.
    let server = Server::start()?;
    let other_server = Server::start()?;
    let address = server.address();
    let builder = jackpot::Pool::builder(move || peers::connect_and_greet(address));
    let pool = peers::filled(builder.reap_interval(None), pool_size);
    let others = (0..CONNECTIONS.min(room - pool_size))
        .map(|_| peers::connect_and_greet(other_server.address()))
        .collect::<io::Result<Vec<TcpStream>>>()?;
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
    let how_long = Duration::from_millis(if bench.quick { 100 } else { 300 });
    let [beside_sweeps, beside_peeks] = alternate(
        bench.rounds(7, 31),
        [
            &mut || tail_beside(&pool, how_long, || sweep(&pool, pool_size)),
            &mut || tail_beside(&pool, how_long, || peek(&others)),
        ],
    );
    bench.report.add(
        &name,
        "p99.9 of pull meanwhile / beside peeks",
        Goal::AtMost(2.0),
        Spread::of_ratios(&beside_sweeps, &beside_peeks),
    );
    Ok(())
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

/// The p99.9 of pull, in nanoseconds, while another thread does this over and over.
fn tail_beside(pool: &jackpot::Pool, how_long: Duration, other: impl Fn() -> f64 + Sync) -> f64 {
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
        waits.value_at_quantile(0.999) as f64
    })
}
