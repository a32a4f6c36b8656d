//! A page to watch a pool and to turn its knobs, and what Prometheus reads, in an HTTP server.
//!
//! The page draws the last minutes, says why the server cannot be reached, and where each lease was
//! taken. Prometheus gets histograms by OpenTelemetry's names for connection pools.
//!
//! ```sh
//! cargo run --example admin          # a server inside this process, and some load on the pool
//! cargo run --example admin -- --limit 3 --load 5          # some of which has to wait
//! cargo run --example admin -- --upstream HOST:PORT --listen 127.0.0.1:8080 --load 0
//! ```
//!
//! Prints `listening on http://…`; open `/pool` there. Ctrl-C ends it. `GET /` asks the upstream
//! one line, through the pool. The rest is for whoever runs it: `GET /pool`, `GET /stats` (one line
//! of text), `GET /metrics`, `POST /free?keep=N`, `POST /limit?n=N` and `POST /end`. Who can reach
//! the address can end the pool, so keep it where only you can.

#[path = "admin/history.rs"]
mod history;
#[path = "admin/html.rs"]
mod html;
#[path = "admin/metrics.rs"]
mod metrics;
#[path = "admin/routes.rs"]
mod routes;
#[path = "stand_in.rs"]
mod stand_in;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError::Timeout};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use jackpot::{BufStream, Connector, Pool};
use tiny_http::{Header, Request, Response, Server};

use history::History;

/// What every request for a page looks at.
struct Site {
    pool: Pool<BufStream>,
    /// The pool's server, which gives the pool its name too.
    upstream: String,
    history: Mutex<History>,
    /// How long a request to the server may take.
    timeout: Duration,
}

impl Site {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool with a page to look after it.
#[derive(Parser)]
struct Args {
    /// A server that answers each line with a line; one inside this process if not given
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Option<String>,

    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: String,

    /// How many connections the pool may have
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,

    /// How many seconds a request to the upstream may take
    #[arg(long, value_name = "N", default_value_t = 2)]
    timeout: u8,

    /// How many threads use the pool all the time, for something to look at
    #[arg(long, value_name = "N", default_value_t = 3)]
    load: u8,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("admin: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn Error + Send + Sync>> {
    let upstream = args.upstream.map_or_else(|| stand_in::start(serve), Ok)?;
    let pool = Pool::builder(Connector::new(upstream.clone()))
        .limit(args.limit)
        .lease_events(true) // for the times that leases take
        .buffered()
        .build()?;
    let site = Site {
        pool,
        upstream,
        history: Mutex::default(),
        timeout: Duration::from_secs(args.timeout.into()),
    };
    let server = Arc::new(Server::http(args.listen)?);
    let for_handler = Arc::clone(&server);
    ctrlc::set_handler(move || for_handler.unblock())?;
    println!("listening on http://{}", server.server_addr());

    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let site = &site;
        scope.spawn(move || {
            while let Err(Timeout) = stopped.recv_timeout(history::STEP) {
                site.history().add(&site.pool.stats());
            }
        });
        for n in 0..args.load {
            scope.spawn(move || {
                while !site.pool.is_ended() {
                    let _ = ask(site);
                    thread::sleep(Duration::from_millis(20 + 30 * u64::from(n)));
                }
            });
        }
        for request in server.incoming_requests() {
            let answer = move || answer(site, request);
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, answer) {
                eprintln!("a request without a thread: {error}"); // its client is told "500"
            }
        }
        drop(stop);
        site.pool.end();
    });
    println!("{}", site.pool.stats());
    Ok(())
}

fn answer(site: &Site, request: Request) {
    let (code, text) = match routes::route(site, &request) {
        Ok(text) => (200, text),
        Err((code, sentence)) => (code, sentence + "\n"),
    };
    let kind = match request.url() {
        "/pool" if code == 200 => "text/html; charset=utf-8",
        "/metrics" if code == 200 => "text/plain; version=0.0.4; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    let kind = Header::from_bytes("Content-Type", kind).expect("all of these are ASCII");
    let response = Response::from_string(text)
        .with_status_code(code)
        .with_header(kind);
    // A client that has gone away is no concern of ours.
    let _ = request.respond(response);
}

/// One line there, one line back; a lease says where this was called.
#[track_caller]
fn ask(site: &Site) -> io::Result<String> {
    let deadline = Instant::now() + site.timeout;
    site.pool.retry_until(deadline, |lines| {
        writeln!(lines, "hello")?;
        let mut reply = String::new();
        match lines.read_line(&mut reply)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(reply.trim_end().to_owned()),
        }
    })
}

/// Sends each line back, and takes its time.
fn serve(mut socket: &TcpStream) -> io::Result<()> {
    for line in BufReader::new(socket).lines() {
        thread::sleep(Duration::from_millis(30));
        socket.write_all((line? + "\n").as_bytes())?;
    }
    Ok(())
}
