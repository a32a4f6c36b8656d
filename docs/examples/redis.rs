//! The `redis` crate's commands and codec over pooled streams.
//!
//! ```sh
//! cargo run --example redis                      # its own stand-in for Redis
//! cargo run --example redis -- localhost:6379    # a server of yours; writes jackpot-example only
//! ```
//!
//! Four threads count together. Prints `counted to 100, connections made: N`, N being 4 at most.

#[path = "stand_in.rs"]
mod stand_in;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use jackpot::{Connector, Pool, Stream};
use redis::{Commands, ConnectionLike, Parser, RedisResult, Value};

const KEY: &str = "jackpot-example";

/// What the pool hands out: all that the `redis` crate needs in order to talk.
struct Redis {
    stream: Stream,
    /// Keeps what it has read beyond the end of a reply.
    parser: Parser,
    /// Replies that were asked for and have not been read.
    due: usize,
}

impl Redis {
    fn ask(&mut self, requests: &[u8], replies: usize) -> RedisResult<Vec<Value>> {
        self.stream.write_all(requests)?;
        self.due += replies;
        let reply = |_| {
            let reply = self.parser.parse_value(&mut self.stream)?;
            self.due -= 1;
            Ok(reply)
        };
        (0..replies).map(reply).collect()
    }

    /// Whether the next caller can have it. The pool asks the kernel for bytes that nobody read;
    /// this asks the parser, by a value that must come out of it alone and whole.
    fn is_clean(&mut self) -> Result<(), &'static str> {
        if self.due > 0 {
            return Err("a reply was not read");
        }
        match self.parser.parse_value(&b"+clean\r\n"[..]) {
            Ok(Value::SimpleString(text)) if text == "clean" => Ok(()),
            _ => Err("a reply that nobody asked for"),
        }
    }
}

impl ConnectionLike for Redis {
    fn req_packed_command(&mut self, request: &[u8]) -> RedisResult<Value> {
        Ok(self.ask(request, 1)?.remove(0))
    }

    /// A pipeline; of a transaction's replies the first ones (`skip`) say only "queued".
    fn req_packed_commands(
        &mut self,
        all: &[u8],
        skip: usize,
        n: usize,
    ) -> RedisResult<Vec<Value>> {
        Ok(self.ask(all, skip + n)?.split_off(skip))
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        true // the pool knows
    }
}

fn main() -> ExitCode {
    match run(std::env::args().nth(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redis: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(address: Option<String>) -> Result<(), Box<dyn Error>> {
    let address = address.map_or_else(start_server, Ok)?;
    let pool = Pool::builder(Connector::new(address))
        .limit(4)
        .read_timeout(Some(Duration::from_secs(2)))
        .handshake(|stream| {
            Ok::<_, io::Error>(Redis {
                stream,
                parser: Parser::new(),
                due: 0,
            })
        })
        .recycle(Redis::is_clean)
        .build()?;

    pool.pull()?.del::<_, ()>(KEY)?;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| count(&pool)));
        }
    });
    let (total, _): (u64, u64) = redis::pipe().get(KEY).del(KEY).query(&mut *pool.pull()?)?;
    println!(
        "counted to {total}, connections made: {}",
        pool.stats().connects
    );
    Ok(())
}

fn count(pool: &Pool<Redis>) {
    let outcome = pool.pull().map(|mut redis| redis.incr::<_, _, ()>(KEY, 1));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("redis: not counted: {outcome:?}");
    }
}

/// The server inside: keeps one number, and understands what is asked above.
fn start_server() -> io::Result<String> {
    let number = Arc::new(AtomicU64::new(0));
    stand_in::start(move |mut socket| {
        let mut parser = Parser::new();
        loop {
            let request = parser.parse_value(socket).map_err(io::Error::other)?;
            let words: Vec<String> = redis::from_redis_value(request).map_err(io::Error::other)?;
            let reply = match words.first().map(String::as_str) {
                Some("DEL") => number.swap(0, Relaxed),
                Some("INCRBY") => number.fetch_add(1, Relaxed) + 1,
                _ => number.load(Relaxed),
            };
            socket.write_all(format!(":{reply}\r\n").as_bytes())?;
        }
    })
}
