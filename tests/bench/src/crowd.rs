//! Many threads that share a few connections for a while.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::measure::nanoseconds;
use crate::peers::{Source, Talk};

/// How a crowd fared.
pub(crate) struct Outcome {
    /// Leases per second, all threads together.
    pub(crate) rate: f64,
    /// What the busiest thread got, over what the idlest got.
    pub(crate) unfairness: f64,
    /// How long each lease was waited for, in nanoseconds; empty if nobody looked.
    pub(crate) waits: Histogram<u64>,
}

/// Lets `threads` threads go through the same motions for so long, and counts.
pub(crate) fn count(threads: usize, how_long: Duration, cycle: impl Fn() + Sync) -> Outcome {
    run(threads, how_long, no_waits, |_| cycle())
}

/// Lets `threads` threads lease, work and give back for so long, and times each wait for a lease.
pub(crate) fn time<S: Source>(
    source: &S,
    threads: usize,
    how_long: Duration,
    work: impl Fn(&mut dyn Talk) + Sync,
) -> Outcome {
    run(threads, how_long, waits, |waits| {
        let started = Instant::now();
        let mut lease = source.lease();
        waits.saturating_record(whole_nanoseconds(started.elapsed()));
        work(&mut lease);
    })
}

fn run(
    threads: usize,
    how_long: Duration,
    recorder: fn() -> Histogram<u64>,
    step: impl Fn(&mut Histogram<u64>) + Sync,
) -> Outcome {
    let begin = Barrier::new(threads + 1);
    let enough = AtomicBool::new(false);
    let (shares, elapsed) = thread::scope(|scope| {
        let crowd: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut waits = recorder();
                    let mut leases = 0_u64;
                    begin.wait();
                    while !enough.load(Relaxed) {
                        step(&mut waits);
                        leases += 1;
                    }
                    (leases, waits)
                })
            })
            .collect();
        begin.wait();
        let started = Instant::now();
        thread::sleep(how_long);
        enough.store(true, Relaxed);
        let elapsed = started.elapsed();
        let shares: Vec<_> = crowd
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect();
        (shares, elapsed)
    });
    let leases = |share: &(u64, Histogram<u64>)| share.0;
    let busiest = shares.iter().map(leases).max().unwrap_or(0);
    let idlest = shares.iter().map(leases).min().unwrap_or(0);
    let total: u64 = shares.iter().map(leases).sum();
    let mut waits = recorder();
    for (_, share) in &shares {
        waits.add(share).expect("all have the same range");
    }
    Outcome {
        rate: total as f64 / elapsed.as_secs_f64(),
        unfairness: busiest as f64 / idlest.max(1) as f64,
        waits,
    }
}

/// A histogram from 100 ns to a minute, within one part in a thousand.
pub(crate) fn waits() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("sound bounds")
}

fn no_waits() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 2, 0).expect("sound bounds")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "no wait here is negative or lasts for centuries"
)]
pub(crate) fn whole_nanoseconds(duration: Duration) -> u64 {
    nanoseconds(duration) as u64
}
