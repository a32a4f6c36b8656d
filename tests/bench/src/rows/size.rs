//! Pools of ten to ten thousand idle connections: what a lease costs, and what they weigh.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::descriptors;
use crate::measure::{Spread, alternate, nanoseconds_each};
use crate::peers::{self, Manager, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const CYCLES: u32 = 300;

/// What pull and drop costs in a pool of this size, for the plot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) connections: usize,
    /// Nanoseconds.
    pub(crate) jackpot: Spread,
    pub(crate) r2d2: Spread,
}

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    // Each set in turn, because both would need more descriptors than many systems give.
    let jackpot = costs(bench, |address, size| {
        let connect = move || peers::connect_and_greet(address);
        peers::filled(jackpot::Pool::builder(connect), size)
    })?;
    let r2d2 = costs(bench, |address, size| {
        r2d2::Pool::builder()
            .max_size(u32::try_from(size).expect("sizes are small"))
            .test_on_check_out(true)
            .build(Manager(move || peers::connect_and_greet(address)))
            .expect("r2d2 connects")
    })?;
    for (size, costs) in SIZES.iter().zip(&jackpot).skip(1) {
        bench.report.add(
            format!("{size} idle connections"),
            "time / with 10",
            Goal::AtMost(1.1),
            Spread::of_ratios(costs, &jackpot[0]),
        );
    }
    bench.report.add(
        "10000 idle connections",
        "time / with 10, r2d2",
        Goal::None,
        Spread::of_ratios(&r2d2[3], &r2d2[0]),
    );
    for ((connections, jackpot), r2d2) in SIZES.into_iter().zip(jackpot).zip(r2d2) {
        bench.plots.sizes.push(Cost {
            connections,
            jackpot: Spread::of(jackpot),
            r2d2: Spread::of(r2d2),
        });
    }
    memory(bench)
}

/// The nanoseconds of one pull and drop, round by round, for each size.
fn costs<S: Source>(
    bench: &Bench,
    pool: impl Fn(SocketAddr, usize) -> S,
) -> io::Result<[Vec<f64>; 4]> {
    descriptors::raise_limit()?;
    let server = Server::start()?;
    let [a, b, c, d] = SIZES.map(|size| pool(server.address(), size));
    let rounds = bench.rounds(500, 4_000);
    Ok(alternate(
        rounds,
        [
            &mut || nanoseconds_each(CYCLES, || drop(a.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(b.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(c.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(d.lease())),
        ],
    ))
}

/// Runs the program that weighs, because its allocator counts and would slow this one down.
fn memory(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    for (peer, goal) in [("jackpot", Goal::AtMost(320.0)), ("r2d2", Goal::None)] {
        let output = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--release", "--package", "jackpot-bench"])
            .args(["--bin", "idle-memory", "--", peer])
            .arg(server.address().to_string())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
            .output()?;
        let figure: Option<f64> = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
        if figure.is_none() {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
        }
        bench.report.add(
            "memory per idle connection",
            format!("bytes allocated, {peer}"),
            goal,
            figure.map(Spread::exact),
        );
    }
    Ok(())
}
