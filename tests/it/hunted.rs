//! Shared calls: faults that a review of them found.

use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use jackpot::{CallError, Pipeline, Pool, Stream};
use socket2::SockRef;

use crate::pipeline::line;
use crate::support::{
    Background, Peer, SOON, background, eventually, happens_within, in_one_of_a_few_tries,
    read_line,
};

fn call(
    pipeline: &Pipeline<String>,
    request: &'static [u8],
) -> Background<Result<String, CallError>> {
    let pipeline = pipeline.clone();
    background(move || pipeline.call(request))
}

#[test]
fn a_reply_function_that_reads_nothing_ran_for_ever() {
    let peer = Peer::new();
    let pipeline = Pipeline::new(peer.pool(1), |_: &mut dyn BufRead| Ok(()));
    let call = background(move || pipeline.call(b"hello\n"));
    let mut socket = peer.accept();
    socket.write_all(b"reply\n").unwrap();
    assert!(matches!(call.join(), Err(CallError::Lost(_))));
}

/// Its leader waits for a reply that never comes, and the other lane found no connection at first.
#[test]
fn a_queued_call_was_not_sent_although_a_connection_had_come_back() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    let lease = pool.pull().unwrap();
    let mut second = peer.accept();
    let pipeline = Pipeline::builder(pool, line).max_in_flight(1);
    let pipeline = pipeline.build().unwrap();
    let _silent = call(&pipeline, b"first\n");
    let first = peer.accept();
    let late = call(&pipeline, b"second\n");
    eventually("the other lane gave up", || {
        let stats = pipeline.stats();
        pipeline.pool().stats().timeouts == 1 && (stats.queued, stats.in_flight) == (1, 1)
    });
    drop(lease);
    second.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(read_line(&mut second).unwrap(), b"second\n");
    second.write_all(b"reply\n").unwrap();
    assert_eq!(late.join().unwrap(), "reply");
    drop(first);
}

#[test]
fn a_caller_that_wrote_much_beside_the_leader_was_held_beyond_its_deadline() {
    let peer = Peer::new();
    let builder = Pipeline::builder(peer.pool(1), line).max_bytes(64 << 20);
    let pipeline = builder.build().unwrap();
    let _silent = call(&pipeline, b"first\n");
    let mut socket = peer.accept();
    read_line(&mut socket).unwrap(); // and nothing more
    let mut much = vec![b'x'; 16 << 20];
    much.push(b'\n');
    let late = background(move || pipeline.call_timeout(&much, Duration::from_millis(100)));
    assert!(late.join().unwrap_err().is_timeout());
}

/// It has more time than the one that wrote before it.
#[test]
fn a_large_request_failed_at_the_deadline_of_the_one_before() {
    let peer = Peer::new();
    let pipeline = Pipeline::new(peer.pool(1), line);
    let large = [vec![b'x'; 32 << 10], b"\n".to_vec()].concat();
    let larger = vec![b'y'; 32 << 20];
    let (size, length) = (large.len(), larger.len());
    let limit = Duration::from_secs(2);
    let first = {
        let pipeline = pipeline.clone();
        background(move || pipeline.call_timeout(&large, limit))
    };
    let mut socket = peer.accept();
    socket.read_exact(&mut vec![0; size]).unwrap();
    let second = {
        let pipeline = pipeline.clone();
        background(move || pipeline.call(&larger))
    };
    eventually("it is queued", || pipeline.stats().queued == 1);
    socket.write_all(b"1\n").unwrap();
    first.join().unwrap();
    std::thread::sleep(limit * 5 / 4); // this time is what is tested
    let count = io::copy(&mut (&socket).take(length as u64), &mut io::sink());
    assert_eq!(count.unwrap(), length as u64);
    socket.write_all(b"2\n").unwrap();
    assert_eq!(second.join().unwrap(), "2");
}

/// Sends, and then panics if it was told to.
struct Panics(Stream);

impl Read for Panics {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Panics {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.0.write(buffer)?;
        assert!(!buffer.starts_with(b"panic"), "as the test wants");
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_client_sent_before_it_panicked_was_sent_again() {
    in_one_of_a_few_tries("two calls are queued while another one is read", || {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let pool = Pool::builder(move || TcpStream::connect(address))
            .limit(1)
            .handshake(|stream| Ok::<_, io::Error>(Panics(stream)))
            .build()
            .unwrap();
        let pipeline = Pipeline::new(pool, line);
        let call = |request: &'static [u8]| {
            let pipeline = pipeline.clone();
            background(move || pipeline.call(request))
        };
        let first = call(b"first\n");
        let (mut socket, _) = server.accept().unwrap();
        read_line(&mut socket).unwrap();
        // Who reads sends for the others after a while, which a busy machine may let pass.
        let queued = |count| {
            let is_queued = || pipeline.stats().queued == count;
            happens_within(Duration::from_millis(50), is_queued)
        };
        let second = call(b"panic\n");
        let is_queued = queued(1);
        let third = call(b"third\n");
        if !is_queued || !queued(2) {
            return false;
        }
        socket.write_all(b"reply\n").unwrap();
        drop(first); // its thread writes for the others, and panics
        for lost in [second, third] {
            assert!(matches!(lost.join(), Err(CallError::Lost(_))));
        }
        server.set_nonblocking(true).unwrap();
        assert!(server.accept().is_err(), "they were sent again");
        true
    });
}

/// A pool of one connection with small buffers at both ends, and a peer that reads nothing by itself.
fn cramped(send: usize, receive: usize) -> (Pool, TcpListener) {
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&peer).set_recv_buffer_size(receive).unwrap();
    let address = peer.local_addr().unwrap();
    let connect = move || {
        let stream = TcpStream::connect(address)?;
        SockRef::from(&stream).set_send_buffer_size(send)?;
        Ok::<_, io::Error>(stream)
    };
    (Pool::new(1, connect).unwrap(), peer)
}

const LIMIT: Duration = Duration::from_millis(200);

#[test]
fn a_leader_with_small_buffers_was_held_in_a_write_beyond_its_deadline() {
    let (pool, _peer) = cramped(2048, 2048);
    let pipeline = Pipeline::new(pool, line);
    let late = background(move || pipeline.call_timeout(&[b'x'; 15 << 10], LIMIT));
    assert!(late.join().unwrap_err().is_timeout());
}

#[test]
fn a_caller_with_small_buffers_was_held_in_a_write_beside_the_leader_beyond_its_deadline() {
    let (pool, peer) = cramped(2048, 2048);
    let pipeline = Pipeline::new(pool, line);
    let _silent = call(&pipeline, b"first\n");
    let (mut socket, _) = peer.accept().unwrap();
    read_line(&mut socket).unwrap(); // and nothing more
    let late = background(move || pipeline.call_timeout(&[b'x'; 15 << 10], LIMIT));
    assert!(late.join().unwrap_err().is_timeout());
}

/// Each write is small, but what nobody has read is more than the buffers hold.
#[test]
fn a_small_write_behind_much_held_its_leader_beyond_its_deadline() {
    let (pool, peer) = cramped(64 << 10, 2048);
    let builder = Pipeline::builder(pool, line).max_bytes(64 << 20);
    let pipeline = builder.build().unwrap();
    let late = {
        let pipeline = pipeline.clone();
        background(move || pipeline.call_timeout(b"first\n", LIMIT * 5))
    };
    let (mut socket, _) = peer.accept().unwrap();
    read_line(&mut socket).unwrap(); // and nothing more
    let mut late = Some(late);
    for _ in 0..40 {
        let pipeline = pipeline.clone();
        let queued = pipeline.stats().calls;
        drop(background({
            let pipeline = pipeline.clone();
            move || pipeline.call(&[b'x'; 15 << 10])
        }));
        let mut over = None;
        eventually("it goes out, or the leader's time is up", || {
            socket.write_all(b".").unwrap(); // the leader wakes up, and sends
            over = late.as_ref().unwrap().is_done_with();
            over.is_some() || pipeline.stats().calls > queued
        });
        if let Some(over) = over {
            assert!(over.unwrap_err().is_timeout());
            return;
        }
    }
    assert!(late.take().unwrap().join().unwrap_err().is_timeout());
}

/// Takes everything at once, and sends it with a flush.
struct Buffers(Stream, Vec<u8>);

impl Read for Buffers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Buffers {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.1.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.write_all(&std::mem::take(&mut self.1))
    }
}

/// The server reads a little now and then, so no single write takes long.
#[test]
fn a_flush_held_its_leader_beyond_its_deadline() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|stream| Ok::<_, io::Error>(Buffers(stream, Vec::new())))
        .build()
        .unwrap();
    let pipeline = Pipeline::new(pool, line);
    let late = background(move || pipeline.call_timeout(&vec![b'x'; 64 << 20], LIMIT));
    let mut socket = peer.accept();
    let started = Instant::now();
    // At this pace it takes twice as long to send it all.
    while started.elapsed() < SOON {
        socket.read_exact(&mut vec![0; 64 << 10]).ok();
        if let Some(over) = late.is_done_with() {
            assert!(over.unwrap_err().is_timeout());
            return;
        }
        std::thread::sleep(LIMIT / 10); // this is the server's pace
    }
    panic!("its time was up long ago");
}

/// What a pull waits for is no silence of the server.
#[test]
fn a_connection_that_was_waited_for_was_given_up_before_its_first_reply() {
    let peer = Peer::new();
    let given = Duration::from_millis(300);
    let builder = peer.builder(1).read_timeout(Some(given));
    let pool = builder.build().unwrap();
    let lease = pool.pull().unwrap();
    let pipeline = Pipeline::new(pool, line);
    let call = {
        let pipeline = pipeline.clone();
        background(move || pipeline.call_timeout(b"hello\n", SOON))
    };
    eventually("it waits", || pipeline.pool().stats().waiting == 1);
    std::thread::sleep(given * 2); // this time is what is tested
    drop(lease);
    let mut socket = peer.accept();
    assert_eq!(read_line(&mut socket).unwrap(), b"hello\n");
    std::thread::sleep(given / 6); // and this one, the server's
    socket.write_all(b"1\n").unwrap();
    assert_eq!(call.join().unwrap(), "1");
}

#[test]
fn the_beginning_of_an_unasked_reply_was_taken_for_the_next_callers() {
    let peer = Peer::new();
    let pipeline = Pipeline::builder(peer.pool(1), line)
        .max_in_flight(1)
        .build()
        .unwrap();
    let call = |request: &'static [u8]| {
        let pipeline = pipeline.clone();
        background(move || pipeline.call(request))
    };
    let first = call(b"first\n");
    let mut old = peer.accept();
    read_line(&mut old).unwrap();
    let second = call(b"second\n");
    eventually("it is queued", || pipeline.stats().queued == 1);
    old.write_all(b"1\nun").unwrap();
    assert_eq!(first.join().unwrap(), "1");
    let mut new = peer.accept();
    assert_eq!(read_line(&mut new).unwrap(), b"second\n");
    new.write_all(b"2\n").unwrap();
    assert_eq!(second.join().unwrap(), "2");
}
