//! A send-only protocol: ships metrics to Graphite, which never answers.
//!
//! ```sh
//! cargo run --example metrics_shipper                    # a collector inside this process
//! cargo run --example metrics_shipper -- localhost:2003  # Graphite, or anything else that listens
//! ```
//!
//! Four threads measure something 250 times each; a fifth ships it in batches. Prints
//! `1000 lines sent, 0 dropped, connections made: 1`, and with its own collector what arrived there.
//! Measuring never waits: while the collector is away, what does not fit in memory is dropped.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jackpot::{Backoff, Connector, Pool};

/// How many lines wait in memory at most.
const MEMORY: usize = 10_000;
/// How many lines go out in one write at most.
const BATCH: usize = 100;

fn main() -> ExitCode {
    match run(std::env::args().nth(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("metrics_shipper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: Option<String>) -> Result<(), Box<dyn Error>> {
    let (address, collector) = match address {
        Some(address) => (address, None),
        None => stand_in().map(|(address, collector)| (address, Some(collector)))?,
    };
    let pool = Pool::builder(Connector::new(address))
        .limit(1)
        // Without this a lease that ended with a write would be closed: a reply might still come.
        .allow_unanswered(true)
        .write_timeout(Some(Duration::from_secs(5)))
        .backoff(Backoff::new().retries(3))
        .build()?;
    let (tell, told) = mpsc::sync_channel(MEMORY);
    let dropped = AtomicU64::new(0);
    let sent = thread::scope(|scope| {
        let (pool, dropped) = (&pool, &dropped);
        let shipper = scope.spawn(move || ship(pool, &told, dropped));
        for thread in 0..4 {
            let tell = tell.clone();
            scope.spawn(move || {
                for n in 0..250 {
                    let line = format!("example.thread-{thread}.n {n} {}\n", seconds());
                    if tell.try_send(line).is_err() {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        drop(tell);
        shipper.join().unwrap_or(0)
    });
    let (dropped, connects) = (dropped.into_inner(), pool.stats().connects);
    println!("{sent} lines sent, {dropped} dropped, connections made: {connects}");
    pool.end();
    if let Some(collector) = collector {
        let arrived = collector.join().unwrap_or(0);
        println!("{arrived} lines arrived");
    }
    if dropped > 0 {
        return Err("some lines were dropped".into());
    }
    Ok(())
}

/// Ships what the others measured until they are done; how many lines went out.
///
/// That a write succeeded says only that the kernel took the bytes. What lay in a connection when
/// it broke is lost without a word; a protocol that must not lose anything needs replies.
fn ship(pool: &Pool, told: &Receiver<String>, dropped: &AtomicU64) -> u64 {
    let mut sent = 0;
    while let Ok(first) = told.recv() {
        let mut batch = vec![first];
        batch.extend(told.try_iter().take(BATCH - 1));
        // A connection that died meanwhile was found out by the pool before we got it.
        let outcome = pool
            .pull()
            .map_err(io::Error::from)
            .and_then(|mut collector| collector.write_all(batch.concat().as_bytes()));
        match outcome {
            Ok(()) => sent += batch.len() as u64,
            Err(error) => {
                eprintln!("{} lines dropped: {error}", batch.len());
                dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        }
    }
    sent
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A collector for those who have none at hand, which takes one connection and counts its lines.
fn stand_in() -> io::Result<(String, JoinHandle<usize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let collector = thread::spawn(move || match listener.accept() {
        Ok((socket, _)) => BufReader::new(socket).lines().map_while(Result::ok).count(),
        Err(_) => 0,
    });
    Ok((address, collector))
}
