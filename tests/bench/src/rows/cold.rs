//! A cold start: sixty-four callers on an empty pool, against as many bare connects.

use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::measure::{Spread, alternate, milliseconds};
use crate::peers::{self, Manager, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;

const CALLERS: usize = 64;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    let [pooled, bare, r2d2] = alternate(
        bench.rounds(20, 150),
        [
            &mut || jackpot(address),
            &mut || all(|| peers::connect(address).expect("the server accepts")),
            &mut || r2d2(address),
        ],
    );
    let name = "cold start, 64 callers";
    let report = &mut bench.report;
    report.add(
        name,
        "time / bare parallel connects",
        Goal::AtMost(1.6),
        Spread::of_ratios(&pooled, &bare),
    );
    report.add(
        name,
        "time / bare parallel connects, r2d2",
        Goal::None,
        Spread::of_ratios(&r2d2, &bare),
    );
    Ok(())
}

fn jackpot(address: SocketAddr) -> f64 {
    let pool = jackpot::Pool::builder(move || peers::connect(address))
        .limit(CALLERS)
        .build()
        .expect("the settings are fine");
    all(|| pool.lease())
}

fn r2d2(address: SocketAddr) -> f64 {
    let pool = r2d2::Pool::builder()
        .max_size(u32::try_from(CALLERS).expect("a small number"))
        .min_idle(Some(0))
        .build(Manager(move || peers::connect(address)))
        .expect("nothing to connect yet");
    all(|| pool.lease())
}

/// How many milliseconds it takes until all callers have one; they hold it until then.
fn all<L: Send>(lease: impl Fn() -> L + Sync) -> f64 {
    let gate = Barrier::new(CALLERS + 1);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    gate.wait();
                    let begun = Instant::now();
                    let lease = lease();
                    (lease, begun, Instant::now())
                })
            })
            .collect();
        gate.wait();
        let leases: Vec<_> = callers
            .into_iter()
            .map(|caller| caller.join().expect("no caller panics"))
            .collect();
        let begun = leases.iter().map(|(_, begun, _)| *begun).min();
        let last = leases.iter().map(|(_, _, served)| *served).max();
        let took = last.zip(begun).map(|(last, begun)| last - begun);
        milliseconds(took.expect("there were callers"))
    })
}
