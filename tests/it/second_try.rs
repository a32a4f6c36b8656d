//! A second request on a lease whose first reply is late: the replies can no longer be told apart.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Eviction, Pool};

use crate::support::leases::{one_lease, one_lease_with};
use crate::support::{SOON, assert_back, assert_closed, assert_left, eventually};

const MOMENT: Duration = Duration::from_millis(5);

/// A lease whose reads wait for a moment.
fn short_timeout(settings: impl FnOnce(Builder) -> Builder) -> (Pool, Connection, TcpStream) {
    one_lease_with(|builder| settings(builder.read_timeout(Some(MOMENT))))
}

/// A lease whose reads do not wait at all.
fn non_blocking() -> (Pool, Connection, TcpStream) {
    let (pool, lease, far) = one_lease();
    lease.set_nonblocking(true).unwrap();
    (pool, lease, far)
}

/// Reads and gets nothing.
#[track_caller]
fn wait_in_vain(mut from: impl Read) {
    let error = from.read(&mut [0; 8]).unwrap_err();
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut));
}

#[track_caller]
fn read_one(lease: &mut Connection, far: &mut TcpStream) {
    far.write_all(b"!").unwrap();
    eventually("the byte comes", || lease.read(&mut [0; 1]).is_ok());
}

/// Sends, waits in vain, sends again and reads the late first reply.
#[track_caller]
fn pair_wrongly(lease: &mut Connection, far: &mut TcpStream) {
    lease.write_all(b"first").unwrap();
    wait_in_vain(&mut *lease);
    lease.write_all(b"second").unwrap();
    read_one(lease, far);
}

#[test]
fn the_reply_to_a_second_try_does_not_reach_the_next_caller() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    let first = Connection::id(&lease);
    pair_wrongly(&mut lease, &mut far);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
    assert_closed(&mut far);
    // The second reply comes now, and goes nowhere.
    assert!(pool.connections().iter().all(|left| left.id != first));
}

#[test]
fn no_later_reply_makes_a_lease_with_a_second_try_fit_again() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    pair_wrongly(&mut lease, &mut far);
    for _ in 0..3 {
        read_one(&mut lease, &mut far);
        lease.write_all(b"another").unwrap();
        read_one(&mut lease, &mut far);
    }
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_second_try_without_blocking_counts_too() {
    let (pool, mut lease, mut far) = non_blocking();
    pair_wrongly(&mut lease, &mut far);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_second_try_in_several_pieces_counts_too() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    lease.write_all(b"first").unwrap();
    wait_in_vain(Connection::stream(&lease));
    let pieces = [IoSlice::new(b"sec"), IoSlice::new(b"ond")];
    assert_eq!(lease.write_vectored(&pieces).unwrap(), 6);
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

/// The caller of a read that waits knows that the reply is not over.
#[test]
fn a_second_try_after_half_a_reply_counts_too() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    lease.write_all(b"first").unwrap();
    read_one(&mut lease, &mut far);
    wait_in_vain(&mut lease);
    lease.write_all(b"second").unwrap();
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_second_try_after_a_peek_in_vain_counts_too() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    lease.write_all(b"first").unwrap();
    lease.peek(&mut [0; 1]).unwrap_err();
    lease.write_all(b"second").unwrap();
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

/// Some check whether the connection lives before they ask on.
#[test]
fn a_request_after_a_reply_and_a_peek_in_vain_is_no_second_try() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    for _ in 0..3 {
        lease.write_all(b"request").unwrap();
        read_one(&mut lease, &mut far);
        lease.peek(&mut [0; 1]).unwrap_err();
    }
    drop(lease);
    assert_back(&pool);
}

#[test]
fn finish_says_that_a_second_try_is_over() {
    let settings: [fn(Builder) -> Builder; 2] = [|b| b, |b| b.only_finished(true)];
    for settings in settings {
        let (pool, mut lease, mut far) = short_timeout(settings);
        pair_wrongly(&mut lease, &mut far);
        read_one(&mut lease, &mut far);
        Connection::finish(lease);
        assert_back(&pool);
        // And it is over: the next lease has a fresh start.
        let mut lease = pool.allocate().unwrap();
        lease.write_all(b"third").unwrap();
        read_one(&mut lease, &mut far);
        Connection::finish(lease);
        assert_back(&pool);
    }
}

#[test]
fn with_allow_unanswered_a_second_try_is_allowed_too() {
    let (pool, mut lease, mut far) = short_timeout(|b| b.allow_unanswered(true));
    pair_wrongly(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_late_reply_without_a_second_try_does_no_harm() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    lease.write_all(b"first").unwrap();
    wait_in_vain(&mut lease);
    wait_in_vain(&mut lease);
    read_one(&mut lease, &mut far);
    lease.write_all(b"second").unwrap();
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_request_after_a_wait_in_which_none_was_outstanding_is_no_second_try() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    wait_in_vain(&mut lease);
    wait_in_vain(&mut lease);
    lease.write_all(b"first").unwrap();
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);

    // Nor is it one for the next caller.
    let mut lease = pool.allocate().unwrap();
    wait_in_vain(&mut lease);
    lease.write_all(b"first").unwrap();
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn requests_that_are_sent_before_the_first_read_are_no_second_try() {
    let (pool, mut lease, mut far) = short_timeout(|b| b);
    lease.write_all(b"one ").unwrap();
    lease.write_all(b"request").unwrap();
    wait_in_vain(&mut lease);
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_loop_that_asks_waits_and_reads_without_blocking_goes_back() {
    let (pool, mut lease, mut far) = non_blocking();
    for _ in 0..3 {
        lease.write_all(b"request").unwrap();
        wait_in_vain(&mut lease);
        read_one(&mut lease, &mut far);
        // Until it would block, as loops do that are told of changes only.
        wait_in_vain(&mut lease);
    }
    lease.write_all(b"request").unwrap();
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_loop_without_blocking_behind_the_pools_back_goes_back_too() {
    let (pool, mut lease, mut far) = one_lease();
    lease.tcp().set_nonblocking(true).unwrap();
    for _ in 0..3 {
        lease.write_all(b"request").unwrap();
        wait_in_vain(&mut lease);
        read_one(&mut lease, &mut far);
        wait_in_vain(&mut lease);
    }
    lease.write_all(b"request").unwrap();
    read_one(&mut lease, &mut far);
    lease.tcp().set_nonblocking(false).unwrap();
    drop(lease);
    assert_back(&pool);
}

/// A loop that reads while its request is still on the way into the socket.
#[test]
fn the_rest_of_a_request_is_no_second_try() {
    let (pool, mut lease, mut far) = non_blocking();
    far.set_nonblocking(true).unwrap();
    let request = vec![b'.'; 8 << 20];
    let mut sent = 0;
    let deadline = Instant::now() + SOON;
    while sent < request.len() {
        assert!(Instant::now() < deadline, "stuck at {sent}");
        match lease.write(&request[sent..]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if sent < request.len() {
            wait_in_vain(&mut lease);
        }
        let drained = io::copy(&mut far, &mut io::sink());
        assert_eq!(drained.unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    read_one(&mut lease, &mut far);
    drop(lease);
    assert_back(&pool);
}
