//! A command-line tool: fetches keys from memcached, in parallel, with a progress bar.
//!
//! ```sh
//! cargo run --example cli                                  # a server and 200 keys of its own
//! cargo run --example cli -- --server localhost:11211 some-key another-key
//! ```
//!
//! Prints each key that there is with its value, and in the end `150 of 200 keys found`; the bar
//! goes to standard error. Exit code 1: the server is away or talks nonsense, and one line says so.

#[path = "stand_in.rs"]
mod stand_in;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use jackpot::{BufStream, Connector, Pool};

/// Fetches keys from memcached.
#[derive(Parser)]
struct Args {
    /// The server; one inside this process if not given
    #[arg(long, value_name = "HOST:PORT", requires = "keys")]
    server: Option<String>,

    /// What to fetch
    #[arg(value_name = "KEY", value_parser = key, requires = "server")]
    keys: Vec<String>,
}

fn main() -> ExitCode {
    let Err(error) = run(Args::parse()) else {
        return ExitCode::SUCCESS;
    };
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    eprintln!("cli: {text}");
    ExitCode::FAILURE
}

fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let address = args.server.map_or_else(|| stand_in::start(serve), Ok)?;
    let mut keys = args.keys;
    if keys.is_empty() {
        keys.extend((0..200).map(|n| format!("key-{n:03}")));
    }
    let pool = Pool::builder(Connector::new(address).connect_timeout(Duration::from_secs(1)))
        .limit(8)
        .buffered()
        .build()?;

    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} keys, {eta} left")?;
    let bar = ProgressBar::new(keys.len() as u64).with_finish(ProgressFinish::AndClear);
    bar.set_style(style);
    let next = AtomicUsize::new(0);
    let (tell, told) = mpsc::channel();
    let found = thread::scope(|scope| {
        for _ in 0..pool.limit() {
            let (pool, keys, next, tell) = (&pool, &keys, &next, tell.clone());
            scope.spawn(move || {
                while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if tell.send((key, fetch(pool, key))).is_err() {
                        return; // another key has failed, and all is over
                    }
                }
            });
        }
        drop(tell);
        let mut found = BTreeMap::new();
        for (key, value) in told {
            // Ending the pool wakes the threads that still wait for a connection.
            if let Some(value) = value.inspect_err(|_| pool.end())? {
                found.insert(key, value);
            }
            bar.inc(1);
        }
        Ok::<_, io::Error>(found)
    })?;
    drop(bar);
    for (key, value) in &found {
        println!("{key}\t{}", String::from_utf8_lossy(value));
    }
    println!("{} of {} keys found", found.len(), keys.len());
    Ok(())
}

/// The value of a key, if there is one.
///
/// To ask twice does no harm, so a server that restarts is not noticed: it has three seconds.
fn fetch(pool: &Pool<BufStream>, key: &str) -> io::Result<Option<Vec<u8>>> {
    pool.retry_until(Instant::now() + Duration::from_secs(3), |server| {
        write!(server, "get {key}\r\n")?;
        let mut line = String::new();
        server.read_line(&mut line)?;
        if line == "END\r\n" {
            return Ok(None);
        }
        let header = line.trim_end().strip_prefix("VALUE ");
        let size = header.and_then(|it| it.rsplit(' ').next()?.parse::<usize>().ok());
        let Some(size) = size else {
            // Who knows what comes after that. Nobody reads it: the lease breaks here.
            server.get_ref().shutdown(Shutdown::Both)?;
            return Err(io::Error::other(format!("not memcached: it says {line:?}")));
        };
        let mut value = vec![0; size + "\r\nEND\r\n".len()];
        server.read_exact(&mut value)?;
        value.truncate(size);
        Ok(Some(value))
    })
}

/// A key goes into the request as it is, so nothing in it may end that.
fn key(text: &str) -> Result<String, &'static str> {
    match text.len() {
        1..=250 if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => Err("must be 1 to 250 visible ASCII characters"),
    }
}

/// Has every key but each fourth, and takes ten milliseconds for each.
fn serve(mut socket: &TcpStream) -> io::Result<()> {
    for line in BufReader::new(socket).lines() {
        thread::sleep(Duration::from_millis(10));
        let n = line?.replace("get key-", "");
        let mut answer = "END\r\n".to_owned();
        if n.parse::<u32>().is_ok_and(|n| n % 4 != 3) {
            answer = format!("VALUE key-{n} 0 5\r\n<{n}>\r\n{answer}");
        }
        socket.write_all(answer.as_bytes())?;
    }
    Ok(())
}
