//! A soak: every method of the pool at random for as long as you like, and nothing left over.
//!
//! `cargo run --release --example soak -- --seconds 60`; with `-- --help` it explains itself.

mod args;
mod census;
mod chaos;
mod ledger;
mod sharing;
mod tally;
mod worker;

#[expect(
    dead_code,
    reason = "a soak goes on after what it finds, so it asserts nothing"
)]
#[path = "../../../tests/common/books.rs"]
mod books;
#[path = "../demo/protocol.rs"]
mod protocol;
#[path = "../demo/random.rs"]
mod random;
#[path = "../demo/server.rs"]
mod server;

use std::io::{self, Write as _};
use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Eviction, PipelineStats, Pool, Stats};

use args::{Args, Part};
use census::Census;
use chaos::{Client, Fault, panic_quietly};
use ledger::{Kind, Ledger};
use server::Unruly;
use sharing::{BUFFERS, Shared, share};
use tally::{Histogram, Tally, lock};
use worker::{LIMIT, World, work};

/// How often the server's fate is decided.
const TICK: Duration = Duration::from_millis(100);

/// Far longer than any call here lasts; a thread that is not done by then never will be.
const STUCK: Duration = Duration::from_secs(60);

/// What there is beside the main thread while a pool and its server idle.
const IDLE_DESCRIPTORS: usize = 1; // the server's listener
const IDLE_THREADS: usize = 2; // the server's acceptor and the pool's reaper
const IDLE_THREADS_SHARED: usize = 1; // the other pool's

fn main() -> ExitCode {
    let args = match args::read() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(findings) if findings.is_empty() => {
            say("\nnothing wrong, nothing lost, nothing left over");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            say("\nFOUND:");
            for finding in findings {
                say(&format!("  {finding}"));
            }
            ExitCode::from(1)
        }
        Err(text) => {
            eprintln!("soak: {text}");
            ExitCode::from(2)
        }
    }
}

/// What was found to be wrong; an error is why it could not start.
fn run(args: &Args) -> Result<Vec<String>, String> {
    let warm_up = (args.duration() / 5).min(Duration::from_secs(60));
    let counted = args.duration().saturating_sub(warm_up);
    say(&format!(
        "{} threads, {} callers, {LIMIT} connections, {} s, the first {} to warm up; --seed {}",
        args.threads,
        args.callers,
        args.duration().as_secs(),
        warm_up.as_secs(),
        args.seed
    ));
    let tally = Arc::new(Tally::new());
    let ledger = Arc::new(Ledger::new(&tally));
    let before = Census::now();
    let witness = {
        let ledger = Arc::clone(&ledger);
        move |line: &[u8]| ledger.saw(line)
    };
    let mut server = Unruly::start(args.seed, args.duration(), witness)
        .map_err(|error| format!("cannot start a server on 127.0.0.1: {error}"))?;
    let world = World::new(server.address().to_string(), args, tally, ledger);
    let pool = start(&world).map_err(|error| error.to_string())?;
    let shared = world
        .has(Part::Pipeline)
        .then(|| Shared::new(&world, &pool));
    let shared = shared.transpose().map_err(|error| error.to_string())?;
    let pools = Pools { pool, shared };

    soak(&world, &pools, &mut server, args, warm_up);
    let steady = quiesce(&world, &pools, &before);
    let (asked, since) = (world.tally.asked.load(Relaxed), Instant::now());
    soak(&world, &pools, &mut server, args, counted);
    let took = since.elapsed();
    let end = quiesce(&world, &pools, &before);

    let tally = &world.tally;
    let buffers = pools.shared.as_ref().map_or(0, |_| BUFFERS);
    if let Some(more) = end.growth(&steady, buffers) {
        tally.find(format!("the heap has grown by {more} since the warm-up"));
    }
    for census in [&steady, &end] {
        if let Some(more) = census.more_than(&before, IDLE_DESCRIPTORS, pools.idle_threads()) {
            tally.find(format!("left over while nothing is open: {more}"));
        }
    }
    report(
        &world,
        &pools,
        &server,
        took,
        tally.asked.load(Relaxed) - asked,
    );
    close_the_books(&world, &pools);
    drop(pools);
    drop(server);
    let after = Census::settled(&before, 0, 0);
    if let Some(more) = after.more_than(&before, 0, 0) {
        tally.find(format!("left over at the end: {more}"));
    }
    if let Some(more) = after.growth(&before, 0) {
        tally.find(format!("left over at the end: {more}"));
    }
    match world.chaos.clients.load(Relaxed) {
        0 => {}
        count => tally.find(format!("{count} clients were never dropped")),
    }
    title("left over");
    let stages = [
        ("before", &before),
        ("warm, nothing open", &steady),
        ("at the end, nothing open", &end),
        ("pool and server gone", &after),
    ];
    for (stage, census) in stages {
        say(&format!("  {stage:<28} {census}"));
    }
    Ok(tally.findings())
}

/// The pool under test, and the other one that shared calls have almost to themselves.
struct Pools {
    pool: Pool<Client>,
    shared: Option<Shared>,
}

impl Pools {
    fn idle_threads(&self) -> usize {
        IDLE_THREADS + self.shared.as_ref().map_or(0, |_| IDLE_THREADS_SHARED)
    }

    fn set_limit(&self, limit: usize) {
        self.pool.set_limit(limit);
        if let Some(shared) = &self.shared {
            shared.plain.set_limit(limit);
        }
    }
}

/// The pool under test.
fn start(world: &World) -> Result<Pool<Client>, jackpot::Error> {
    world
        .builder()
        .min_idle(2)
        .max_connecting(3)
        .idle_timeout(Some(Duration::from_millis(400)))
        .max_lifetime(Some(Duration::from_secs(1)))
        .reap_interval(Some(Duration::from_millis(20)))
        .on_event({
            let (chaos, tally) = (Arc::clone(&world.chaos), Arc::clone(&world.tally));
            move |event| {
                tally.hear(event);
                if chaos.strikes(Fault::EventPanics, 1000) {
                    panic_quietly();
                }
            }
        })
        .build()
}

/// All threads do whatever they like for so long, and so does the server.
fn soak(world: &World, pools: &Pools, server: &mut Unruly, args: &Args, length: Duration) {
    let pool = &pools.pool;
    pools.set_limit(LIMIT);
    world.chaos.be_calm(false);
    world.is_over.store(false, Relaxed);
    let started = Instant::now();
    thread::scope(|scope| {
        let mut workers: Vec<_> = (0..args.threads)
            .map(|number| scope.spawn(move || work(world, pool, number)))
            .collect();
        if let Some(shared) = &pools.shared {
            let numbers = args.threads..args.threads + args.callers;
            let callers = numbers.map(|n| scope.spawn(move || share(world, shared, n)));
            workers.extend(callers);
        }
        let mut told = 0;
        let mut is_failed = false;
        while started.elapsed() < length && !is_failed {
            thread::sleep(TICK.min(length.saturating_sub(started.elapsed())));
            if world.has(Part::Restarts) {
                server.tick();
            }
            is_failed = workers.iter().any(thread::ScopedJoinHandle::is_finished);
            let minutes = started.elapsed().as_secs() / 60;
            if minutes > told {
                told = minutes;
                let asked = world.tally.asked.load(Relaxed);
                say(&format!(
                    "{minutes:>4} min, {asked} requests; {}",
                    pool.stats()
                ));
            }
        }
        world.is_over.store(true, Relaxed);
        world.chaos.be_calm(true);
        server.calm_down();
        let deadline = Instant::now() + STUCK;
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            if Instant::now() > deadline {
                say(&format!(
                    "FOUND: a thread is stuck: {}\n{:#?}",
                    pool.stats(),
                    pool.connections()
                ));
                if let Some(shared) = &pools.shared {
                    say(&format!("{}\n{:#?}", shared.plain.stats(), shared.stats()));
                }
                process::exit(1);
            }
            thread::sleep(TICK);
        }
    });
}

/// Suspends the pools, and counts when nothing is open.
fn quiesce(world: &World, pools: &Pools, before: &Census) -> Census {
    pools.pool.set_factory(world.factory());
    pools.set_limit(0);
    check_suspended(world, &pools.pool);
    if let Some(shared) = &pools.shared {
        check_suspended(world, &shared.plain);
        for (name, _, stats) in shared.stats() {
            // A lane whose last caller gave up stands in its numbers until the next one comes.
            if stats.queued > 0 {
                let text = format!("a pipeline that nobody uses ({name}): {stats}");
                world.tally.find(text);
            }
        }
    }
    Census::settled(before, IDLE_DESCRIPTORS, pools.idle_threads())
}

fn check_suspended<C: Send + 'static>(world: &World, pool: &Pool<C>) {
    let is_drained = pool.drain(STUCK);
    let stats = pool.stats();
    let left = (stats.open, stats.connecting, stats.waiting);
    if !is_drained || left != (0, 0, 0) {
        world.tally.find(format!("a suspended pool: {stats}"));
    }
}

/// The pool still works, up to its limit; then it ends, and everything that happened adds up.
fn close_the_books(world: &World, pools: &Pools) {
    let tally = &world.tally;
    pools.set_limit(LIMIT);
    let patient = Backoff::new()
        .retries(1000)
        .min(Duration::from_millis(1))
        .max(Duration::from_millis(20));
    let _ = pools.pool.set_backoff(patient);
    let leases = tally.leases.load(Relaxed) + fill(world, &pools.pool);
    let stats = end(world, &pools.pool);
    let heard = |counter: &AtomicU64| counter.load(Relaxed);
    let events = &tally.events;
    title("the books");
    balance(
        tally,
        "connects = events",
        stats.connects,
        heard(&events.connected),
    );
    balance(
        tally,
        "releases = events",
        stats.releases,
        heard(&events.evicted),
    );
    let failures = stats.connect_failures;
    balance(
        tally,
        "connect failures = events",
        failures,
        heard(&events.failed),
    );
    let Some(shared) = &pools.shared else {
        balance(
            tally,
            "allocations = successful pulls",
            stats.allocations,
            leases,
        );
        return;
    };
    let leases_of_plain = heard(&tally.plain_leases) + fill(world, &shared.plain);
    let stats_of_plain = end(world, &shared.plain);
    // A pipeline's leases are nobody else's.
    for (stats, leases) in [(&stats, leases), (&stats_of_plain, leases_of_plain)] {
        balance_by(
            tally,
            "allocations > pulls of callers",
            stats.allocations,
            leases,
            |a, b| a > b,
        );
    }
    for kind in [Kind::Once, Kind::Twice] {
        balance_calls(tally, kind, shared);
    }
    shared.check_ended(tally);
}

/// The calls of one kind, as the callers and the pipelines counted them.
fn balance_calls(tally: &Tally, kind: Kind, shared: &Shared) {
    let of_kind = shared.stats().into_iter().filter(|(_, of, _)| *of == kind);
    let of_kind: Vec<_> = of_kind.map(|(_, _, stats)| stats).collect();
    let told = |field: fn(&PipelineStats) -> u64| of_kind.iter().map(field).sum::<u64>();
    let calls = &tally.calls[kind as usize];
    let heard = |counter: &AtomicU64| counter.load(Relaxed);
    say(&format!("  shared calls, {kind:?}"));
    let ends = [
        &calls.replies,
        &calls.lost,
        &calls.no_connection,
        &calls.timed_out,
    ];
    let ends = ends.into_iter().map(heard).sum();
    balance(tally, "  calls = ends", heard(&calls.all), ends);
    balance(
        tally,
        "  time-outs",
        told(|s| s.timeouts),
        heard(&calls.timed_out),
    );
    if kind == Kind::Once {
        balance(
            tally,
            "  abandoned = timed out and sent",
            told(|s| s.abandoned),
            heard(&calls.of_them_sent),
        );
        balance(tally, "  lost", told(|s| s.lost), heard(&calls.lost));
        balance(tally, "  repeated", told(|s| s.repeated), 0);
    }
    let (sent, replies, lost) = (told(|s| s.calls), told(|s| s.replies), told(|s| s.lost));
    let at_most = |a, b| a <= b;
    balance_by(
        tally,
        "  replies + lost <= sent",
        replies + lost,
        sent,
        at_most,
    );
    let ends = replies + lost + told(|s| s.abandoned);
    balance_by(
        tally,
        "  sent <= replies + lost + abandoned",
        sent,
        ends,
        at_most,
    );
    balance_by(
        tally,
        "  replies had <= replies read",
        heard(&calls.replies),
        replies,
        at_most,
    );
}

fn balance(tally: &Tally, what: &str, left: u64, right: u64) {
    balance_by(tally, what, left, right, |left, right| left == right);
}

fn balance_by(tally: &Tally, what: &str, left: u64, right: u64, holds: fn(u64, u64) -> bool) {
    say(&format!("  {what:<42} {left} and {right}"));
    if !holds(left, right) {
        tally.find(format!("{what}: {left} and {right}"));
    }
}

/// Takes all connections that the limit allows at once; how many.
fn fill<C: Send + 'static>(world: &World, pool: &Pool<C>) -> u64 {
    let held: Vec<_> = (0..LIMIT)
        .filter_map(|_| pool.pull_timeout(STUCK).ok())
        .collect();
    if held.len() < LIMIT || !pool.allocate().is_err_and(|error| error.is_full()) {
        let text = format!("it does not work any more: {}", pool.stats());
        world.tally.find(text);
    }
    held.len() as u64
}

/// Ends the pool; nothing of it is left.
fn end<C: Send + 'static>(world: &World, pool: &Pool<C>) -> Stats {
    pool.end();
    let is_drained = pool.drain(STUCK);
    let stats = pool.stats();
    world.tally.check(&stats, LIMIT);
    if !is_drained || sum(&stats) > 0 || stats.connects != stats.releases {
        world.tally.find(format!("an ended pool: {stats}"));
    }
    stats
}

fn sum(stats: &Stats) -> u64 {
    (stats.open + stats.leased + stats.waiting + stats.connecting) as u64
}

fn report(world: &World, pools: &Pools, server: &Unruly, took: Duration, asked: u64) {
    let tally = &world.tally;
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    title("requests");
    row("asked", read(&tally.asked));
    row("asked since the warm-up", asked);
    row("  each second", asked / took.as_secs().max(1));
    row("answered", read(&tally.answered));
    row("met a fault", read(&tally.troubled));
    row("wrong replies", read(&tally.wrong));
    title("calls");
    row("actions", read(&tally.actions));
    row("leases", read(&tally.leases));
    row("pulls that failed", read(&tally.refused));
    row("free", read(&tally.frees));
    row("limits lowered and raised", read(&tally.limits));
    row("leases with a deadline", read(&tally.deadlines));
    row("requests that may be sent again", read(&tally.retries));
    row("other pools built and ended", read(&tally.guests));
    title("pull, µs");
    quantiles(&tally.pulls);
    row("worst excess of a time-out", read(&tally.overshoot) / 1000);
    row(
        "worst excess over a deadline",
        read(&tally.deadline_overshoot) / 1000,
    );
    if let Some(shared) = &pools.shared {
        report_sharing(tally, shared);
    }
    title("faults injected");
    row("server: restarted", server.restarts());
    for (what, count) in server.record() {
        row(&format!("server: {what}"), count);
    }
    for (what, count) in world.chaos.record() {
        row(what, count);
    }
    let stats = pools.pool.stats();
    title("connections");
    row("made", stats.connects);
    row("failed to connect", stats.connect_failures);
    row("left", stats.releases);
    for why in Eviction::all() {
        row(&format!("  {why}"), stats.evicted(why));
    }
}

fn report_sharing(tally: &Tally, shared: &Shared) {
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    for kind in [Kind::Once, Kind::Twice] {
        let calls = &tally.calls[kind as usize];
        title(&format!("shared calls, {kind:?}"));
        row("calls", read(&calls.all));
        row("replies", read(&calls.replies));
        row("lost", read(&calls.lost));
        row("no connection", read(&calls.no_connection));
        row("timed out", read(&calls.timed_out));
        row("  of them sent", read(&calls.of_them_sent));
    }
    title("pipelines");
    for (name, _, stats) in shared.stats() {
        say(&format!("  {name}: {stats}"));
    }
    title("shared calls, µs");
    quantiles(&tally.call_times);
    row(
        "worst excess of a time-out",
        read(&tally.call_overshoot) / 1000,
    );
    row(
        "  of a thread that only sleeps",
        read(&tally.sleep_overshoot) / 1000,
    );
    row("leases beside them", read(&tally.plain_leases));
}

fn quantiles(times: &Mutex<Histogram>) {
    let times = lock(times);
    row("p50", times.value_at_quantile(0.5) / 1000);
    row("p99", times.value_at_quantile(0.99) / 1000);
    row("worst", times.max() / 1000);
}

fn title(text: &str) {
    say(&format!("\n{text}"));
}

fn row(name: &str, count: u64) {
    say(&format!("  {name:<34} {count:>10}"));
}

/// Prints a line; that nobody reads it any more is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
