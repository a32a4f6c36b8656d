//! Shared calls: one reply for each, whose it is, and when nobody gets one.

use std::io::{self, BufRead};
use std::net::TcpStream;
use std::thread;

use jackpot::{Pipeline, Pool};

use crate::support::Server;

/// One line, without its newline.
pub(crate) fn line(reply: &mut dyn BufRead) -> io::Result<String> {
    let mut line = String::new();
    reply.read_line(&mut line)?;
    line.pop();
    Ok(line)
}

/// Calls over `limit` connections to this server.
pub(crate) fn lines(server: &Server, limit: usize) -> Pipeline<String> {
    let address = server.address();
    Pipeline::new(
        Pool::new(limit, move || TcpStream::connect(address)).unwrap(),
        line,
    )
}

#[test]
fn hundreds_of_callers_get_their_own_replies() {
    let server = Server::echo();
    let pipeline = lines(&server, 4);
    thread::scope(|scope| {
        for caller in 0..200 {
            let pipeline = &pipeline;
            scope.spawn(move || {
                for call in 0..50 {
                    let request = format!("{caller} calls {call}");
                    let reply = pipeline.call(format!("{request}\n").as_bytes()).unwrap();
                    assert_eq!(reply, request);
                }
            });
        }
    });
    let stats = pipeline.stats();
    println!("{stats}\n{}", pipeline.pool().stats());
    assert_eq!(
        (stats.calls, stats.replies, stats.lost),
        (10_000, 10_000, 0)
    );
    assert_eq!((stats.queued, stats.in_flight, stats.lanes), (0, 0, 0));
    assert_eq!(server.accepted(), 4);
}
