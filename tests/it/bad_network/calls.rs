//! Shared calls over a bad network.
//!
//! The server is one that keeps books: of which requests it has seen the beginning, and how often
//! it has executed each.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use jackpot::{CallError, Pipeline};

use super::*;
use crate::support::lateness::Lateness;
use crate::support::{Background, background, eventually, happens_within, in_one_of_a_few_tries};

const CALLERS: usize = 24;
/// Those behind them wait for others' replies.
const IN_FLIGHT: usize = 8;

#[derive(Clone, Copy, Default)]
struct Seen {
    begun: bool,
    executed: usize,
}

type Books = Mutex<HashMap<usize, Seen>>;

/// Serves lines on this address, and tells what it has seen when it is asked.
pub(super) fn serve(address: &str) {
    let address: IpAddr = address.parse().unwrap();
    let listener = TcpListener::bind((address, 0)).unwrap();
    println!("serving on {}", listener.local_addr().unwrap());
    let books: Arc<Books> = Arc::default();
    let told = Arc::clone(&books);
    thread::spawn(move || {
        for _order in io::stdin().lines() {
            let books = told.lock().unwrap();
            let seen = books.iter().map(|(number, seen)| {
                let begun = u8::from(seen.begun);
                format!("{number}:{begun}:{}", seen.executed)
            });
            println!("seen: {}", seen.collect::<Vec<_>>().join(" "));
        }
    });
    for socket in listener.incoming().flatten() {
        let books = Arc::clone(&books);
        thread::spawn(move || echo_lines(&socket, &books));
    }
}

fn echo_lines(mut socket: &TcpStream, books: &Books) {
    let mut lines = BufReader::new(socket);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        if let Some(number) = line.get(..8) {
            let number = std::str::from_utf8(number).unwrap().parse().unwrap();
            let mut books = books.lock().unwrap();
            let seen = books.entry(number).or_default();
            seen.begun = true;
            seen.executed += usize::from(line.ends_with(b"\n"));
        }
        if socket.write_all(&line).is_err() {
            return;
        }
        line.clear();
    }
}

/// Small ones, those of some packets, and now and then one that goes out alone.
fn request(number: usize) -> String {
    let length = match number % 40 {
        7 => 20_000,
        n if n % 4 == 0 => 4_000,
        _ => 200,
    };
    format!("{number:08}{}\n", ".".repeat(length))
}

/// Callers at work, half of them on a pipeline that sends again what was lost.
struct Calls {
    once: Pipeline<String>,
    twice: Pipeline<String>,
    progress: Arc<Progress>,
    threads: Vec<Background<()>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    next: AtomicUsize,
    replies: AtomicUsize,
    lost: AtomicUsize,
    timed_out: AtomicUsize,
    unsent: Mutex<Vec<usize>>,
    faults: Mutex<Vec<String>>,
    lateness: Lateness,
}

impl Calls {
    /// How long each call has, by its number.
    fn start(pool: &Pool, timeout: fn(usize) -> Duration) -> Self {
        let pipeline = |repeatable| {
            Pipeline::builder(pool.clone(), crate::pipeline::line)
                .lanes(2)
                .max_in_flight(IN_FLIGHT)
                .repeatable(repeatable)
                .build()
                .unwrap()
        };
        let (once, twice) = (pipeline(false), pipeline(true));
        let progress = Arc::new(Progress::default());
        let callers = (0..CALLERS).map(|me| {
            let pipeline = if me % 2 == 0 { &once } else { &twice }.clone();
            let progress = Arc::clone(&progress);
            background(move || progress.work(me, &pipeline, timeout))
        });
        let threads = callers.collect();
        Self {
            once,
            twice,
            progress,
            threads,
        }
    }

    /// Waits until there are so many more replies.
    fn hear(&self, replies: usize) {
        let goal = self.progress.replies.load(SeqCst) + replies;
        eventually("callers get replies", || {
            let faults = self.progress.faults.lock().unwrap().clone();
            assert!(faults.is_empty(), "{faults:#?}");
            self.progress.replies.load(SeqCst) >= goal
        });
    }

    /// Stops the callers, ends the pool, and compares its books with the server's.
    fn end(mut self, network: &Network, opened: &Opened) {
        let progress = &self.progress;
        progress.stop.store(true, SeqCst);
        progress.lateness.end();
        for thread in std::mem::take(&mut self.threads) {
            thread.join();
        }
        progress.lateness.check();
        let faults = progress.faults.lock().unwrap();
        assert!(faults.is_empty(), "{faults:#?}");
        let pool = self.once.pool();
        for pipeline in [&self.once, &self.twice] {
            // Whatever drifts still is drained or replaced by who comes next.
            eventually("all is quiet", || {
                let _ = pipeline.call_timeout(b"calm\n", SOON);
                let stats = pipeline.stats();
                (stats.queued, stats.in_flight, stats.lanes) == (0, 0, 0)
            });
        }
        pool.end();
        assert!(pool.drain(SOON));
        assert_over(&pool.stats());
        eventually("every socket is closed", || opened.left() == 0);
        let stats = [self.once.stats(), self.twice.stats()];
        let mut timeouts = 0;
        for stats in &stats {
            println!("{stats}");
            let ends = stats.replies + stats.lost;
            let is_balanced = ends <= stats.calls && stats.calls <= ends + stats.abandoned;
            assert!(is_balanced, "{stats}");
            timeouts += stats.timeouts;
        }
        assert_eq!(timeouts, progress.timed_out.load(SeqCst) as u64);
        assert_eq!(stats[0].repeated, 0);
        let seen = network.seen();
        for (number, seen) in &seen {
            let most = if number % 2 == 0 { 1 } else { 2 };
            assert!(seen.executed <= most, "{number} was executed too often");
        }
        for number in progress.unsent.lock().unwrap().iter() {
            let is_seen = seen.contains_key(number);
            assert!(
                !is_seen,
                "{number} was called unsent, and the server saw it"
            );
        }
    }
}

/// Stops the threads when a test fails, too.
impl Drop for Calls {
    fn drop(&mut self) {
        self.progress.stop.store(true, SeqCst);
    }
}

impl Progress {
    fn work(&self, me: usize, pipeline: &Pipeline<String>, timeout: fn(usize) -> Duration) {
        thread::scope(|scope| {
            scope.spawn(|| self.lateness.sleep((me..).map(timeout)));
            while !self.stop.load(SeqCst) {
                // The even ones are those that may not be repeated.
                let number = self.next.fetch_add(1, SeqCst) * 2 + me % 2;
                self.call(number, pipeline, timeout(number));
            }
        });
    }

    fn call(&self, number: usize, pipeline: &Pipeline<String>, timeout: Duration) {
        let request = request(number);
        let begun = Instant::now();
        let result = pipeline.call_timeout(request.as_bytes(), timeout);
        self.lateness.call(timeout, begun.elapsed());
        if matches!(&result, Err(error) if !error.was_sent()) {
            self.unsent.lock().unwrap().push(number);
        }
        match result {
            Ok(reply) if reply == request.trim_end() => self.replies.fetch_add(1, SeqCst),
            Err(CallError::TimedOut { .. }) => self.timed_out.fetch_add(1, SeqCst),
            Err(CallError::Lost(_)) => self.lost.fetch_add(1, SeqCst),
            result => {
                let text = format!("{number}: {result:?}").chars().take(200).collect();
                self.faults.lock().unwrap().push(text);
                0
            }
        };
    }
}

impl Network {
    fn seen(&self) -> HashMap<usize, Seen> {
        let mut server = self.server.lock().unwrap();
        server.order("what was seen");
        let told = server.hear("seen: ");
        let entries = told.split(' ').filter(|entry| !entry.is_empty());
        let entry = |text: &str| {
            let mut numbers = text.split(':').map(|number| number.parse().unwrap());
            let mut next = || numbers.next().unwrap();
            let (number, begun, executed) = (next(), next() > 0, next());
            (number, Seen { begun, executed })
        };
        entries.map(entry).collect()
    }
}

#[test]
fn shared_calls_outlast_packets_lost_late_and_out_of_order() {
    through_a_router(
        "bad_network::calls::shared_calls_outlast_packets_lost_late_and_out_of_order",
        |network| {
            let opened = Opened::default();
            let pool = network.builder(&opened).build().unwrap();
            let calls = Calls::start(&pool, |_| SOON);
            calls.hear(300);
            network.worsen(3, 20);
            calls.hear(1500);
            let count = network.count();
            println!("{count:?}, {}", pool.stats());
            let is_bad = count.lost > 20 && count.late > 100 && count.reordered > 100;
            assert!(is_bad, "{count:?}");
            network.mend();
            let progress = &calls.progress;
            let failed = (progress.lost.load(SeqCst), progress.timed_out.load(SeqCst));
            assert_eq!(failed, (0, 0), "bad packets cost more than time");
            calls.end(network, &opened);
        },
    );
}

/// With so short deadlines late replies come when nobody waits for them any more.
#[test]
fn replies_to_shared_calls_that_are_later_than_their_callers_deadlines_reach_nobody() {
    through_a_router(
        "bad_network::calls::\
         replies_to_shared_calls_that_are_later_than_their_callers_deadlines_reach_nobody",
        |network| {
            let opened = Opened::default();
            let builder = network.builder(&opened).read_timeout(Some(SECOND));
            let pool = builder.build().unwrap();
            let calls = Calls::start(&pool, |number| {
                Duration::from_millis(2 + number as u64 % 30)
            });
            calls.hear(100);
            network.worsen(2, 30);
            eventually("many have timed out", || {
                let stats = [calls.once.stats(), calls.twice.stats()];
                stats.iter().all(|stats| stats.abandoned > 150)
            });
            let count = network.count();
            println!("{count:?}, {}", pool.stats());
            assert!(count.late > 200, "{count:?}");
            network.mend();
            calls.hear(100);
            calls.end(network, &opened);
        },
    );
}

#[test]
fn a_network_that_is_cut_in_the_middle_of_shared_calls_harms_only_those() {
    through_a_router(
        "bad_network::calls::a_network_that_is_cut_in_the_middle_of_shared_calls_harms_only_those",
        |network| {
            let opened = Opened::default();
            let builder = network.builder(&opened).read_timeout(Some(SECOND / 3));
            let pool = builder.write_timeout(Some(SECOND / 3)).build().unwrap();
            // Some wait longer than the read timeout, whenever the network is cut, and some never so
            // long.
            let calls = Calls::start(&pool, |number| match number % 3 {
                0 => 2 * SECOND,
                _ => Duration::from_millis(100 + number as u64 % 7 * 20),
            });
            calls.hear(100);
            for packets in [1, 20, 50, 51, 52] {
                let harmed = || {
                    let progress = &calls.progress;
                    let stats = [calls.once.stats(), calls.twice.stats()];
                    let lost: u64 = stats.iter().map(|stats| stats.lost).sum();
                    (lost, progress.timed_out.load(SeqCst))
                };
                // A lane that is just being replaced has nothing to lose.
                in_one_of_a_few_tries("calls are lost, and others too late", || {
                    let before = (network.count().cut, harmed());
                    network.cut_after(packets);
                    eventually("it is cut", || network.count().cut > before.0);
                    let is_harmed = happens_within(3 * SECOND, || {
                        let (lost, timed_out) = harmed();
                        lost > before.1.0 && timed_out > before.1.1
                    });
                    network.mend();
                    calls.hear(200);
                    is_harmed
                });
            }
            let count = network.count();
            println!("{count:?}, {}", pool.stats());
            assert!(count.cut > 20, "{count:?}");
            let stats = calls.twice.stats();
            assert!(stats.repeated > 0, "{stats}");
            calls.end(network, &opened);
        },
    );
}
