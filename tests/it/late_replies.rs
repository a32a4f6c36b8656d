//! Whoever reads a reply, it is the reply to its own request: the point of the whole bookkeeping.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use jackpot::{Builder, Connection, Eviction, Pool};

use crate::support::{Act, SOON, Server, ask, assert_sums, eventually, panic_quietly};

const CALLERS: u64 = 12;
const REQUESTS: u64 = 250;
/// Fewer than callers, so that connections pass from hand to hand too.
const LIMIT: usize = 6;
/// How long a caller waits; the server takes up to twice as long.
///
/// The timers of Windows are coarser.
const TIMEOUT: Duration = Duration::from_millis(if cfg!(windows) { 32 } else { 4 });

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Answered,
    /// The reply was another request's.
    Wrong,
    /// No reply in time, or the connection broke.
    Failed,
    /// The caller left without reading the reply.
    Abandoned,
    /// The caller left in the middle of the reply, and said so.
    Discarded,
    Panicked,
}

type Outcomes = BTreeMap<Outcome, u64>;

/// A number that looks random, for each pair of numbers the same one.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `JACKPOT_SEED` repeats the choices of a run; the threads' timing is another's.
fn seed() -> u64 {
    let seed = match std::env::var("JACKPOT_SEED") {
        Ok(given) => given.parse().expect("JACKPOT_SEED is a number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    eprintln!("to see it again: JACKPOT_SEED={seed}");
    seed
}

/// A server that answers around its callers' time-out, and sometimes too much.
fn late_server(seed: u64) -> Server {
    Server::new(move |n| {
        let random = mix(seed, n as u64);
        match random % 100 {
            0..10 => Act::Stray,
            10..12 => Act::Fin,
            12..14 => Act::Rst,
            14..16 => Act::Half,
            16..18 => Act::EchoFin,
            18..20 => Act::Stall,
            // Half of these come too late.
            _ => Act::Late(2 * TIMEOUT / 256 * u32::from(random.to_be_bytes()[0])),
        }
    })
}

/// One request by one caller, who may behave in any way that callers do.
fn call(pool: &Pool, random: u64, line: &str, finishes: bool) -> Outcome {
    let mut lease = pool.pull().unwrap();
    match random % 100 {
        0..8 => match leave_early(&mut lease, line) {
            Ok(()) | Err(_) => Outcome::Abandoned,
        },
        8..12 => {
            let _ = leave_early(&mut lease, line);
            let _ = lease.read(&mut [0; 4]);
            Connection::discard(lease);
            Outcome::Discarded
        }
        12..20 => {
            let _ = leave_early(&mut lease, line);
            panic_quietly()
        }
        20..24 => {
            let _ = ask(&mut *lease, line);
            panic_quietly()
        }
        _ => match ask(&mut *lease, line) {
            Ok(reply) => {
                if finishes {
                    Connection::finish(lease);
                }
                if reply == line {
                    Outcome::Answered
                } else {
                    Outcome::Wrong
                }
            }
            Err(_) => Outcome::Failed,
        },
    }
}

fn leave_early(lease: &mut Connection, line: &str) -> io::Result<()> {
    lease.write_all(format!("{line}\n").as_bytes())
}

fn nobody_reads_another_callers_reply(
    finishes: bool,
    settings: impl FnOnce(Builder) -> Builder,
) -> (Pool, Outcomes) {
    let seed = seed();
    let server = late_server(seed);
    let builder = server
        .builder(LIMIT)
        .read_timeout(Some(TIMEOUT))
        .reap_interval(Some(TIMEOUT));
    let pool = settings(builder).build().unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut outcomes = Outcomes::new();
                for n in 0..REQUESTS {
                    let number = caller * REQUESTS + n;
                    let line = format!("request {number}");
                    let random = mix(!seed, number);
                    let called = AssertUnwindSafe(|| call(&pool, random, &line, finishes));
                    let outcome = catch_unwind(called).unwrap_or(Outcome::Panicked);
                    *outcomes.entry(outcome).or_default() += 1;
                }
                outcomes
            })
        })
        .collect();
    let mut outcomes = Outcomes::new();
    for caller in callers {
        for (outcome, count) in caller.join().unwrap() {
            *outcomes.entry(outcome).or_default() += count;
        }
    }
    eprintln!("{outcomes:?}, {}", pool.stats());
    assert_eq!(outcomes.get(&Outcome::Wrong), None, "another's reply");
    books_balance(&pool);
    // Else this has tested nothing.
    for outcome in [Outcome::Answered, Outcome::Failed, Outcome::Abandoned] {
        assert!(outcomes[&outcome] > CALLERS, "{outcome:?}");
    }
    (pool, outcomes)
}

/// Nothing is out, nobody waits, and whatever was made is here or has left for one reason.
fn books_balance(pool: &Pool) {
    eventually("all is over", || {
        let stats = pool.stats();
        stats.leased + stats.connecting + stats.waiting == 0
    });
    let stats = pool.stats();
    assert_eq!(stats.allocations, CALLERS * REQUESTS);
    assert_sums(&stats);
    assert_eq!(stats.connect_failures, 0);
    assert!(stats.open <= LIMIT);
    pool.end();
    assert!(pool.drain(SOON));
    assert_eq!(pool.stats().releases, stats.connects);
}

#[test]
fn nobody_reads_the_late_reply_to_anothers_request() {
    let (pool, outcomes) = nobody_reads_another_callers_reply(false, |b| b);
    let stats = pool.stats();
    assert!(stats.evicted(Eviction::Unread) > CALLERS, "{stats}");
    assert!(stats.evicted(Eviction::Unanswered) > CALLERS, "{stats}");
    let panicked = stats.evicted(Eviction::Panicked);
    assert_eq!(panicked, outcomes[&Outcome::Panicked], "{stats}");
}

#[test]
fn with_only_finished_nobody_reads_the_late_reply_to_anothers_request() {
    let (pool, outcomes) = nobody_reads_another_callers_reply(true, |b| b.only_finished(true));
    let stats = pool.stats();
    assert!(stats.evicted(Eviction::Unread) > CALLERS, "{stats}");
    assert!(stats.evicted(Eviction::Unfinished) > CALLERS, "{stats}");
    let panicked = stats.evicted(Eviction::Panicked);
    assert_eq!(panicked, outcomes[&Outcome::Panicked], "{stats}");
}
