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
    count_with(threads, how_long, |_| cycle())
}

/// The same, where each thread is told its number.
pub(crate) fn count_with(
    threads: usize,
    how_long: Duration,
    cycle: impl Fn(usize) + Sync,
) -> Outcome {
    run(
        threads,
        how_long,
        no_waits,
        || (),
        |number, _, ()| cycle(number),
    )
}

/// Lets `threads` threads lease, work and give back for so long, and times each wait for a lease.
pub(crate) fn time<S: Source>(
    source: &S,
    threads: usize,
    how_long: Duration,
    work: impl Fn(&mut dyn Talk) + Sync,
) -> Outcome {
    run(
        threads,
        how_long,
        waits,
        || (),
        |_, waits, ()| {
            let started = Instant::now();
            let mut lease = source.lease();
            waits.saturating_record(whole_nanoseconds(started.elapsed()));
            work(&mut lease);
        },
    )
}

/// Lets `threads` threads call for so long, each with what it has prepared, and times each call.
pub(crate) fn whole<T>(
    threads: usize,
    how_long: Duration,
    prepare: impl Fn() -> T + Sync,
    call: impl Fn(&mut T) + Sync,
) -> Outcome {
    run(threads, how_long, waits, prepare, |_, waits, with| {
        let started = Instant::now();
        call(with);
        waits.saturating_record(whole_nanoseconds(started.elapsed()));
    })
}

/// What one thread of the crowd got.
struct Share {
    begun: Instant,
    leases: u64,
    waits: Histogram<u64>,
}

fn run<T>(
    threads: usize,
    how_long: Duration,
    recorder: fn() -> Histogram<u64>,
    prepare: impl Fn() -> T + Sync,
    step: impl Fn(usize, &mut Histogram<u64>, &mut T) + Sync,
) -> Outcome {
    let gate = Barrier::new(threads + 1);
    let enough = AtomicBool::new(false);
    let (shares, end) = thread::scope(|scope| {
        let crowd: Vec<_> = (0..threads)
            .map(|number| {
                let (gate, enough, step, prepare) = (&gate, &enough, &step, &prepare);
                scope.spawn(move || {
                    let mut waits = recorder();
                    let mut with = prepare();
                    let mut leases = 0_u64;
                    gate.wait();
                    let begun = Instant::now();
                    while !enough.load(Relaxed) {
                        step(number, &mut waits, &mut with);
                        leases += 1;
                    }
                    Share {
                        begun,
                        leases,
                        waits,
                    }
                })
            })
            .collect();
        gate.wait();
        thread::sleep(how_long);
        enough.store(true, Relaxed);
        let end = Instant::now();
        let shares: Vec<Share> = crowd
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect();
        (shares, end)
    });
    // This thread may have been the last to wake up, when the others had long begun.
    let begun = shares.iter().map(|share| share.begun).min().unwrap_or(end);
    let leases = || shares.iter().map(|share| share.leases);
    let (busiest, idlest) = (leases().max().unwrap_or(0), leases().min().unwrap_or(0));
    let total: u64 = leases().sum();
    let mut waits = recorder();
    for share in &shares {
        waits.add(&share.waits).expect("all have the same range");
    }
    Outcome {
        rate: total as f64 / end.duration_since(begun).as_secs_f64(),
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
