//! Many threads on four connections: without work, and with a round trip to a server in another
//! process.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::crowd::{self, Outcome};
use crate::measure::{Spread, alternate};
use crate::peers::{self, Channel, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;
use crate::work::round_trip;

const THREADS: [usize; 5] = [2, 4, 8, 16, 64];
const CONNECTIONS: u32 = 4;

/// Rates at one count of threads, for the plot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) threads: usize,
    pub(crate) jackpot: Spread,
    pub(crate) r2d2: Spread,
    pub(crate) channel: Spread,
}

/// All waits of one contestant at one count of threads, for the plot.
#[derive(Debug)]
pub(crate) struct Waits {
    pub(crate) threads: usize,
    pub(crate) jackpot: Histogram<u64>,
    pub(crate) r2d2: Histogram<u64>,
    pub(crate) channel: Histogram<u64>,
}

/// Leases that are given back unused: nothing but the pool itself.
pub(crate) fn idle(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    let jackpot = peers::jackpot(address, CONNECTIONS as usize);
    let r2d2 = peers::r2d2(address, CONNECTIONS, true);
    let channel = Channel::new(address, CONNECTIONS as usize);
    let rounds = bench.rounds(5, 41);
    let how_long = Duration::from_millis(if bench.quick { 30 } else { 50 });
    for threads in THREADS {
        let outcomes = alternate(
            rounds,
            [
                &mut || crowd::count(threads, how_long, || drop(jackpot.lease())),
                &mut || crowd::count(threads, how_long, || drop(r2d2.lease())),
                &mut || crowd::count(threads, how_long, || drop(channel.lease())),
            ],
        );
        let [jackpot, r2d2, channel] = outcomes.map(|outcomes| rates(&outcomes));
        let name = format!("{threads} threads, no work");
        let report = &mut bench.report;
        report.add(
            &name,
            "rate / r2d2",
            Goal::AtLeast(1.0),
            Spread::of_ratios(&jackpot, &r2d2),
        );
        report.add(
            &name,
            "rate / channel",
            Goal::None,
            Spread::of_ratios(&jackpot, &channel),
        );
        bench.plots.unworked.push(Rates {
            threads,
            jackpot: Spread::of(jackpot),
            r2d2: Spread::of(r2d2),
            channel: Spread::of(channel),
        });
    }
    Ok(())
}

/// Leases that are used for one round trip.
pub(crate) fn echo(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    let jackpot = peers::jackpot(address, CONNECTIONS as usize);
    let r2d2 = peers::r2d2(address, CONNECTIONS, true);
    let channel = Channel::new(address, CONNECTIONS as usize);
    let rounds = bench.rounds(3, 13);
    let how_long = Duration::from_millis(if bench.quick { 150 } else { 300 });
    for threads in THREADS {
        let outcomes = alternate(
            rounds,
            [
                &mut || crowd::time(&jackpot, threads, how_long, round_trip),
                &mut || crowd::time(&r2d2, threads, how_long, round_trip),
                &mut || crowd::time(&channel, threads, how_long, round_trip),
            ],
        );
        report_echo(bench, threads, &outcomes);
        let [jackpot, r2d2, channel] = &outcomes;
        bench.plots.rates.push(Rates {
            threads,
            jackpot: Spread::of(rates(jackpot)),
            r2d2: Spread::of(rates(r2d2)),
            channel: Spread::of(rates(channel)),
        });
        bench.plots.waits.push(Waits {
            threads,
            jackpot: merged(jackpot),
            r2d2: merged(r2d2),
            channel: merged(channel),
        });
    }
    Ok(())
}

fn report_echo(bench: &mut Bench, threads: usize, outcomes: &[Vec<Outcome>; 3]) {
    let [jackpot, r2d2, channel] = outcomes;
    let name = format!("{threads} threads, one echo");
    let report = &mut bench.report;
    report.add(
        &name,
        "rate / r2d2",
        Goal::AtLeast(if threads == 64 { 1.15 } else { 1.0 }),
        Spread::of_ratios(&rates(jackpot), &rates(r2d2)),
    );
    report.add(
        &name,
        "rate / channel",
        Goal::None,
        Spread::of_ratios(&rates(jackpot), &rates(channel)),
    );
    report.add(
        &name,
        "p99.9 wait / r2d2's",
        if threads >= 8 {
            Goal::AtMost(0.2)
        } else {
            Goal::None
        },
        Spread::of_ratios(&tails(jackpot), &tails(r2d2)),
    );
    report.add(
        &name,
        "busiest / idlest thread",
        Goal::AtMost(1.2),
        Spread::of(unfairness(jackpot)),
    );
    for (peer, outcomes) in [("r2d2", r2d2), ("channel", channel)] {
        report.add(
            &name,
            format!("busiest / idlest thread, {peer}"),
            Goal::None,
            Spread::of(unfairness(outcomes)),
        );
    }
}

pub(crate) fn rates(outcomes: &[Outcome]) -> Vec<f64> {
    outcomes.iter().map(|outcome| outcome.rate).collect()
}

fn unfairness(outcomes: &[Outcome]) -> Vec<f64> {
    outcomes.iter().map(|outcome| outcome.unfairness).collect()
}

fn tails(outcomes: &[Outcome]) -> Vec<f64> {
    let tail = |outcome: &Outcome| outcome.waits.value_at_quantile(0.999) as f64;
    outcomes.iter().map(tail).collect()
}

fn merged(outcomes: &[Outcome]) -> Histogram<u64> {
    let mut all = crowd::waits();
    for outcome in outcomes {
        all.add(&outcome.waits).expect("all have the same range");
    }
    all
}
