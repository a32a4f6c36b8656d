//! A pool that survives a server that misbehaves on purpose.
//!
//! `cargo run --release --example demo` runs it, and with `-- --help` it explains itself.

mod args;
mod load;
mod protocol;
mod random;
mod report;
mod server;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Connector, Factory, Pool};

use args::Args;
use load::Load;
use protocol::Protocol;
use server::Unruly;

/// How often the progress is redrawn on a terminal, and the server's fate decided.
const TICK: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let args = match args::read() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(text) => {
            eprintln!("demo: {text}");
            ExitCode::from(2)
        }
    }
}

/// Whether every reply was right and the books balance; an error is why it could not start.
fn run(args: &Args) -> Result<bool, String> {
    let mut server = None;
    let (address, read_timeout) = if let Some(address) = &args.connect {
        greet(address, args.protocol)?;
        (address.clone(), Duration::from_secs(1))
    } else {
        let unruly = Unruly::start(args.seed, args.duration(), |_| {})
            .map_err(|error| format!("cannot start a server on 127.0.0.1: {error}"))?;
        let address = unruly.address().to_string();
        server = Some(unruly);
        (address, server::PATIENCE)
    };
    let pool = Pool::builder(Connector::new(address))
        .limit(args.limit)
        .read_timeout(Some(read_timeout))
        .write_timeout(Some(Duration::from_secs(1)))
        .backoff(
            Backoff::new()
                .retries(10)
                .min(Duration::from_millis(50))
                .max(Duration::from_millis(500)),
        )
        .build()
        .map_err(|error| chain(&error))?;
    let load = Load::new(pool, args.protocol, server.is_some());
    report::say(&report::opening(args));
    let (took, pulls) = drive(args, &load, server.as_mut());
    let books = load.close_the_books(pulls.len());
    report::say(&report::summary(
        &load,
        took,
        &pulls,
        &books,
        server.as_ref(),
    ));
    Ok(books.is_balanced() && load.tally.wrong() == 0)
}

/// Runs the workers for as long as told; how long it was, and how long each pull took.
fn drive(
    args: &Args,
    load: &Load,
    mut server: Option<&mut Unruly>,
) -> (Duration, report::Histogram) {
    let terminal = io::stdout().is_terminal();
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..args.threads)
            .map(|n| scope.spawn(move || load::work(load, n, args.seed)))
            .collect();
        let mut told = 0;
        while started.elapsed() < args.duration() {
            let left = args.duration().saturating_sub(started.elapsed());
            thread::sleep(TICK.min(left));
            if let Some(server) = &mut server {
                server.tick();
            }
            let elapsed = started.elapsed();
            if terminal {
                report::redraw(&report::progress(load, elapsed));
            } else if elapsed.as_secs() > told {
                told = elapsed.as_secs();
                report::say(&report::progress(load, elapsed));
            }
        }
        load.stop();
        if let Some(server) = server {
            server.calm_down();
        }
        let mut pulls = report::histogram();
        for worker in workers {
            let own = worker.join().expect("a worker does not panic");
            pulls.add(own).expect("all histograms have the same bounds");
        }
        if terminal {
            report::say("");
        }
        (started.elapsed(), pulls)
    })
}

/// One request outside the pool: is there a server, and does it speak the protocol?
fn greet(address: &str, protocol: Protocol) -> Result<(), String> {
    let mut tcp = Connector::new(address)
        .connect()
        .map_err(|error| chain(&error))?;
    let within = Some(Duration::from_secs(2));
    tcp.set_read_timeout(within)
        .and_then(|()| tcp.set_write_timeout(within))
        .map_err(|error| format!("{address}: {error}"))?;
    let id = format!("{}:hello", load::unique_prefix());
    protocol
        .ask(&mut tcp, &id)
        .map_err(|trouble| format!("{address} does not answer as {protocol} does: {trouble}"))
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
