//! A page to watch a pool and to turn its knobs, and what Prometheus reads, in an HTTP server.
//!
//! ```sh
//! cargo run --example admin          # a server inside this process, and some load on the pool
//! cargo run --example admin -- --upstream HOST:PORT --listen 127.0.0.1:8080 --load 0
//! ```
//!
//! Prints `listening on http://…`; open `/pool` there. Ctrl-C ends it. `GET /` asks the upstream
//! one line, through the pool. The rest is for whoever runs it: `GET /pool`, `GET /stats` (one line
//! of text), `GET /metrics`, `POST /free?keep=N`, `POST /limit?n=N` and `POST /end`. Who can reach
//! the address can end the pool, so keep it where only you can.

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
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use jackpot::{Connector, Pool, Stream};
use tiny_http::{Header, Request, Response, Server};

type Lines = Pool<BufReader<Stream>>;

/// A pool with a page to look after it.
#[derive(Parser)]
struct Args {
    /// A server that answers each line with a line; one inside this process if not given
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Option<String>,

    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: String,

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
    let pool = Pool::builder(Connector::new(upstream))
        .read_timeout(Some(Duration::from_secs(2)))
        .write_timeout(Some(Duration::from_secs(2)))
        .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
        .recycle(|lines| match lines.buffer() {
            [] => Ok(()),
            _ => Err("bytes that nobody read"),
        })
        .build()?;
    let server = Arc::new(Server::http(args.listen)?);
    let for_handler = Arc::clone(&server);
    ctrlc::set_handler(move || for_handler.unblock())?;
    println!("listening on http://{}", server.server_addr());

    thread::scope(|scope| {
        for n in 0..args.load {
            let pool = &pool;
            scope.spawn(move || {
                while !pool.is_ended() {
                    let _ = ask(pool);
                    thread::sleep(Duration::from_millis(20 + 30 * u64::from(n)));
                }
            });
        }
        for request in server.incoming_requests() {
            let answer = || answer(&pool, request);
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, answer) {
                eprintln!("a request without a thread: {error}"); // its client is told "500"
            }
        }
        pool.end();
    });
    println!("{}", pool.stats());
    Ok(())
}

fn answer(pool: &Lines, request: Request) {
    let (code, text) = match routes::route(pool, &request) {
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

/// One line there, one line back.
fn ask(pool: &Lines) -> io::Result<String> {
    let mut lines = pool.pull_timeout(Duration::from_secs(2))?;
    lines.get_mut().write_all(b"hello\n")?;
    let mut reply = String::new();
    match lines.read_line(&mut reply)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(reply.trim_end().to_owned()),
    }
}

/// Sends each line back, and takes its time.
fn serve(mut socket: &TcpStream) -> io::Result<()> {
    for line in BufReader::new(socket).lines() {
        thread::sleep(Duration::from_millis(30));
        socket.write_all((line? + "\n").as_bytes())?;
    }
    Ok(())
}
