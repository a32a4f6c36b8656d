//! A soak: every method of the pool at random for as long as you like, and nothing left over.
//!
//! `cargo run --release --example soak -- --seconds 60`; with `-- --help` it explains itself.

mod args;
mod census;
mod chaos;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Eviction, Pool};

use args::{Args, Part};
use census::Census;
use chaos::{Client, Fault, panic_quietly};
use server::Unruly;
use tally::{Tally, lock};
use worker::{LIMIT, World, work};

/// How often the server's fate is decided.
const TICK: Duration = Duration::from_millis(100);

/// Far longer than any call here lasts; a thread that is not done by then never will be.
const STUCK: Duration = Duration::from_secs(60);

/// What there is beside the main thread while a pool and its server idle.
const IDLE_DESCRIPTORS: usize = 1; // the server's listener
const IDLE_THREADS: usize = 2; // the server's acceptor and the pool's reaper

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
        "{} threads, {LIMIT} connections, {} s, the first {} of them to warm up; --seed {}",
        args.threads,
        args.duration().as_secs(),
        warm_up.as_secs(),
        args.seed
    ));
    let tally = Arc::new(Tally::new());
    let before = Census::now();
    let mut server = Unruly::start(args.seed, args.duration())
        .map_err(|error| format!("cannot start a server on 127.0.0.1: {error}"))?;
    let world = World::new(server.address().to_string(), args, tally);
    let pool = start(&world).map_err(|error| error.to_string())?;

    soak(&world, &pool, &mut server, args.threads, warm_up);
    let steady = quiesce(&world, &pool, &before);
    let (asked, since) = (world.tally.asked.load(Relaxed), Instant::now());
    soak(&world, &pool, &mut server, args.threads, counted);
    let took = since.elapsed();
    let end = quiesce(&world, &pool, &before);

    let tally = &world.tally;
    if let Some(more) = end.growth(&steady) {
        tally.find(format!("the heap has grown by {more} since the warm-up"));
    }
    for census in [&steady, &end] {
        if let Some(more) = census.more_than(&before, IDLE_DESCRIPTORS, IDLE_THREADS) {
            tally.find(format!("left over while nothing is open: {more}"));
        }
    }
    report(
        &world,
        &pool,
        &server,
        took,
        tally.asked.load(Relaxed) - asked,
    );
    close_the_books(&world, &pool);
    drop(pool);
    drop(server);
    let after = Census::settled(&before, 0, 0);
    if let Some(more) = after.more_than(&before, 0, 0) {
        tally.find(format!("left over at the end: {more}"));
    }
    if let Some(more) = after.growth(&before) {
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
fn soak(world: &World, pool: &Pool<Client>, server: &mut Unruly, threads: u64, length: Duration) {
    pool.set_limit(LIMIT);
    world.chaos.be_calm(false);
    world.is_over.store(false, Relaxed);
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| scope.spawn(move || work(world, pool, number)))
            .collect();
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
                process::exit(1);
            }
            thread::sleep(TICK);
        }
    });
}

/// Suspends the pool, and counts when nothing is open.
fn quiesce(world: &World, pool: &Pool<Client>, before: &Census) -> Census {
    pool.set_factory(world.factory());
    pool.set_limit(0);
    let is_drained = pool.drain(STUCK);
    let stats = pool.stats();
    let left = (stats.open, stats.connecting, stats.waiting);
    if !is_drained || left != (0, 0, 0) {
        world.tally.find(format!("a suspended pool: {stats}"));
    }
    Census::settled(before, IDLE_DESCRIPTORS, IDLE_THREADS)
}

/// The pool still works, up to its limit; then it ends, and everything that happened adds up.
fn close_the_books(world: &World, pool: &Pool<Client>) {
    let tally = &world.tally;
    pool.set_limit(LIMIT);
    let patient = Backoff::new()
        .retries(1000)
        .min(Duration::from_millis(1))
        .max(Duration::from_millis(20));
    let _ = pool.set_backoff(patient);
    let held: Vec<_> = (0..LIMIT)
        .filter_map(|_| pool.pull_timeout(STUCK).ok())
        .collect();
    let leases = tally.leases.load(Relaxed) + held.len() as u64;
    if held.len() < LIMIT || !pool.allocate().is_err_and(|error| error.is_full()) {
        tally.find(format!("it does not work any more: {}", pool.stats()));
    }
    drop(held);
    pool.end();
    let is_drained = pool.drain(STUCK);
    let stats = pool.stats();
    tally.check(&stats, LIMIT);
    let heard = |counter: &AtomicU64| counter.load(Relaxed);
    let entries = [
        ("drained", u64::from(is_drained), 1),
        ("open + leased + waiting + connecting = 0", sum(&stats), 0),
        ("connects = releases", stats.connects, stats.releases),
        ("allocations = successful pulls", stats.allocations, leases),
        (
            "connects = events",
            stats.connects,
            heard(&tally.events.connected),
        ),
        (
            "releases = events",
            stats.releases,
            heard(&tally.events.evicted),
        ),
        (
            "connect failures = events",
            stats.connect_failures,
            heard(&tally.events.failed),
        ),
    ];
    title("the books");
    for (what, left, right) in entries {
        say(&format!("  {what:<42} {left} and {right}"));
        if left != right {
            tally.find(format!("{what}: {left} and {right}"));
        }
    }
}

fn sum(stats: &jackpot::Stats) -> u64 {
    (stats.open + stats.leased + stats.waiting + stats.connecting) as u64
}

fn report(world: &World, pool: &Pool<Client>, server: &Unruly, took: Duration, asked: u64) {
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
    let pulls = lock(&tally.pulls);
    title("pull, µs");
    row("p50", pulls.value_at_quantile(0.5) / 1000);
    row("p99", pulls.value_at_quantile(0.99) / 1000);
    row("worst", pulls.max() / 1000);
    row("worst excess of a time-out", read(&tally.overshoot) / 1000);
    row(
        "worst excess over a deadline",
        read(&tally.deadline_overshoot) / 1000,
    );
    drop(pulls);
    title("faults injected");
    row("server: restarted", server.restarts());
    for (what, count) in server.record() {
        row(&format!("server: {what}"), count);
    }
    for (what, count) in world.chaos.record() {
        row(what, count);
    }
    let stats = pool.stats();
    title("connections");
    row("made", stats.connects);
    row("failed to connect", stats.connect_failures);
    row("left", stats.releases);
    for why in Eviction::all() {
        row(&format!("  {why}"), stats.evicted(why));
    }
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
