//! `BufStream` in the pool, for protocols of lines in which the server greets first.
//!
//! ```sh
//! cargo run --example lines                    # a server inside this process
//! cargo run --example lines -- HOST:PORT NOOP  # a mail server (SMTP) of yours, asked to do nothing
//! ```
//!
//! Four threads send the line 25 times each and print the last reply; then comes
//! `100 replies, connections made: N`, N being 4 at most. Exit code 1 if a request failed.

#[path = "stand_in.rs"]
mod stand_in;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use jackpot::{BufStream, Connection, Connector, Pool};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match run(args.next(), args.next().as_deref().unwrap_or("NOOP")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: Option<String>, line: &str) -> Result<(), Box<dyn Error>> {
    let address = address.map_or_else(|| stand_in::start(serve), Ok)?;
    let pool = Pool::builder(Connector::new(address))
        .limit(4)
        .read_timeout(Some(Duration::from_secs(5)))
        .write_timeout(Some(Duration::from_secs(5)))
        // The greeting belongs to nobody's request, so it is read before anybody gets the
        // connection.
        .handshake(|stream| {
            let mut lines = BufStream::new(stream);
            read_line(&mut lines).map(|_greeting| lines)
        })
        .build()?;

    let replies = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..25).map(|_| ask(&pool, line)).collect::<io::Result<_>>()))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let replies: io::Result<Vec<String>> = thread.join().expect("a thread panicked");
            replies
        });
        joined.collect::<io::Result<Vec<_>>>()
    })?
    .concat();
    println!("{}", replies.last().map_or("", String::as_str));
    let connects = pool.stats().connects;
    println!("{} replies, connections made: {connects}", replies.len());
    Ok(())
}

/// One line there, one line back.
fn ask(pool: &Pool<BufStream>, line: &str) -> io::Result<String> {
    let mut lines = pool.pull_timeout(Duration::from_secs(5))?;
    write!(lines, "{line}\r\n")?; // sent by the read, in one piece
    let reply = read_line(&mut lines)?;
    if reply.get(3..4) == Some("-") {
        // "250-…" says that more lines follow. We do not want them, and nobody else may.
        Connection::discard(lines);
    }
    Ok(reply)
}

/// A line without its end; one that breaks off is an error.
fn read_line(lines: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.trim_end().to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn serve(mut socket: &TcpStream) -> io::Result<()> {
    socket.write_all(b"220 the stand-in is ready\r\n")?;
    for line in BufReader::new(socket).lines() {
        socket.write_all(format!("250 {} it is\r\n", line?).as_bytes())?;
    }
    Ok(())
}
