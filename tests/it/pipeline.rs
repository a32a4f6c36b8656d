//! Shared calls: one reply for each, whose it is, and when nobody gets one.

mod deadlines;
mod manners;
mod replies;
#[cfg(unix)]
mod servers;
mod storm;

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use jackpot::{CallError, Error, Pipeline, PipelineBuilder, Pool};

use crate::support::{Background, Peer, SOON, Server, background, connect, eventually, read_line};

/// One line, without its newline.
pub(crate) fn line(reply: &mut dyn BufRead) -> io::Result<String> {
    let mut line = String::new();
    reply.read_line(&mut line)?;
    line.pop();
    Ok(line)
}

/// Time enough for a call to be sent on a loaded machine too, and short enough to wait until it is up.
const SENT: Duration = Duration::from_secs(1);

/// Calls over `limit` connections to this server.
fn lines(server: &Server, limit: usize) -> Pipeline<String> {
    let address = server.address();
    let pool = Pool::new(limit, move || connect(address)).unwrap();
    Pipeline::new(pool, line)
}

/// Calls over `limit` connections to a peer that the test drives by hand.
fn by_hand(peer: &Peer, limit: usize) -> Pipeline<String> {
    settings(peer, limit).build().unwrap()
}

fn settings(peer: &Peer, limit: usize) -> PipelineBuilder<String> {
    Pipeline::builder(peer.pool(limit), line)
}

/// Calls on a thread of its own.
fn call(pipeline: &Pipeline<String>, request: &str) -> Background<Result<String, CallError>> {
    let (pipeline, request) = (pipeline.clone(), format!("{request}\n"));
    background(move || pipeline.call(request.as_bytes()))
}

fn call_timeout(
    pipeline: &Pipeline<String>,
    request: &str,
    timeout: Duration,
) -> Background<Result<String, CallError>> {
    let (pipeline, request) = (pipeline.clone(), format!("{request}\n"));
    background(move || pipeline.call_timeout(request.as_bytes(), timeout))
}

/// The other side reads a line, and it is this one.
#[track_caller]
fn expect(mut socket: &TcpStream, request: &str) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let line = read_line(&mut socket).unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), format!("{request}\n"));
}

fn answer(mut socket: &TcpStream, reply: &str) {
    socket.write_all(format!("{reply}\n").as_bytes()).unwrap();
}

/// A call that has come to the other side on a new connection, and the other end of that.
#[track_caller]
fn sent_to(
    pipeline: &Pipeline<String>,
    peer: &Peer,
    request: &str,
) -> (Background<Result<String, CallError>>, TcpStream) {
    let call = call(pipeline, request);
    let socket = peer.accept();
    expect(&socket, request);
    (call, socket)
}

/// A call that has come to the other side on this connection.
#[track_caller]
fn sent_on(
    pipeline: &Pipeline<String>,
    socket: &TcpStream,
    request: &str,
) -> Background<Result<String, CallError>> {
    let call = call(pipeline, request);
    expect(socket, request);
    call
}

/// So many threads call so often each, and get the replies to their own requests.
fn call_from_threads<C: Read + Write + Send + 'static>(
    pipeline: &Pipeline<String, C>,
    threads: usize,
    calls: usize,
) {
    thread::scope(|scope| {
        for caller in 0..threads {
            scope.spawn(move || {
                for call in 0..calls {
                    let request = format!("{caller} calls {call}");
                    let reply = pipeline.call(format!("{request}\n").as_bytes());
                    assert_eq!(reply.unwrap(), request);
                }
            });
        }
    });
}

fn queued(pipeline: &Pipeline<String>, count: usize) {
    eventually("so many are queued", || pipeline.stats().queued == count);
}

#[test]
fn hundreds_of_callers_get_their_own_replies() {
    let server = Server::echo();
    let pipeline = lines(&server, 4);
    call_from_threads(&pipeline, 200, 50);
    let stats = pipeline.stats();
    let counts = (stats.calls, stats.replies, stats.lost);
    assert_eq!(counts, (10_000, 10_000, 0));
    assert_eq!((stats.queued, stats.in_flight, stats.lanes), (0, 0, 0));
    assert!(stats.writes < stats.calls, "{stats}");
    assert_eq!(server.accepted(), 4);
    assert_eq!(pipeline.pool().stats().idle, 4);
}

#[test]
fn no_more_callers_than_lanes_share_nothing() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 2);
    let [first, second] = [(); 2].map(|()| (pipeline.pool().pull().unwrap(), peer.accept()));
    let ((lease, a), (other, b)) = (second, first);
    drop(other);
    drop(lease); // the newest idle one comes first
    let first = sent_on(&pipeline, &a, "first");
    let second = sent_on(&pipeline, &b, "second");
    answer(&b, "two");
    answer(&a, "one");
    assert_eq!(first.join().unwrap(), "one");
    assert_eq!(second.join().unwrap(), "two");
    let stats = pipeline.stats();
    assert_eq!((stats.calls, stats.writes), (2, 2));
}

/// More callers than lanes: the newest one sends although the leader waits for a reply.
#[test]
fn a_call_that_comes_while_the_leader_waits_does_not_wait_for_its_reply() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = sent_on(&pipeline, &socket, "second");
    let third = sent_on(&pipeline, &socket, "third");
    for reply in ["1", "2", "3"] {
        answer(&socket, reply);
    }
    for (call, reply) in [(first, "1"), (second, "2"), (third, "3")] {
        assert_eq!(call.join().unwrap(), reply);
    }
    assert_eq!(pipeline.pool().stats().idle, 1);
    assert_eq!(pipeline.stats().writes, 3);
}

/// The oldest would hand over after each reply.
#[test]
fn the_newest_in_flight_leads_next() {
    let peer = Peer::new();
    let pipeline = by_hand(&peer, 1);
    let (first, socket) = sent_to(&pipeline, &peer, "0");
    let mut calls = Vec::new();
    for n in 1..5 {
        calls.push(call(&pipeline, &n.to_string()));
        expect(&socket, &n.to_string());
    }
    answer(&socket, "0");
    first.join().unwrap();
    // The last one leads: with its time up the second last would, and so on; nobody else is needed.
    for n in 1..5 {
        answer(&socket, &n.to_string());
        assert_eq!(calls.remove(0).join().unwrap(), n.to_string());
    }
    let stats = pipeline.pool().stats();
    assert_eq!((stats.allocations, stats.idle), (1, 1), "{stats}");
}

#[test]
fn no_more_than_the_bounds_is_outstanding() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1)
        .max_in_flight(2)
        .max_bytes(20)
        .build()
        .unwrap();
    let (a, socket) = sent_to(&pipeline, &peer, "aaaa");
    let b = sent_on(&pipeline, &socket, "bbbb");
    let c = call(&pipeline, "cccccccccccccccc");
    let d = call(&pipeline, "dd");
    queued(&pipeline, 2);
    thread::sleep(Duration::from_millis(20)); // longer than any caller waits before it sends
    assert_eq!(pipeline.stats().in_flight, 2);
    answer(&socket, "a");
    answer(&socket, "b");
    let (mut c, mut d) = (Some(c), Some(d));
    for _ in 0..2 {
        let line = read_line(&mut &socket).unwrap();
        let (call, reply) = if line[0] == b'c' {
            (&mut c, "c")
        } else {
            (&mut d, "d")
        };
        answer(&socket, reply);
        assert_eq!(call.take().unwrap().join().unwrap(), reply);
    }
    assert_eq!(a.join().unwrap(), "a");
    assert_eq!(b.join().unwrap(), "b");
}

#[test]
fn a_request_larger_than_the_bounds_goes_out_alone() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 1).max_bytes(64).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let long = "x".repeat(1_000_000);
    let large = call(&pipeline, &long);
    queued(&pipeline, 1);
    let small = call(&pipeline, "small");
    queued(&pipeline, 2);
    answer(&socket, "1");
    assert_eq!(first.join().unwrap(), "1");
    expect(&socket, &long);
    assert_eq!(pipeline.stats().in_flight, 1);
    answer(&socket, "2");
    assert_eq!(large.join().unwrap(), "2");
    // The lane may have gone back between the two.
    expect(&socket, "small");
    answer(&socket, "3");
    assert_eq!(small.join().unwrap(), "3");
    assert_eq!(pipeline.pool().stats().connects, 1);
}

/// A server that writes its replies before it reads on, as many as its buffers hold.
#[test]
fn both_sides_never_only_write() {
    let server = Server::serving(|socket| {
        // The whole request is echoed eight times, so a reply is far larger than its request.
        let mut socket = socket;
        while let Ok(line) = read_line(&mut socket) {
            let reply = line[..line.len() - 1].repeat(2000);
            if socket.write_all(&[&reply[..], b"\n"].concat()).is_err() {
                return;
            }
        }
    });
    let pipeline = lines(&server, 2);
    thread::scope(|scope| {
        for caller in 0..64 {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let request = format!("{caller:0500}\n");
                let reply = pipeline.call(request.as_bytes()).unwrap();
                assert_eq!(reply.len(), 1_000_000);
            });
        }
    });
    assert_eq!(pipeline.stats().lost, 0);
}

#[test]
fn a_setting_of_zero_is_refused() {
    type Set = fn(PipelineBuilder<String>) -> PipelineBuilder<String>;
    let peer = Peer::new();
    let sets: [(&str, Set); 3] = [
        ("lanes", |builder| builder.lanes(0)),
        ("max_in_flight", |builder| builder.max_in_flight(0)),
        ("max_bytes", |builder| builder.max_bytes(0)),
    ];
    for (name, set) in sets {
        match set(settings(&peer, 1)).build() {
            Err(Error::InvalidConfig(text)) => assert!(text.contains(name), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn debug_shows_the_settings_and_no_client() {
    let settings = settings(&Peer::new(), 1);
    let shown = format!("{settings:?}");
    let defaults = "lanes: None, max_in_flight: 32, max_bytes: 16384, repeatable: false";
    assert!(shown.contains(defaults), "{shown}");
    let shown = format!("{:?}", settings.build().unwrap());
    assert!(shown.starts_with("Pipeline"), "{shown}");
}

#[test]
fn lanes_are_never_more_than_was_said() {
    let peer = Peer::new();
    let pipeline = settings(&peer, 5).lanes(1).build().unwrap();
    let (first, socket) = sent_to(&pipeline, &peer, "first");
    let second = sent_on(&pipeline, &socket, "second");
    assert_eq!(
        (pipeline.stats().lanes, pipeline.pool().stats().open),
        (1, 1)
    );
    answer(&socket, "1");
    answer(&socket, "2");
    first.join().unwrap();
    second.join().unwrap();
}

/// What a client buffers goes out with a flush.
#[test]
fn calls_go_through_a_client_that_buffers() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || connect(address))
        .limit(2)
        .buffered()
        .build()
        .unwrap();
    let pipeline = Pipeline::new(pool, line);
    call_from_threads(&pipeline, 20, 50);
    assert_eq!(pipeline.stats().replies, 1000);
}

/// A reply that needs exactly so many bytes, whatever they are.
fn exactly(count: usize) -> impl Fn(&mut dyn BufRead) -> io::Result<Vec<u8>> + Send + Sync {
    move |reply| {
        let mut bytes = vec![0; count];
        reply.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// How often something was done.
#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn up(&self) -> usize {
        self.0.fetch_add(1, SeqCst) + 1
    }

    fn get(&self) -> usize {
        self.0.load(SeqCst)
    }
}
