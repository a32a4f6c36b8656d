//! A small memcached client on shared calls, and a bench that compares them with leases.
//!
//! ```sh
//! cargo run --example memcached                          # its own stand-in for memcached
//! cargo run --example memcached -- localhost:11211       # one of yours; writes jackpot-example only
//! cargo run --release --example memcached -- localhost:11211 --bench --threads 64
//! ```
//!
//! Four threads set, count and delete; the last line is `counted to 100 on N connections`, N being 4
//! at most. With `--bench` a table follows: both ways, the same number of sockets.

#[path = "stand_in.rs"]
mod stand_in;

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use jackpot::{CallError, Connector, Pipeline, Pool, Stream};

const KEY: &str = "jackpot-example";
/// For a whole call, waiting for a connection included.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks memcached.
#[derive(Parser)]
struct Args {
    /// Where it is, HOST:PORT; inside this process if not given
    address: Option<String>,

    /// How many connections all threads share
    #[arg(long, default_value_t = 4)]
    connections: usize,

    /// Compares shared calls with leases
    #[arg(long)]
    bench: bool,

    /// How many threads the bench has
    #[arg(long, default_value_t = 64)]
    threads: usize,

    /// How long each half of the bench takes
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memcached: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let address = args.address.clone().map_or_else(start_server, Ok)?;
    let pool = Pool::builder(Connector::new(address))
        .limit(args.connections)
        .read_timeout(Some(PATIENCE)) // a connection that is silent for longer is given up
        .build()?;
    let memcached = Memcached::new(pool.clone());

    memcached.set(KEY, b"0")?;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| count(&memcached)));
        }
    });
    let total = memcached.get(KEY)?.unwrap_or_default();
    memcached.delete(KEY)?;
    let total = String::from_utf8_lossy(&total).trim_end().to_owned();
    println!(
        "counted to {total} on {} connections",
        pool.stats().connects
    );

    if args.bench {
        bench(args, &memcached, &pool)?;
    }
    Ok(())
}

/// Is not repeated if it fails: it may have been counted, unless the error says that it was not.
fn count(memcached: &Memcached) {
    match memcached.incr(KEY, 1) {
        Ok(Some(_)) => {}
        Ok(None) => eprintln!("memcached: the counter is gone"),
        Err(error) => eprintln!("memcached: not counted: {error}"),
    }
}

/// A client that is cheap to clone and shared by all threads.
#[derive(Clone)]
struct Memcached {
    calls: Pipeline<Reply>,
}

/// Each request here has exactly one reply, one of these.
#[derive(Debug, PartialEq)]
enum Reply {
    Stored,
    Deleted,
    NotFound,
    Number(u64),
    /// What `get` found.
    Value(Vec<u8>),
    /// `get` found nothing.
    Nothing,
    /// `SERVER_ERROR` and the like: a reply, after which the connection is as good as before.
    Refused(String),
}

impl Memcached {
    fn new(pool: Pool) -> Self {
        let calls = Pipeline::new(pool, read_reply);
        Self { calls }
    }

    fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        match self.ask(format!("get {key}\r\n").as_bytes())? {
            Reply::Value(value) => Ok(Some(value)),
            Reply::Nothing => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    fn set(&self, key: &str, value: &[u8]) -> io::Result<()> {
        let head = format!("set {key} 0 0 {}\r\n", value.len());
        match self.ask(&[head.as_bytes(), value, b"\r\n"].concat())? {
            Reply::Stored => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether there was something to delete.
    fn delete(&self, key: &str) -> io::Result<bool> {
        match self.ask(format!("delete {key}\r\n").as_bytes())? {
            Reply::Deleted => Ok(true),
            Reply::NotFound => Ok(false),
            other => Err(unexpected(&other)),
        }
    }

    /// The new number; `None` if there was none.
    fn incr(&self, key: &str, by: u64) -> io::Result<Option<u64>> {
        match self.ask(format!("incr {key} {by}\r\n").as_bytes())? {
            Reply::Number(number) => Ok(Some(number)),
            Reply::NotFound => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &[u8]) -> Result<Reply, CallError> {
        self.calls.call_timeout(request, PATIENCE)
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::other(format!("memcached said {reply:?}"))
}

/// Reads one reply and not a byte more. It keeps nothing, so that it may be run again.
fn read_reply(reply: &mut dyn BufRead) -> io::Result<Reply> {
    let line = read_line(reply)?;
    let mut words = line.split(' ');
    Ok(match words.next().unwrap_or_default() {
        "STORED" => Reply::Stored,
        "DELETED" => Reply::Deleted,
        "NOT_FOUND" => Reply::NotFound,
        "END" => Reply::Nothing,
        "VALUE" => {
            let length = words.nth(2).and_then(|length| length.parse().ok());
            let length: usize = length.ok_or_else(|| no_reply(&line))?;
            let mut value = vec![0; length + 2];
            reply.read_exact(&mut value)?;
            value.truncate(length);
            match &*read_line(reply)? {
                "END" => Reply::Value(value),
                other => return Err(no_reply(other)),
            }
        }
        "ERROR" | "CLIENT_ERROR" | "SERVER_ERROR" => Reply::Refused(line),
        _ => Reply::Number(line.trim_end().parse().map_err(|_| no_reply(&line))?),
    })
}

/// An error says that whatever comes behind is no reply either: the connection is closed.
fn no_reply(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {line}"))
}

fn read_line(reply: &mut (impl BufRead + ?Sized)) -> io::Result<String> {
    let mut line = String::new();
    reply.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The same `get` by all threads, once on shared calls and once on leases.
fn bench(args: &Args, memcached: &Memcached, pool: &Pool) -> Result<(), Box<dyn Error>> {
    memcached.set(KEY, &[b'v'; 100])?;
    let request = format!("get {KEY}\r\n");
    let shared = measure(args, "shared calls", &|| memcached.get(KEY).map(drop));
    let leases = measure(args, "leases", &|| lease(pool, request.as_bytes()));
    memcached.delete(KEY)?;
    let (threads, connections) = (args.threads, args.connections);
    println!("\n{threads} threads on {connections} connections:\n");
    println!("| | calls in a second | median | 99 of 100 | 999 of 1000 | failed |");
    println!("|---|---|---|---|---|---|");
    for mut outcome in [shared, leases] {
        outcome.times.sort_unstable();
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index"
            )]
            let index = (outcome.times.len() as f64 * share) as usize;
            outcome.times.get(index).copied().unwrap_or_default()
        };
        println!(
            "| {} | {} | {:.2?} | {:.2?} | {:.2?} | {} |",
            outcome.name,
            outcome.times.len() as u64 / args.seconds.max(1),
            at(0.5),
            at(0.99),
            at(0.999),
            outcome.failed
        );
    }
    println!("\n{}", memcached.calls.stats());
    Ok(())
}

/// The same request on a lease.
fn lease(pool: &Pool<Stream>, request: &[u8]) -> io::Result<()> {
    let mut lease = pool.pull_timeout(PATIENCE)?;
    lease.write_all(request)?;
    let mut reply = BufReader::with_capacity(256, &mut *lease);
    read_reply(&mut reply).map(drop)
}

struct Outcome {
    name: &'static str,
    times: Vec<Duration>,
    failed: u64,
}

fn measure(args: &Args, name: &'static str, call: &(dyn Fn() -> io::Result<()> + Sync)) -> Outcome {
    let (stop, done, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut times = Vec::new();
        while !stop.load(Relaxed) {
            let started = Instant::now();
            match call() {
                Ok(()) => times.push(started.elapsed()),
                Err(_) => drop(failed.fetch_add(1, Relaxed)),
            }
            done.fetch_add(1, Relaxed);
        }
        times
    };
    let times = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads).map(|_| scope.spawn(work)).collect();
        show_progress(name, Duration::from_secs(args.seconds), &done);
        stop.store(true, Relaxed);
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread panicked"));
        times.flatten().collect()
    });
    let failed = failed.into_inner();
    Outcome {
        name,
        times,
        failed,
    }
}

/// A line on the terminal, ten times in a second; nothing where there is none.
fn show_progress(name: &str, how_long: Duration, done: &AtomicU64) {
    let bar = ProgressBar::new(u64::try_from(how_long.as_millis()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    let started = Instant::now();
    while started.elapsed() < how_long {
        thread::sleep(Duration::from_millis(100).min(how_long));
        bar.set_position(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        bar.set_message(format!("{} calls", done.load(Relaxed)));
    }
    bar.finish_and_clear();
}

/// The server inside: understands what is asked above, and nothing else.
fn start_server() -> io::Result<String> {
    let values = Arc::new(Mutex::new(HashMap::<String, Vec<u8>>::new()));
    stand_in::start(move |mut socket| {
        let mut lines = BufReader::new(socket);
        loop {
            let line = read_line(&mut lines)?;
            let words: Vec<&str> = line.split(' ').collect();
            let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
            let reply = match words[..] {
                ["get", key] => match values.get(key) {
                    Some(value) => {
                        let head = format!("VALUE {key} 0 {}\r\n", value.len());
                        [head.as_bytes(), value, b"\r\nEND\r\n"].concat()
                    }
                    None => b"END\r\n".to_vec(),
                },
                ["set", key, _, _, length] => {
                    let length: usize = length.parse().map_err(io::Error::other)?;
                    let mut value = vec![0; length + 2];
                    lines.read_exact(&mut value)?;
                    value.truncate(length);
                    values.insert(key.to_owned(), value);
                    b"STORED\r\n".to_vec()
                }
                ["delete", key] => match values.remove(key) {
                    Some(_) => b"DELETED\r\n".to_vec(),
                    None => b"NOT_FOUND\r\n".to_vec(),
                },
                ["incr", key, by] => match values.get_mut(key) {
                    Some(value) => {
                        let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
                        let sum = number(&String::from_utf8_lossy(value)) + number(by);
                        *value = sum.to_string().into_bytes();
                        format!("{sum}\r\n").into_bytes()
                    }
                    None => b"NOT_FOUND\r\n".to_vec(),
                },
                _ => b"ERROR\r\n".to_vec(),
            };
            drop(values);
            socket.write_all(&reply)?;
        }
    })
}
