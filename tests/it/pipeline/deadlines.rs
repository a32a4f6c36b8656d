//! When the time of a call is up.

use std::time::Instant;

use jackpot::Stream;

use super::replies::lost;
use super::*;
use crate::support::NEVER;

const SHORT: Duration = Duration::from_millis(40);
/// What a loaded machine may add.
const LATE: Duration = Duration::from_secs(4);

#[test]
fn a_time_out_of_zero_sends_nothing() {
    let server = Server::echo();
    let pipeline = lines(&server, 1);
    let error = pipeline.call_timeout(b"no\n", Duration::ZERO).unwrap_err();
    assert!(error.is_timeout() && !error.was_sent());
    let error = pipeline.call_until(b"no\n", Instant::now()).unwrap_err();
    assert!(error.is_timeout() && !error.was_sent());
    assert_eq!(pipeline.call(b"yes\n").unwrap(), "yes");
    assert_eq!((server.requests(), pipeline.stats().timeouts), (1, 2));
}

#[test]
fn a_call_without_a_connection_in_time_was_not_sent() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let held = pipeline.pool().pull().unwrap();
    let error = pipeline.call_timeout(b"hello\n", SHORT).unwrap_err();
    assert!(error.is_timeout() && !error.was_sent(), "{error:?}");
    drop(held);
    let mut socket = peer.accept();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    assert!(socket.read(&mut [0]).is_err(), "it was sent");
}

/// It is taken off the queue, but before it gets the lead its time runs out.
#[test]
fn a_queued_call_whose_time_is_up_says_that_it_was_not_sent_and_is_so() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).max_in_flight(1).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let late = call_timeout(&pipeline, "late", SENT);
    queued(&pipeline, 1);
    let error = late.join().unwrap_err();
    assert!(error.is_timeout() && !error.was_sent(), "{error:?}");
    queued(&pipeline, 0);
    answer(&socket, "1");
    assert_eq!(first.join().unwrap(), "1");
    let next = sent_on(&pipeline, &socket, "next");
    answer(&socket, "2");
    assert_eq!(next.join().unwrap(), "2");
}

#[test]
fn an_abandoned_reply_is_dropped_and_the_connection_lives_on() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (second, socket) = sent_to(&pipeline, &peer, "second");
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    expect(&socket, "hasty");
    let last = sent_on(&pipeline, &socket, "last");
    let error = hasty.join().unwrap_err();
    assert!(error.is_timeout() && error.was_sent(), "{error:?}");
    for reply in ["second", "hasty", "last"] {
        answer(&socket, reply);
    }
    assert_eq!(second.join().unwrap(), "second");
    assert_eq!(last.join().unwrap(), "last");
    let stats = pipeline.stats();
    assert_eq!(
        (stats.timeouts, stats.abandoned, stats.in_flight),
        (1, 1, 0)
    );
    assert_eq!(pipeline.pool().stats().idle, 1);
}

#[test]
fn nothing_new_goes_out_behind_an_overdue_reply() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (second, mut socket) = sent_to(&pipeline, &peer, "second");
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    expect(&socket, "hasty");
    hasty.join().unwrap_err();
    let third = call(&pipeline, "third");
    queued(&pipeline, 1);
    socket.set_read_timeout(Some(SHORT)).unwrap();
    assert!(
        socket.read(&mut [0]).is_err(),
        "it was sent behind an overdue reply"
    );
    answer(&socket, "second");
    expect(&socket, "third"); // a byte has come
    answer(&socket, "hasty");
    answer(&socket, "third");
    assert_eq!(second.join().unwrap(), "second");
    assert_eq!(third.join().unwrap(), "third");
}

/// The successor reads the reply from its first byte.
#[test]
fn a_leader_whose_time_is_up_in_the_middle_of_a_reply_hands_over() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    let mut socket = peer.accept();
    expect(&socket, "hasty");
    let second = sent_on(&pipeline, &socket, "second");
    socket.write_all(b"has").unwrap();
    let error = hasty.join().unwrap_err();
    assert!(error.is_timeout() && error.was_sent(), "{error:?}");
    socket.write_all(b"ty\nsec").unwrap();
    socket.write_all(b"ond\n").unwrap();
    assert_eq!(second.join().unwrap(), "second");
    assert_eq!(pipeline.pool().stats().idle, 1);
}

#[test]
fn a_lane_on_which_nobody_waits_is_drained_by_who_comes_next() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let error = call_timeout(&pipeline, "hasty", SENT).join().unwrap_err();
    assert!(error.was_sent());
    let socket = peer.accept();
    expect(&socket, "hasty");
    let stats = pipeline.stats();
    assert_eq!((stats.lanes, stats.in_flight), (1, 1), "it drifts");
    assert_eq!(pipeline.pool().stats().leased, 1);
    answer(&socket, "hasty");
    let next = sent_on(&pipeline, &socket, "next");
    answer(&socket, "next");
    assert_eq!(next.join().unwrap(), "next");
    assert_eq!(pipeline.pool().stats().connects, 1);
}

#[test]
fn a_lane_on_which_nobody_waits_and_nothing_comes_is_replaced() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    call_timeout(&pipeline, "hasty", SENT).join().unwrap_err();
    let old = peer.accept();
    expect(&old, "hasty");
    let (next, new) = sent_to(&pipeline, &peer, "next");
    answer(&new, "next");
    assert_eq!(next.join().unwrap(), "next");
    assert_eq!(pipeline.pool().stats().releases, 1);
}

/// Its leader has no time left, all others on it neither, but one is queued.
#[test]
fn a_queued_call_takes_over_a_lane_that_all_have_given_up() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).max_in_flight(1).build().unwrap();
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    let old = peer.accept();
    expect(&old, "hasty");
    let second = call(&pipeline, "second");
    hasty.join().unwrap_err();
    let new = peer.accept();
    expect(&new, "second");
    answer(&new, "second");
    assert_eq!(second.join().unwrap(), "second");
}

#[test]
fn a_drip_of_bytes_does_not_outlive_the_deadline() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let started = Instant::now();
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    let mut socket = peer.accept();
    expect(&socket, "hasty");
    let error = loop {
        if let Some(result) = hasty.is_done_with() {
            break result.unwrap_err();
        }
        socket.write_all(b".").unwrap();
        thread::sleep(Duration::from_millis(5));
    };
    assert!(error.is_timeout(), "{error:?}");
    assert!(started.elapsed() < SENT + LATE);
}

#[test]
fn a_request_that_nobody_reads_does_not_outlive_its_deadline() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let started = Instant::now();
    let request = vec![b'x'; 64_000_000];
    let error = pipeline.call_timeout(&request, SENT).unwrap_err();
    assert!(error.is_timeout() && error.was_sent(), "{error:?}");
    assert!(started.elapsed() < SENT + LATE);
    assert_eq!(pipeline.pool().stats().open, 0, "it cannot be used again");
}

/// The time-out of the socket is shorter than the deadline meanwhile.
#[test]
fn a_call_that_is_not_answered_waits_until_its_deadline() {
    let peer = Peer::new();
    for read_timeout in [None, Some(NEVER)] {
        let pool = peer.builder(1).read_timeout(read_timeout).build().unwrap();
        let pipeline = Pipeline::new(pool, line);
        let (started, timeout) = (Instant::now(), SHORT * 5);
        let error = pipeline.call_timeout(b"hello?\n", timeout).unwrap_err();
        assert!(error.is_timeout() && error.was_sent(), "{error:?}");
        assert!(started.elapsed() >= timeout);
    }
}

#[test]
fn a_silent_lane_is_given_up_after_the_read_time_out() {
    let peer = Peer::new();
    let pool = peer.builder(1).read_timeout(Some(SENT)).build().unwrap();
    let pipeline = Pipeline::new(pool, line);
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = call_timeout(&pipeline, "second", SOON);
    expect(&socket, "second");
    for call in [first, second] {
        match call.join() {
            Err(CallError::Lost(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            other => panic!("{other:?}"),
        }
    }
}

/// A client whose reads are interrupted again and again, as by a timer of the process.
struct Restless(Stream);

impl Read for Restless {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(5));
        Err(io::ErrorKind::Interrupted.into())
    }
}

impl Write for Restless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_silent_lane_whose_reads_are_interrupted_is_given_up_too() {
    let peer = Peer::new();
    for timeout in [None, Some(NEVER)] {
        let pool = peer
            .builder(1)
            .read_timeout(Some(SHORT))
            .handshake(|stream| Ok::<_, io::Error>(Restless(stream)))
            .build()
            .unwrap();
        let pipeline = Pipeline::new(pool, line);
        let call = background(move || match timeout {
            None => pipeline.call(b"hello?\n"),
            Some(timeout) => pipeline.call_timeout(b"hello?\n", timeout),
        });
        assert_eq!(lost(call.join()), io::ErrorKind::TimedOut, "{timeout:?}");
    }
}

/// Each byte is news, as for a lease's own reads.
#[test]
fn a_lane_that_is_slow_but_not_silent_lives_on() {
    let peer = Peer::new();
    let pool = peer.builder(1).read_timeout(Some(SENT)).build().unwrap();
    let pipeline = Pipeline::new(pool, line);
    let first = call_timeout(&pipeline, "first", SOON);
    let mut socket = peer.accept();
    expect(&socket, "first");
    for byte in *b"slow\n" {
        thread::sleep(SENT / 4);
        socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(first.join().unwrap(), "slow");
}

#[test]
fn time_outs_that_a_leader_set_end_with_the_lease() {
    let server = Server::echo();
    let pipeline = lines(&server, 1);
    assert_eq!(pipeline.call_timeout(b"a\n", SOON).unwrap(), "a");
    let lease = pipeline.pool().pull().unwrap();
    assert_eq!(lease.read_timeout().unwrap(), None);
}
