//! A service at its limit and beyond: how many answers come while somebody still waits for them.
//!
//! The pool, its threads and its sockets are real. What is scarce is the server, which works on
//! eight requests at once and takes ten milliseconds for each, asleep: so its capacity is the same
//! on a busy machine, and two processors are enough for three times as many callers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Spread, milliseconds};
use crate::peers;
use crate::report::Goal;
use crate::rows::Bench;
use crate::rows::growth::Growth;

const LOADS: [u32; 9] = [50, 75, 90, 100, 125, 150, 200, 250, 300];
const WORKERS: usize = 8;
const WORK: Duration = Duration::from_millis(10);
/// How long a caller waits for its answer, from the moment at which it wants one.
const TIME_OUT: Duration = Duration::from_millis(100);
/// As many as are served in half that time.
const BOUND: usize = 40;
/// More than arrive within it at three times the capacity, with room for stragglers.
const CALLERS: usize = 600;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let server = start_server()?;
    let rounds = bench.rounds(1, 3);
    let how_long = Duration::from_millis(if bench.quick { 700 } else { 1_500 });
    let capacity = WORKERS as f64 / WORK.as_secs_f64();
    let kinds = [
        ("a line without a bound", None),
        ("at most 40 in line", Some(BOUND)),
        ("nobody in line", Some(0)),
    ];
    let mut curves = kinds.map(|(name, _)| Growth::new(name));
    for load in LOADS {
        let mut outcomes: [Vec<Outcome>; 3] = Default::default();
        for round in 0..rounds {
            for turn in 0..kinds.len() {
                let who = (round + turn) % kinds.len();
                let rate = capacity * f64::from(load) / 100.0;
                outcomes[who].push(serve(server, rate, how_long, kinds[who].1));
            }
        }
        for (((kind, _), outcomes), curve) in kinds.iter().zip(&outcomes).zip(&mut curves) {
            let spread =
                |pick: fn(&Outcome) -> f64| Spread::of(outcomes.iter().map(pick).collect());
            let goodput = spread(|outcome| outcome.in_time).over(capacity);
            curve.costs.push((load as usize, goodput.over(0.01)));
            if [100, 200, 300].contains(&load) {
                let name = format!("{load} % of the capacity, {kind}");
                let goal = match (load, *kind) {
                    (200, "at most 40 in line") => Goal::AtLeast(0.9),
                    _ => Goal::None,
                };
                let report = &mut bench.report;
                report.add(&name, "answers in time / capacity", goal, goodput);
                if goodput.median > 0.0 {
                    let median = spread(|outcome| outcome.median);
                    report.add(&name, "median of those, ms", Goal::None, median);
                }
            }
        }
    }
    bench.plots.goodput = curves.to_vec();
    Ok(())
}

/// How a service fared.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Answers in time, per second.
    in_time: f64,
    /// The median of how long they took, in milliseconds.
    median: f64,
}

/// Lets callers come at random, so many in a second, whether or not others have been served.
fn serve(address: SocketAddr, rate: f64, how_long: Duration, bound: Option<usize>) -> Outcome {
    let builder = jackpot::Pool::builder(move || peers::connect(address));
    let pool = peers::filled(builder.max_waiting(bound), WORKERS);
    let warm_up = TIME_OUT * 3;
    let arrivals = arrivals(rate, warm_up + how_long);
    let begun = Instant::now() + Duration::from_millis(50);
    let next = AtomicU64::new(0);
    let mut times = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn_scoped(scope, || {
                        let mut times = Vec::new();
                        // Whoever is free takes the next arrival.
                        while let Some(&at) = arrivals.get(index(next.fetch_add(1, Relaxed))) {
                            let wanted = begun + at;
                            thread::sleep(wanted.saturating_duration_since(Instant::now()));
                            let answered = ask(&pool, wanted + TIME_OUT).is_ok();
                            let took = wanted.elapsed();
                            if answered && took <= TIME_OUT && at >= warm_up {
                                times.push(milliseconds(took));
                            }
                        }
                        times
                    })
                    .expect("a thread for each caller")
            })
            .collect();
        let callers = callers.into_iter();
        callers
            .flat_map(|caller| caller.join().expect("no caller panics"))
            .collect::<Vec<f64>>()
    });
    times.sort_by(f64::total_cmp);
    Outcome {
        in_time: times.len() as f64 / how_long.as_secs_f64(),
        median: times.get(times.len() / 2).copied().unwrap_or(f64::NAN),
    }
}

/// One request of a caller that is gone at the deadline.
fn ask(pool: &jackpot::Pool, deadline: Instant) -> io::Result<()> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut connection = pool.pull_timeout(left())?;
    let rest = left().max(Duration::from_millis(1));
    connection.set_read_timeout(Some(rest))?;
    connection.write_all(b"?")?;
    connection.read_exact(&mut [0])
}

/// When callers come, as they do who know nothing of each other.
fn arrivals(rate: f64, how_long: Duration) -> Vec<Duration> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut at = 0.0;
    let mut arrivals = Vec::new();
    loop {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let uniform = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        at -= uniform.ln() / rate;
        if at >= how_long.as_secs_f64() {
            return arrivals;
        }
        arrivals.push(Duration::from_secs_f64(at));
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Eight workers, each with one connection at a time, until the program ends.
///
/// An answer that nobody waits for any more takes as long as another one.
fn start_server() -> io::Result<SocketAddr> {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0")?);
    let address = listener.local_addr()?;
    for _ in 0..WORKERS {
        let listener = Arc::clone(&listener);
        thread::spawn(move || {
            while let Ok((mut peer, _)) = listener.accept() {
                let mut byte = [0];
                while let Ok(1) = peer.read(&mut byte) {
                    thread::sleep(WORK);
                    if peer.write_all(&byte).is_err() {
                        break;
                    }
                }
            }
        });
    }
    Ok(address)
}
