//! What a pipeline owes to the pool that it works on.

use std::time::Instant;

use super::*;
use crate::support::{assert_closed, refused};
use jackpot::{Backoff, Close, Eviction};

/// So many threads call one time after the other until this is done.
fn while_calling(pipeline: &Pipeline<String>, threads: usize, act: impl FnOnce()) {
    let stop = Count::default();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while stop.get() == 0 {
                    pipeline.call(b"busy\n").unwrap();
                }
            });
        }
        act();
        stop.up();
    });
}

#[test]
fn a_lane_gives_way_to_a_caller_that_pulls() {
    let server = Server::echo();
    let pipeline = lines(&server, 1);
    while_calling(&pipeline, 8, || {
        for _ in 0..20 {
            let pulled = pipeline.pool().pull_timeout(SOON);
            drop(pulled.unwrap());
        }
    });
    assert_eq!(pipeline.stats().lost, 0);
}

#[test]
fn a_pipeline_works_beside_leases_that_never_end() {
    let server = Server::echo();
    let pipeline = lines(&server, 4);
    let held: Vec<_> = (0..3).map(|_| pipeline.pool().pull().unwrap()).collect();
    thread::scope(|scope| {
        for _ in 0..16 {
            let pipeline = &pipeline;
            scope.spawn(move || {
                for _ in 0..100 {
                    pipeline.call_timeout(b"hello\n", SOON).unwrap();
                }
            });
        }
    });
    drop(held);
}

#[test]
fn a_call_that_gets_no_connection_of_its_own_goes_out_on_anothers() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 2);
    let held = pipeline.pool().pull().unwrap();
    let _far = peer.accept();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = sent_on(&pipeline, &socket, "second");
    for (call, reply) in [(first, "1"), (second, "2")] {
        answer(&socket, reply);
        assert_eq!(call.join().unwrap(), reply);
    }
    drop(held);
}

/// The lane that is freed before its lease is back makes its next leader wait in the pool's line.
#[test]
fn a_lane_that_ends_has_its_lease_back_before_the_next_begins() {
    let server = Server::echo();
    let pipeline = lines(&server, 1);
    for _ in 0..2000 {
        pipeline.call(b"one after the other\n").unwrap();
    }
    let waits = pipeline.pool().stats().waits;
    assert!(waits <= 1, "{waits} calls waited for a connection");
}

#[test]
fn a_lane_whose_connection_is_doomed_goes_back_once_its_replies_have_come() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = sent_on(&pipeline, &socket, "second");
    assert_eq!(pipeline.pool().free(0).doomed, 1);
    answer(&socket, "1");
    assert_eq!(first.join().unwrap(), "1");
    let third = call(&pipeline, "third"); // not on this one
    queued(&pipeline, 1);
    answer(&socket, "2");
    assert_eq!(second.join().unwrap(), "2");
    let socket = peer.accept();
    expect(&socket, "third");
    answer(&socket, "3");
    assert_eq!(third.join().unwrap(), "3");
    assert_eq!(pipeline.pool().stats().evicted(Eviction::Freed), 1);
}

#[test]
fn a_lowered_limit_takes_lanes_away() {
    let server = Server::echo();
    let pipeline = lines(&server, 4);
    while_calling(&pipeline, 16, || {
        eventually("all are in use", || pipeline.pool().stats().open == 4);
        pipeline.pool().set_limit(2);
        eventually("two are closed", || pipeline.pool().stats().open <= 2);
    });
    assert_eq!(pipeline.stats().lost, 0);
}

#[test]
fn the_end_of_the_pool_is_told_to_who_is_queued_and_spares_what_is_in_flight() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).max_in_flight(1).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = call(&pipeline, "second");
    queued(&pipeline, 1);
    pipeline.pool().end();
    match second.join() {
        Err(CallError::Pool(error)) => assert!(error.is_ended()),
        other => panic!("{other:?}"),
    }
    assert!(!pipeline.pool().drain(Duration::ZERO));
    answer(&socket, "1");
    assert_eq!(first.join().unwrap(), "1");
    assert!(pipeline.pool().drain(SOON));
    assert!(matches!(pipeline.call(b"more\n"), Err(CallError::Pool(_))));
}

#[test]
fn a_hard_end_cuts_what_is_in_flight() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, _socket) = sent_to(&pipeline, &peer, "first");
    pipeline.pool().end_with(Close::Hard);
    if crate::support::shutdown_wakes() {
        assert!(first.join().unwrap_err().was_sent());
        assert!(pipeline.pool().drain(SOON));
    }
}

#[test]
fn a_pull_that_failed_is_told_to_all_who_are_queued() {
    let gone = refused();
    let pool = Pool::builder(move || TcpStream::connect(gone))
        .limit(1)
        .backoff(Backoff::new().retries(1).min(Duration::from_millis(100)))
        .build()
        .unwrap();
    let pipeline = Pipeline::new(pool, line);
    let calls: Vec<_> = (0..10).map(|_| call(&pipeline, "hello")).collect();
    for call in calls {
        match call.join() {
            Err(CallError::Pool(error)) => assert!(error.is_connect(), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pipeline.stats().queued, 0);
}

#[test]
fn connections_wear_out_under_a_pipeline_too() {
    let server = Server::echo();
    let pool = server
        .builder(1)
        .max_lifetime(Some(Duration::from_millis(50)))
        .reap_interval(Some(Duration::from_millis(10)))
        .build()
        .unwrap();
    let pipeline = Pipeline::new(pool, line);
    thread::scope(|scope| {
        for _ in 0..8 {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let until = Instant::now() + Duration::from_millis(400);
                while Instant::now() < until {
                    pipeline.call(b"busy\n").unwrap();
                }
            });
        }
    });
    let stats = pipeline.pool().stats();
    assert!(stats.evicted(Eviction::MaxLifetime) >= 2, "{stats}");
    assert_eq!(pipeline.stats().lost, 0);
}

#[test]
fn a_pipeline_that_is_dropped_leaves_no_reply_behind_for_another_caller() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let pipeline = Pipeline::new(pool.clone(), line);
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    let socket = peer.accept();
    expect(&socket, "hasty");
    hasty.join().unwrap_err();
    drop(pipeline);
    eventually("the lane that drifted is closed", || pool.stats().open == 0);
}

/// A pipeline of one lane on which nobody waits any more, and the other side of its connection.
fn adrift(peer: &Peer) -> (Pipeline<String>, TcpStream) {
    let pipeline = by_hand(peer, 1);
    let hasty = call_timeout(&pipeline, "hasty", SENT);
    let socket = peer.accept();
    expect(&socket, "hasty");
    assert!(hasty.join().unwrap_err().was_sent());
    let stats = pipeline.pool().stats();
    assert_eq!((stats.leased, pipeline.stats().lanes), (1, 1), "{stats}");
    (pipeline, socket)
}

#[test]
fn a_lane_that_the_pool_has_closed_is_no_longer_counted() {
    let peer = Peer::new();
    let (pipeline, _socket) = adrift(&peer);
    pipeline.pool().free(0);
    eventually("it is gone from the numbers", || {
        let stats = pipeline.stats();
        (stats.lanes, stats.in_flight) == (0, 0)
    });
    // And it can start again.
    let (next, new) = sent_to(&pipeline, &peer, "next");
    answer(&new, "next");
    assert_eq!(next.join().unwrap(), "next");
}

#[test]
fn a_lane_on_which_nobody_waits_makes_way_for_a_caller_that_pulls() {
    let peer = Peer::new();
    let (pipeline, mut old) = adrift(&peer);
    let lease = pipeline.pool().pull_timeout(SOON).unwrap();
    assert_closed(&mut old);
    assert_eq!(pipeline.pool().stats().evicted(Eviction::Unanswered), 1);
    drop(lease);
    drop(peer.accept());
    // Who comes next finds no connection there any more.
    let (next, new) = sent_to(&pipeline, &peer, "next");
    answer(&new, "next");
    assert_eq!(next.join().unwrap(), "next");
    assert_eq!(pipeline.stats().lanes, 0);
}

#[test]
fn free_and_end_close_a_lane_on_which_nobody_waits() {
    let peer = Peer::new();
    let (pipeline, mut socket) = adrift(&peer);
    let freed = pipeline.pool().free(0);
    assert_eq!((freed.closed, freed.doomed), (1, 0));
    assert_closed(&mut socket);
    let peer = Peer::new();
    let (pipeline, mut socket) = adrift(&peer);
    assert!(!pipeline.pool().drain(Duration::ZERO));
    pipeline.pool().end();
    assert!(pipeline.pool().drain(SOON));
    assert_closed(&mut socket);
    let peer = Peer::new();
    let (pipeline, mut socket) = adrift(&peer);
    pipeline.pool().set_limit(0);
    assert_closed(&mut socket);
}

/// It writes, or does not wake up, for as long as the other side likes.
#[test]
fn a_leader_that_cannot_go_on_holds_up_no_call_that_another_lane_can_carry() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 2);
    let stuck = call(&pipeline, &"x".repeat(64_000_000));
    let mut full = peer.accept();
    let (second, socket) = sent_to(&pipeline, &peer, "second");
    let third = sent_on(&pipeline, &socket, "third");
    answer(&socket, "2");
    answer(&socket, "3");
    assert_eq!(second.join().unwrap(), "2");
    assert_eq!(third.join().unwrap(), "3");
    // What it was stuck with is taken at last.
    let (mut bytes, mut count) = (vec![0; 1 << 16], 1);
    while bytes[count - 1] != b'\n' {
        count = full.read(&mut bytes).unwrap();
    }
    answer(&full, "1");
    assert_eq!(stuck.join().unwrap(), "1");
}
