//! Connections that break, replies that are none, and reply functions that misbehave.

use std::sync::Arc;

use jackpot::{Eviction, Stream};

use super::*;
use crate::support::{NEVER, panic_quietly, reset, shows_resets};

pub(super) fn lost(result: Result<String, CallError>) -> io::ErrorKind {
    match result {
        Err(CallError::Lost(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_break_loses_what_was_sent_on_it_and_nothing_else() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).max_in_flight(2).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = sent_on(&pipeline, &socket, "second");
    let third = call(&pipeline, "third");
    queued(&pipeline, 1);
    drop(socket);
    assert_eq!(lost(first.join()), io::ErrorKind::UnexpectedEof);
    assert_eq!(lost(second.join()), io::ErrorKind::UnexpectedEof);
    let socket = peer.accept();
    expect(&socket, "third");
    answer(&socket, "3");
    assert_eq!(third.join().unwrap(), "3");
    let stats = pipeline.stats();
    assert_eq!((stats.lost, stats.repeated), (2, 0));
    assert_eq!(pipeline.pool().stats().evicted(Eviction::Broken), 1);
}

#[test]
fn a_call_that_a_reset_lost_says_so() {
    if !shows_resets() {
        return;
    }
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let first = call_timeout(&pipeline, "first", SOON);
    let socket = peer.accept();
    expect(&socket, "first");
    reset(socket);
    assert_eq!(lost(first.join()), io::ErrorKind::ConnectionReset);
}

/// A client whose every other call is interrupted.
struct Restless(Stream, bool);

impl Restless {
    fn interrupt(&mut self) -> io::Result<()> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl Read for Restless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt()?;
        self.0.read(buffer)
    }
}

impl Write for Restless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.interrupt()?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_call_that_is_interrupted_goes_on() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake(|stream| Ok::<_, io::Error>(Restless(stream, false)))
        .build()
        .unwrap();
    let pipeline = Pipeline::new(pool, line);
    for _ in 0..3 {
        assert_eq!(pipeline.call(b"hello?\n").unwrap(), "hello?");
    }
    assert_eq!(server.accepted(), 1);
}

/// A client that can write nothing, for this reason.
struct Unwritable(Stream, io::ErrorKind);

impl Read for Unwritable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Unwritable {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.1.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// It may have sent something. A time-out of its own that no deadline set is a failure too.
#[test]
fn a_call_whose_client_fails_to_write_is_lost() {
    let peer = Peer::new();
    for (kind, timeout) in [
        (io::ErrorKind::BrokenPipe, None),
        (io::ErrorKind::WouldBlock, None),
        (io::ErrorKind::WouldBlock, Some(NEVER)),
    ] {
        let pool = peer
            .builder(1)
            .handshake(move |stream| Ok::<_, io::Error>(Unwritable(stream, kind)))
            .build()
            .unwrap();
        let pipeline = Pipeline::new(pool, line);
        let call = background(move || match timeout {
            None => pipeline.call(b"hello?\n"),
            Some(timeout) => pipeline.call_timeout(b"hello?\n", timeout),
        });
        assert_eq!(lost(call.join()), io::ErrorKind::UnexpectedEof, "{kind}");
    }
}

#[test]
fn replies_that_came_before_the_end_reach_their_callers() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let calls: Vec<_> = (0..4).map(|n| call(&pipeline, &n.to_string())).collect();
    let socket = peer.accept();
    let mut socket = &socket;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(String::from_utf8(read_line(&mut socket).unwrap()).unwrap());
    }
    socket
        .write_all(format!("{}{}", seen[0], seen[1]).as_bytes())
        .unwrap();
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    let mut answered = 0;
    for (n, call) in calls.into_iter().enumerate() {
        match call.join() {
            Ok(reply) => {
                assert_eq!(reply, n.to_string());
                answered += 1;
            }
            Err(error) => assert!(matches!(error, CallError::Lost(_)), "{error:?}"),
        }
    }
    assert_eq!(answered, 2);
}

#[test]
fn a_reply_that_the_end_cut_short_is_none() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, mut socket) = sent_to(&pipeline, &peer, "first");
    socket.write_all(b"fir").unwrap();
    drop(socket);
    // `read_line` itself would call that a line.
    assert_eq!(lost(first.join()), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_was_lost_is_sent_once_more_where_that_is_allowed() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).repeatable(true).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    reset(socket);
    let socket = peer.accept();
    expect(&socket, "first");
    answer(&socket, "1");
    assert_eq!(first.join().unwrap(), "1");
    let stats = pipeline.stats();
    assert_eq!((stats.calls, stats.lost, stats.repeated), (2, 1, 1));

    let twice = sent_on(&pipeline, &socket, "twice");
    drop(socket);
    let socket = peer.accept();
    expect(&socket, "twice");
    drop(socket);
    assert_eq!(lost(twice.join()), io::ErrorKind::UnexpectedEof);
}

/// The pool gives up, but an earlier try had been sent.
#[test]
fn a_repeated_call_never_says_that_it_was_not_sent() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).repeatable(true).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    pipeline.pool().end();
    drop(socket);
    let error = first.join().unwrap_err();
    assert!(error.was_sent(), "{error:?}");
}

#[test]
fn bytes_that_nobody_asked_for_close_the_connection() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let mut both = &socket;
    both.write_all(b"first\nstray\n").unwrap();
    assert_eq!(first.join().unwrap(), "first");
    eventually("it is closed", || pipeline.pool().stats().open == 0);
    let (second, socket) = sent_to(&pipeline, &peer, "second");
    answer(&socket, "second");
    assert_eq!(second.join().unwrap(), "second");
}

#[test]
fn half_a_reply_behind_the_last_one_closes_the_connection() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    (&socket).write_all(b"first\nstr").unwrap();
    assert_eq!(first.join().unwrap(), "first");
    assert_eq!(pipeline.pool().stats().releases, 1);
}

#[test]
fn a_reply_function_that_fails_breaks_its_lane_and_nothing_else() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(2, move || connect(address)).unwrap();
    let pipeline = Pipeline::new(pool, |reply| {
        let text = line(reply)?;
        if text == "nonsense" {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no reply"));
        }
        Ok(text)
    });
    assert_eq!(pipeline.call(b"fine\n").unwrap(), "fine");
    assert_eq!(
        lost(pipeline.call(b"nonsense\n")),
        io::ErrorKind::InvalidData
    );
    assert_eq!(pipeline.call(b"fine again\n").unwrap(), "fine again");
    assert_eq!((server.accepted(), pipeline.pool().stats().open), (2, 1));
}

#[test]
fn a_reply_function_that_panics_breaks_its_lane_and_nothing_else() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(2, move || connect(address)).unwrap();
    let pipeline = Pipeline::new(pool, |reply| {
        let text = line(reply)?;
        if text == "bomb" {
            panic_quietly();
        }
        Ok(text)
    });
    match pipeline.call(b"bomb\n") {
        Err(CallError::Lost(error)) => assert!(error.to_string().contains("on purpose"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(pipeline.call(b"fine\n").unwrap(), "fine");
}

/// It wants more than comes; the bytes of the reply behind are what it gets, or nothing.
#[test]
fn a_reply_function_that_waits_for_too_much_ends_with_the_deadline() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(1, move || connect(address)).unwrap();
    let pipeline = Pipeline::new(pool, exactly(100));
    let error = pipeline.call_timeout(b"too little\n", SENT).unwrap_err();
    assert!(error.is_timeout() && error.was_sent(), "{error:?}");
    // What came is no whole reply; whoever comes next gets a new connection, or reads on.
    let request = [b'x'; 99];
    let reply = pipeline.call_timeout(&[&request[..], b"\n"].concat(), SOON);
    assert_eq!(reply.unwrap().len(), 100);
}

#[test]
fn a_reply_function_that_reads_past_its_reply_hurts_only_its_own_pipeline() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let greedy = Pipeline::new(pool.clone(), |reply| {
        let text = line(reply)?;
        let more = reply.fill_buf()?.len();
        reply.consume(more);
        Ok(text)
    });
    let first = greedy.clone();
    let first = background(move || first.call_timeout(b"1\n", SENT));
    let socket = peer.accept();
    expect(&socket, "1");
    let second = greedy.clone();
    let second = background(move || second.call_timeout(b"2\n", SENT));
    expect(&socket, "2");
    let mut both = &socket;
    both.write_all(b"1\n2\n").unwrap();
    assert_eq!(first.join().unwrap(), "1");
    assert!(second.join().unwrap_err().was_sent());
    drop(greedy);
    assert_eq!(pool.stats().open, 0, "its connection is closed");
}

/// A reply that is far larger than every buffer, in pieces.
#[test]
fn a_reply_larger_than_all_bounds_is_read() {
    let server = Server::serving(|mut socket| {
        while let Ok(line) = read_line(&mut socket) {
            let count: usize = String::from_utf8_lossy(&line).trim().parse().unwrap();
            let _ = socket.write_all(&vec![b'x'; count]);
            let _ = socket.write_all(b"\n");
        }
    });
    let pipeline = lines(&server, 1);
    thread::scope(|scope| {
        for count in [1, 5_000_000, 10, 100_000, 1_000_000] {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let reply = pipeline.call(format!("{count}\n").as_bytes()).unwrap();
                assert_eq!(reply.len(), count);
            });
        }
    });
}

/// It is not run again for each piece that comes.
#[test]
fn a_reply_in_pieces_is_read_once_by_a_leader_that_stays() {
    let peer = Peer::new();
    let runs = Arc::new(Count::default());
    let counted = Arc::clone(&runs);
    let pipeline = Pipeline::new(peer.pool(1), move |reply: &mut dyn BufRead| {
        counted.up();
        line(reply)
    });
    let (first, mut socket) = sent_to(&pipeline, &peer, "first");
    for byte in *b"first\n" {
        socket.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(first.join().unwrap(), "first");
    assert_eq!(runs.get(), 1);
}
