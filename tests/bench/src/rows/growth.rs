//! How the cost grows: with idle connections, with waiters, with threads.
//!
//! What the lock is held for is measured from outside: another thread calls `stats()` all the time,
//! which does nothing but lock and copy a few numbers, and its longest call while a verb runs is as
//! long as the verb kept it out. A call in which the scheduler took the processor away, as the
//! system counts, does not count. What the scheduler adds otherwise is in it: that the thread which
//! has the lock was stopped, and that this one woke up late. So beside each stands the same with a
//! thread that burns as much time and touches no pool.

use std::fs;
use std::hint::black_box;
use std::io;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::crowd;
use crate::descriptors;
use crate::measure::{Spread, alternate, milliseconds, nanoseconds, nanoseconds_each};
use crate::peers::{self, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;
use crate::work::round_trip;

const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const WAITERS: [usize; 4] = [1, 10, 100, 1_000];
const MANY_WAITERS: usize = 4_000;
const THREADS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// What something costs at each of these counts, for the plot.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    pub(crate) name: &'static str,
    /// The count, and milliseconds or whatever the plot's axis says.
    pub(crate) costs: Vec<(usize, Spread)>,
}

impl Growth {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            costs: Vec::new(),
        }
    }
}

/// A verb of the pool that is measured.
#[derive(Clone, Copy)]
struct Verb {
    name: &'static str,
    run: fn(&jackpot::Pool, usize),
    /// How many calls make one measurement.
    count: u32,
    /// Whether connections are gone afterwards.
    closes: bool,
}

const VERBS: [Verb; 6] = [
    Verb {
        name: "pull and drop",
        run: |pool, _| drop(pool.lease()),
        count: 100,
        closes: false,
    },
    Verb {
        name: "stats",
        run: |pool, _| {
            black_box(pool.stats());
        },
        count: 100,
        closes: false,
    },
    Verb {
        name: "connections",
        run: |pool, _| drop(pool.connections()),
        count: 1,
        closes: false,
    },
    Verb {
        name: "reap",
        run: |pool, _| {
            pool.reap();
        },
        count: 1,
        closes: false,
    },
    Verb {
        name: "free all but half",
        run: |pool, size| {
            pool.free(size / 2);
        },
        count: 1,
        closes: true,
    },
    Verb {
        name: "set_limit to half",
        run: |pool, size| pool.set_limit((size / 2).max(1)),
        count: 1,
        closes: true,
    },
];

/// What each verb costs with one to ten thousand idle connections, and for how long it keeps
/// others out.
pub(crate) fn idle(bench: &mut Bench) -> io::Result<()> {
    let room = descriptors::raise_limit()?;
    let server = Server::start()?;
    let mut costs = VERBS.map(|verb| Growth::new(verb.name));
    let mut holds = VERBS.map(|verb| Growth::new(verb.name));
    let mut noise = Growth::new("the scheduler alone");
    for size in SIZES {
        let size = size.min(room);
        let pool = pool(server.address(), size);
        for ((verb, costs), holds) in VERBS.iter().zip(&mut costs).zip(&mut holds) {
            let rounds = match (verb.closes, size) {
                (true, 10_000) => bench.rounds(2, 3),
                (true, _) => bench.rounds(3, 9),
                (false, 10_000) => bench.rounds(10, 30),
                _ => bench.rounds(10, 100),
            };
            let found = measure(&pool, size, *verb, rounds);
            if [SIZES[0], SIZES[4].min(room)].contains(&size) {
                report_verb(bench, verb.name, size, found);
            }
            costs.costs.push((size, found.took.over(1e6)));
            holds.costs.push((size, found.kept_out.over(1e6)));
            let burnt = found.beside_burning.over(1e6);
            match noise.costs.last_mut() {
                // Of the verbs, the longest.
                Some((last, longest)) if *last == size => {
                    if longest.median < burnt.median {
                        *longest = burnt;
                    }
                }
                _ => noise.costs.push((size, burnt)),
            }
        }
    }
    bench.plots.verbs = costs.to_vec();
    bench.plots.holds = holds.into_iter().chain([noise]).collect();
    Ok(())
}

fn report_verb(bench: &mut Bench, verb: &str, size: usize, found: Found) {
    let name = match size {
        1 => "1 idle connection".to_owned(),
        size => format!("{size} idle connections"),
    };
    let report = &mut bench.report;
    for (measure, figure) in [
        (format!("{verb}, µs"), found.took),
        (format!("longest stats() beside {verb}, µs"), found.kept_out),
        (
            format!("longest stats() beside as much burning, {verb}, µs"),
            found.beside_burning,
        ),
    ] {
        report.add(&name, measure, Goal::None, figure.over(1e3));
    }
}

/// What a verb costs, in nanoseconds.
#[derive(Clone, Copy)]
struct Found {
    took: Spread,
    /// The longest `stats()` beside it.
    kept_out: Spread,
    /// The longest `stats()` beside a thread that burns as much time.
    beside_burning: Spread,
}

fn pool(address: SocketAddr, size: usize) -> jackpot::Pool {
    let connect = move || peers::connect_and_greet(address);
    let builder = jackpot::Pool::builder(connect).reap_interval(None);
    peers::filled(builder, size)
}

fn measure(pool: &jackpot::Pool, size: usize, verb: Verb, rounds: usize) -> Found {
    let [mut alone, mut kept_out, mut beside_burning] = [const { Vec::new() }; 3];
    let watch = Watch::default();
    thread::scope(|scope| {
        let watched = |run: &mut dyn FnMut()| {
            watch.stop.store(false, Ordering::Relaxed);
            let watcher = scope.spawn(|| watch.run(pool));
            watch.begun.wait();
            run();
            watch.stop.store(true, Ordering::Relaxed);
            watcher.join().expect("the watcher does not panic")
        };
        for round in 0..=rounds {
            let took = nanoseconds_each(verb.count, || (verb.run)(pool, size));
            refill(pool, size, verb);
            let held = watched(&mut || (0..verb.count).for_each(|_| (verb.run)(pool, size)));
            refill(pool, size, verb);
            let burnt = watched(&mut || {
                let begun = Instant::now();
                while nanoseconds(begun.elapsed()) < took * f64::from(verb.count) {
                    std::hint::spin_loop();
                }
            });
            if round > 0 {
                alone.push(took);
                kept_out.push(held);
                beside_burning.push(burnt);
            }
        }
    });
    Found {
        took: Spread::of(alone),
        kept_out: Spread::of(kept_out),
        beside_burning: Spread::of(beside_burning),
    }
}

fn refill(pool: &jackpot::Pool, size: usize, verb: Verb) {
    if !verb.closes {
        return;
    }
    pool.set_limit(size);
    pool.reap(); // a sweep fills `min_idle` up
    while pool.stats().idle < size {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Calls `stats()` until it is told to stop.
struct Watch {
    begun: Barrier,
    stop: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            begun: Barrier::new(2),
            stop: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// The longest call, in nanoseconds.
    fn run(&self, pool: &jackpot::Pool) -> f64 {
        black_box(pool.stats());
        self.begun.wait();
        let mut longest = Duration::ZERO;
        let mut stops = stops_of_this_thread();
        loop {
            let begun = Instant::now();
            black_box(pool.stats());
            let took = begun.elapsed();
            if took > longest {
                let before = std::mem::replace(&mut stops, stops_of_this_thread());
                if before == stops {
                    longest = took;
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return nanoseconds(longest);
            }
        }
    }
}

/// How often the scheduler took the processor away from this thread; the system's own count.
fn stops_of_this_thread() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// How long it takes to serve everybody in line, and what `stats()` costs meanwhile.
pub(crate) fn waiters(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let mut counts = WAITERS.to_vec();
    counts.extend((!bench.quick).then_some(MANY_WAITERS));
    let patient = || jackpot::Backoff::new();
    let nervous = || {
        let every = Duration::from_millis(50);
        jackpot::Backoff::new()
            .retries(100_000)
            .min(every)
            .max(every)
    };
    let kinds: [(&'static str, &dyn Fn() -> jackpot::Backoff); 2] = [
        ("the default backoff", &patient),
        ("a retry each 50 ms", &nervous),
    ];
    for (kind, backoff) in kinds {
        let mut until_served = Growth::new(kind);
        let mut watched = Growth::new(kind);
        for &count in &counts {
            let rounds = bench.rounds(2, if count < 1_000 { 15 } else { 3 });
            let lines: Vec<Line> = (0..=rounds)
                .map(|_| line(server.address(), count, backoff()))
                .skip(1)
                .collect();
            let took = Spread::of(lines.iter().map(|line| line.took).collect());
            let stats = Spread::of(lines.iter().map(|line| line.longest).collect());
            if count >= 1_000 {
                let name = format!("{count} waiters, {kind}");
                let report = &mut bench.report;
                report.add(&name, "ms until all are served", Goal::None, took);
                report.add(&name, "longest stats() in line, ms", Goal::None, stats);
            }
            until_served.costs.push((count, took));
            watched.costs.push((count, stats));
        }
        bench.plots.served.push(until_served);
        bench.plots.watched.push(watched);
    }
    Ok(())
}

/// How a line fared, in milliseconds.
struct Line {
    took: f64,
    longest: f64,
}

/// So many threads wait for four connections, for a fifth of a second; then all are given back.
fn line(address: SocketAddr, count: usize, backoff: jackpot::Backoff) -> Line {
    const CONNECTIONS: usize = 4;
    let builder = jackpot::Pool::builder(move || peers::connect(address)).backoff(backoff);
    let pool = peers::filled(builder, CONNECTIONS);
    let held: Vec<_> = (0..CONNECTIONS).map(|_| pool.lease()).collect();
    let last = AtomicU64::new(0);
    let zero = Instant::now();
    let (begun, longest) = thread::scope(|scope| {
        for _ in 0..count {
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn_scoped(scope, || {
                    let lease = pool.lease();
                    let now = zero.elapsed().as_nanos();
                    last.fetch_max(u64::try_from(now).expect("minutes"), Ordering::Relaxed);
                    drop(lease);
                })
                .expect("a thread for each waiter");
        }
        while pool.stats().waiting < count {
            thread::sleep(Duration::from_millis(1));
        }
        let mut longest = Duration::ZERO;
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            let begun = Instant::now();
            black_box(pool.stats());
            longest = longest.max(begun.elapsed());
            thread::sleep(Duration::from_micros(100));
        }
        let begun = zero.elapsed();
        drop(held);
        (begun, longest)
    });
    Line {
        took: last.load(Ordering::Relaxed) as f64 / 1e6 - milliseconds(begun),
        longest: milliseconds(longest),
    }
}

/// Rates with one to 256 threads, on one pool and on several that share the same connections out
/// among them.
pub(crate) fn threads(bench: &mut Bench) -> io::Result<()> {
    const CONNECTIONS: usize = 8;
    let server = Server::start()?;
    let address = server.address();
    let pools = [1, 2, 4, 8].map(|count| {
        let pool = |_| peers::jackpot(address, CONNECTIONS / count);
        (0..count).map(pool).collect::<Vec<_>>()
    });
    let [one, two, four, eight] = &pools;
    let how_long = Duration::from_millis(if bench.quick { 30 } else { 60 });
    for (work, echoes) in [("no work", false), ("one echo", true)] {
        let mut curves = ["1 pool", "2 pools", "4 pools", "8 pools"].map(Growth::new);
        for threads in THREADS {
            let share = |pools: &[jackpot::Pool]| {
                crowd::count_with(threads, how_long, |number| {
                    let mut lease = pools[number % pools.len()].lease();
                    if echoes {
                        round_trip(&mut lease);
                    }
                })
                .rate
            };
            let rates = alternate(
                bench.rounds(3, 11),
                [
                    &mut || share(one),
                    &mut || share(two),
                    &mut || share(four),
                    &mut || share(eight),
                ],
            );
            if [8, 64, 256].contains(&threads) {
                let name = format!("{threads} threads on 8 connections, {work}");
                let report = &mut bench.report;
                report.add(
                    &name,
                    "leases/ms, 1 pool",
                    Goal::None,
                    Spread::of(rates[0].clone()).over(1e3),
                );
                for (rates_of, pools) in rates[1..].iter().zip([2, 4, 8]) {
                    let ratio = Spread::of_ratios(rates_of, &rates[0]);
                    report.add(
                        &name,
                        format!("rate, {pools} pools / 1 pool"),
                        Goal::None,
                        ratio,
                    );
                }
            }
            for (curve, rates) in curves.iter_mut().zip(rates) {
                curve.costs.push((threads, Spread::of(rates).over(1e3)));
            }
        }
        bench.plots.split.push((work, curves.to_vec()));
    }
    Ok(())
}

/// What the lock would do to many cores, computed from what can be measured on few.
///
/// With `c` for a lease and `h` for the part of it without the peek, which is at least the time for
/// which the lock is held, `k` threads on as many cores take `min(k / c, pools / h)` leases in a
/// second. Where the lock changes hands, the cache lines behind it move from core to core, which
/// takes `t` for each: at both ends of a lease some four of them, so `h` becomes `h + 8 t`.
pub(crate) fn model(bench: &mut Bench) -> io::Result<()> {
    const LINES: f64 = 8.0;
    const CYCLES: u32 = 300;
    let server = Server::start()?;
    let probed = peers::jackpot(server.address(), 4);
    let unprobed = peers::jackpot_unprobed(server.address(), 4);
    let [leases, held] = alternate(
        bench.rounds(100, 1_000),
        [
            &mut || nanoseconds_each(CYCLES, || drop(probed.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(unprobed.lease())),
        ],
    )
    .map(|rounds| Spread::of(rounds).median);
    // Where both threads had to share a core, no round trip is quick.
    let moves = Spread::of((0..50).map(|_| nanoseconds_of_a_move()).collect()).low;
    let contended = held + LINES * moves;
    let name = "the lock, computed";
    let report = &mut bench.report;
    for (measure, figure) in [
        ("a lease (c), ns", leases),
        ("the lease without its peek (h), ns", held),
        ("a cache line to the other core (t), ns", moves),
        ("cores that one pool keeps busy, c / h", leases / held),
        (
            "the same with moving lines, c / (h + 8 t)",
            leases / contended,
        ),
    ] {
        report.add(name, measure, Goal::None, Spread::exact(figure));
    }
    for cores in [4.0, 16.0, 64.0] {
        for pools in [1.0, 4.0, 16.0] {
            let free = cores / leases;
            let most = |hold: f64| free.min(pools / hold) / free;
            let measure = format!("{cores} cores, {pools} pools: rate / without a lock, from");
            report.add(name, measure, Goal::None, Spread::exact(most(contended)));
            let measure = format!("{cores} cores, {pools} pools: rate / without a lock, to");
            report.add(name, measure, Goal::None, Spread::exact(most(held)));
        }
    }
    Ok(())
}

/// How long a cache line takes from one core to another, by handing a number to and fro.
///
/// It is half of the quicker round trips: in the others one of the two threads did not run.
fn nanoseconds_of_a_move() -> f64 {
    const TRIPS: u64 = 500;
    let ball = AtomicU64::new(0);
    let catch = |number: u64| {
        let mut looks = 0_u32;
        while ball.load(Ordering::Acquire) != number {
            looks += 1;
            if looks.trailing_zeros() >= 10 {
                thread::yield_now(); // the other thread may wait for this core
            }
            std::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 0..TRIPS {
                catch(2 * trip + 1);
                ball.store(2 * trip + 2, Ordering::Release);
            }
        });
        let trips = (0..TRIPS).map(|trip| {
            let begun = Instant::now();
            ball.store(2 * trip + 1, Ordering::Release);
            catch(2 * trip + 2);
            nanoseconds(begun.elapsed())
        });
        Spread::of(trips.collect()).low / 2.0
    })
}
