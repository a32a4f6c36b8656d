//! Clients of type `BufReader<Stream>`, whose memory no probe can look into.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use jackpot::{Connection, Eviction, Pool, Stream};

use crate::support::{Act, Peer, Server, assert_sums, eventually, on_threads};

type Lines = BufReader<Stream>;

#[test]
fn a_lease_is_a_buffered_reader_itself() {
    let peer = Peer::new();
    let pool = pool(peer.address(), 1);
    let mut lines = pool.pull().unwrap();
    let mut other = peer.accept();
    other.write_all(b"one\ntwo;three\nrest").unwrap();
    assert_eq!(line(&mut lines).unwrap(), "one");
    let mut two = Vec::new();
    lines.read_until(b';', &mut two).unwrap();
    assert_eq!(two, b"two;");
    assert_eq!(lines.by_ref().lines().next().unwrap().unwrap(), "three");
    let mut rest = [0; 4];
    lines.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"rest");
    assert_eq!(lines.get_ref().peer_addr().unwrap(), peer.address());
    drop(lines);
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn an_iterator_over_lines_keeps_the_lease_and_gives_it_back() {
    let peer = Peer::new();
    let pool = pool(peer.address(), 1);
    let lines = pool.pull().unwrap().lines();
    let mut far = peer.accept();
    far.write_all(b"one\ntwo\n").unwrap();
    let two: Vec<String> = lines.take(2).map(Result::unwrap).collect();
    assert_eq!(two, ["one", "two"]);
    assert_eq!((pool.stats().leased, pool.stats().open), (0, 1));
}

#[test]
fn lines_read_to_the_last_byte_go_back() {
    let server = Server::echo();
    let pool = pool(server.address(), 1);
    for n in 0..10 {
        let text = format!("request {n}");
        assert_eq!(ask(&mut pool.pull().unwrap(), &text).unwrap(), text);
    }
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn a_second_line_left_in_the_buffer_never_reaches_the_next_caller() {
    for left in ["two\n", "tw", "\n"] {
        let peer = Peer::new();
        let pool = pool(peer.address(), 1);
        let mut lines = pool.pull().unwrap();
        let first = Connection::id(&lines);
        let text = format!("one\n{left}");
        let mut far = peer.accept();
        far.write_all(text.as_bytes()).unwrap();
        assert_eq!(line(&mut lines).unwrap(), "one");
        assert_eq!(lines.buffer(), left.as_bytes());
        drop(lines);
        assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);

        let mut lines = pool.pull().unwrap();
        assert_ne!(Connection::id(&lines), first);
        peer.accept().write_all(b"three\n").unwrap();
        assert_eq!(line(&mut lines).unwrap(), "three");
    }
}

#[test]
fn a_second_line_that_comes_later_never_reaches_the_next_caller() {
    let peer = Peer::new();
    let pool = pool(peer.address(), 1);
    let mut lines = pool.pull().unwrap();
    let mut other = peer.accept();
    other.write_all(b"one\n").unwrap();
    assert_eq!(line(&mut lines).unwrap(), "one");
    drop(lines);
    assert_eq!(pool.stats().idle, 1);
    other.write_all(b"two\n").unwrap();
    eventually("it is found", || pool.reap() == 1);
    assert_eq!(pool.stats().evicted(Eviction::Unread), 1);
}

#[test]
fn a_line_that_the_server_cut_off_closes_the_connection() {
    let peer = Peer::new();
    let pool = pool(peer.address(), 1);
    let mut lines = pool.pull().unwrap();
    let mut other = peer.accept();
    other.write_all(b"on").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    assert_eq!(lines.read_line(&mut text).unwrap(), 2);
    drop(lines);
    assert_eq!(pool.stats().evicted(Eviction::Broken), 1);
}

/// The server adds a byte to every third reply.
#[test]
fn no_caller_among_many_reads_what_another_left() {
    const THREADS: usize = 6;
    const REQUESTS: usize = 60;
    let server = Server::new(|n| if n % 3 == 0 { Act::Stray } else { Act::Echo });
    let pool = pool(server.address(), 3);
    let threads = on_threads(&pool, THREADS, |pool, thread| {
        for n in 0..REQUESTS {
            let text = format!("request {n} of thread {thread}");
            let mut lines = pool.pull().unwrap();
            assert_eq!(ask(&mut lines, &text).unwrap(), text);
        }
    });
    for thread in threads {
        thread.join();
    }
    let stats = pool.stats();
    assert!(stats.evicted(Eviction::RecycleFailed) > 0, "{stats}");
    assert_sums(&stats);
}

/// A pool of buffered readers that go back only with nothing in the buffer.
fn pool(address: SocketAddr, limit: usize) -> Pool<Lines> {
    Pool::builder(move || TcpStream::connect(address))
        .limit(limit)
        .reap_interval(None)
        .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
        .recycle(|lines| match lines.buffer() {
            [] => Ok(()),
            left => Err(format!("{} unread bytes", left.len())),
        })
        .build()
        .unwrap()
}

fn ask(lines: &mut Connection<Lines>, text: &str) -> io::Result<String> {
    lines.get_mut().write_all(format!("{text}\n").as_bytes())?;
    line(lines)
}

/// One line, without its newline.
fn line(lines: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    lines.read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
