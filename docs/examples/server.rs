//! A thread-per-request HTTP server whose handlers share a pool to Redis, and count visitors in it.
//!
//! ```sh
//! cargo run --example server       # its own stand-in for Redis, a free port
//! cargo run --example server -- --redis localhost:6379 --listen 127.0.0.1:8080
//! cargo run --example server -- --shared   # all handlers call over four connections
//! ```
//!
//! Prints `listening on http://…`; every path there answers `you are visitor 1 of /path`. Ctrl-C
//! (or SIGTERM) ends it: what is under way gets its answer, but not for longer than five seconds,
//! and the last line is what the pool has counted.

#[path = "stand_in.rs"]
mod stand_in;

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Parser;
use jackpot::{BufStream, Close, Connector, Pipeline, Pool};
use tiny_http::{Request, Response, Server};

/// Counts visitors.
#[derive(Parser)]
struct Args {
    /// Where the counters are; inside this process if not given
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<String>,

    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: String,

    /// Handlers share connections instead of leasing one each
    #[arg(long)]
    shared: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error + Send + Sync>> {
    let redis = args.redis.map_or_else(start_server, Ok)?;
    // Hundreds of requests may be under way at once; Redis sees twenty connections.
    let pool = Pool::builder(Connector::new(redis))
        .limit(20)
        .read_timeout(Some(Duration::from_secs(2)))
        .write_timeout(Some(Duration::from_secs(2)))
        .buffered()
        .build()?;
    let counter = if args.shared {
        Counter::Shared(
            Pipeline::builder(pool.clone(), read_count)
                .lanes(4)
                .build()?,
        )
    } else {
        Counter::Leased(pool.clone())
    };
    let server = Arc::new(Server::http(args.listen)?);
    let for_handler = Arc::clone(&server);
    ctrlc::set_handler(move || for_handler.unblock())?;
    println!("listening on http://{}", server.server_addr());

    thread::scope(|scope| {
        for request in server.incoming_requests() {
            let answer = || answer(&counter, request);
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, answer) {
                eprintln!("a request without a thread: {error}"); // its client is told "500"
            }
        }
        shut_down(&pool);
    }); // waits for the threads
    println!("{}", pool.stats());
    Ok(())
}

/// Ends the pool: who waits for a connection is told so, who has one may use it for a while.
fn shut_down<C: Send + 'static>(pool: &Pool<C>) {
    println!("stopping");
    pool.end();
    if !pool.drain(Duration::from_secs(5)) {
        pool.end_with(Close::Hard); // wakes the threads that are blocked on a connection
    }
}

fn answer(counter: &Counter, request: Request) {
    let (code, text) = match counter.count(request.url()) {
        Ok(count) => (
            200,
            format!("you are visitor {count} of {}\n", request.url()),
        ),
        Err(error) => {
            eprintln!("{}: {error}", request.url());
            (
                503,
                "the counter is away; please try again later\n".to_owned(),
            )
        }
    };
    // A client that has gone away is no concern of ours.
    let _ = request.respond(Response::from_string(text).with_status_code(code));
}

/// How handlers get at the counters.
enum Counter {
    /// Each has a connection to itself while it asks.
    Leased(Pool<BufStream>),
    /// All ask over the same few connections.
    Shared(Pipeline<u64, BufStream>),
}

impl Counter {
    /// Counts one visit. Is not repeated if it fails half-way: it may have been counted.
    fn count(&self, path: &str) -> io::Result<u64> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let key = format!("visits:{path}");
        let command = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len());
        match self {
            Self::Leased(pool) => {
                let mut redis = pool.pull_timeout(PATIENCE)?;
                redis.write_all(command.as_bytes())?;
                read_count(&mut *redis)
            }
            Self::Shared(calls) => Ok(calls.call_timeout(command.as_bytes(), PATIENCE)?),
        }
    }
}

/// The reply to `INCR`.
fn read_count(reply: &mut dyn BufRead) -> io::Result<u64> {
    let mut text = String::new();
    reply.read_line(&mut text)?;
    let count = text
        .strip_prefix(':')
        .and_then(|count| count.trim_end().parse().ok());
    count.ok_or_else(|| io::Error::other(format!("the counter said {text:?}")))
}

/// The server inside: understands `INCR` as `count` sends it, in five lines, and nothing else.
fn start_server() -> io::Result<String> {
    let counts = Arc::new(Mutex::new(HashMap::new()));
    stand_in::start(move |mut socket| {
        let mut lines = BufReader::new(socket).lines();
        while let Some(key) = lines.nth(4) {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(key?).or_insert(0);
            *count += 1;
            socket.write_all(format!(":{count}\r\n").as_bytes())?;
        }
        Ok(())
    })
}
