//! Real servers that are killed and started again under many callers, and TLS.

use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::real::{self, Program};
use crate::tls::TlsServer;

/// How to add one to a counter, and what the server has counted.
struct Counter {
    add: &'static [u8],
    read: fn(&mut dyn BufRead) -> io::Result<u64>,
}

const MEMCACHED: Counter = Counter {
    add: b"incr jackpot 1\r\n",
    read: |reply| number(reply, ""),
};

const REDIS: Counter = Counter {
    add: b"*2\r\n$4\r\nINCR\r\n$7\r\njackpot\r\n",
    read: |reply| number(reply, ":"),
};

fn number(reply: &mut dyn BufRead, prefix: &str) -> io::Result<u64> {
    let mut text = String::new();
    reply.read_line(&mut text)?;
    match text.trim_end().strip_prefix(prefix).map(str::parse) {
        Some(Ok(number)) => Ok(number),
        _ if text == "NOT_FOUND\r\n" || text == "STORED\r\n" => Ok(0),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, text)),
    }
}

#[test]
fn callers_ride_out_the_death_of_memcached() {
    if let Some(server) = Program::start("memcached", real::memcached) {
        ride_out_deaths(server, &MEMCACHED, Some(b"add jackpot 0 0 1\r\n0\r\n"));
    }
}

#[test]
fn callers_ride_out_the_death_of_redis() {
    if let Some(server) = Program::start("redis-server", real::redis) {
        ride_out_deaths(server, &REDIS, None);
    }
}

/// 64 callers count while the server dies twice; it forgets its count each time. In each of its
/// lives no count comes twice, and at the end everybody is replies.
fn ride_out_deaths(mut server: Program, counter: &'static Counter, begin: Option<&'static [u8]>) {
    let address = server.address();
    let pool = Pool::builder(jackpot::Connector::new(address.to_string()))
        .limit(4)
        .read_timeout(Some(SOON / 2))
        .build()
        .unwrap();
    let pipeline = Pipeline::new(pool, counter.read);
    let life = AtomicUsize::new(0);
    let counts = Mutex::new(Vec::new());
    let (stop, replies) = (Count::default(), Count::default());
    let begin = || {
        if let Some(request) = begin {
            eventually("the counter is set", || {
                pipeline.call_timeout(request, SOON).is_ok()
            });
        }
    };
    begin();
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                while stop.get() == 0 {
                    let before = life.load(SeqCst);
                    let result = pipeline.call_timeout(counter.add, Duration::from_millis(500));
                    if let (Ok(count), true) = (result, before == life.load(SeqCst)) {
                        replies.up();
                        if count > 0 {
                            counts.lock().unwrap().push((before, count));
                        }
                    }
                }
            });
        }
        let calm = || {
            let goal = replies.get() + 1000;
            eventually("callers are replies", || replies.get() >= goal);
        };
        calm();
        for _ in 0..2 {
            life.fetch_add(1, SeqCst); // odd: it is dying, and what comes says nothing
            server.kill();
            let before = pipeline.pool().stats().connect_failures;
            eventually("connects fail", || {
                pipeline.pool().stats().connect_failures > before
            });
            server.start_again();
            begin();
            life.fetch_add(1, SeqCst);
            calm();
        }
        stop.up();
    });
    let mut counts = counts.into_inner().unwrap();
    counts.retain(|(life, _)| life % 2 == 0);
    let all = counts.len();
    counts.sort_unstable();
    counts.dedup();
    assert_eq!(counts.len(), all, "one count for two callers");
    assert!(pipeline.stats().lost > 0 || pipeline.stats().timeouts > 0);
    assert_eq!(pipeline.stats().queued, 0);
}

/// There is no writing beside the leader, but all else is the same.
#[test]
fn calls_go_through_tls_sessions() {
    let server = TlsServer::new(2);
    let pool = server.pool(&rustls::version::TLS13);
    let pipeline = Pipeline::builder(pool, line).lanes(3).build().unwrap();
    let replies = Count::default();
    thread::scope(|scope| {
        for caller in 0..32 {
            let (pipeline, replies) = (&pipeline, &replies);
            scope.spawn(move || {
                for call in 0..100 {
                    let request = format!("{caller} calls {call}");
                    let bytes = format!("{request}\n");
                    // A fifth of them is in a hurry.
                    let timeout = Duration::from_millis(if call % 5 == 0 { 2 } else { 10_000 });
                    let started = Instant::now();
                    match pipeline.call_timeout(bytes.as_bytes(), timeout) {
                        Ok(reply) => {
                            assert_eq!(reply, request, "another caller's reply");
                            replies.up();
                        }
                        Err(error) => {
                            assert!(error.is_timeout(), "{error:?}");
                            assert!(started.elapsed() < timeout + Duration::from_secs(2));
                        }
                    }
                }
            });
        }
    });
    assert!(replies.get() > 0);
}
