//! Buffered leases: one system call for a request, and a pool that knows what the buffers hold.

use std::io::{self, BufRead, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use jackpot::{BufStream, Builder, Connection, Error, Eviction, Pool};

use crate::support::leases::one_lease_with;
use crate::support::{
    SOON, Server, assert_back, assert_closed, assert_left, background, eventually,
};

/// Longer than all buffers of a socket.
const MUCH: usize = 16 << 20;

/// A lease with buffers of so many bytes.
fn with_capacity(read: usize, write: usize) -> (Pool<BufStream>, Connection<BufStream>, TcpStream) {
    one_lease_with(|builder| {
        builder.handshake(move |stream| {
            Ok::<_, io::Error>(BufStream::with_capacity(read, write, stream))
        })
    })
}

/// Whether nothing has come here.
#[track_caller]
fn assert_silent(far: &TcpStream) {
    far.set_nonblocking(true).unwrap();
    let found = far.peek(&mut [0; 8]);
    far.set_nonblocking(false).unwrap();
    assert_eq!(found.unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// What one read finds here.
fn one_read(mut far: &TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 16];
    let count = far.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn a_request_of_many_writes_is_sent_by_the_read_of_its_reply() {
    let (pool, mut lease, far) = one_lease_with(Builder::buffered);
    write!(lease, "get {:?} ", 7).unwrap();
    lease.write_all(b"and ").unwrap();
    let pieces = [IoSlice::new(b"mo"), IoSlice::new(b"re\n")];
    assert_eq!(lease.write_vectored(&pieces).unwrap(), 5);
    assert_eq!(lease.unsent(), b"get 7 and more\n");
    assert_silent(&far);
    let server = background(move || {
        let request = one_read(&far);
        (&far).write_all(b"value\n").unwrap();
        (far, request)
    });
    let mut line = String::new();
    lease.read_line(&mut line).unwrap();
    let (_far, request) = server.join();
    assert_eq!(
        (line.as_str(), request.as_slice()),
        ("value\n", &b"get 7 and more\n"[..])
    );
    assert!(lease.unsent().is_empty() && lease.unread().is_empty());
    drop(lease);
    assert_back(&pool);
}

#[test]
fn flush_sends() {
    let (_pool, mut lease, far) = one_lease_with(Builder::buffered);
    lease.write_all(b"request").unwrap();
    assert_silent(&far);
    lease.flush().unwrap();
    assert_eq!(one_read(&far), b"request");
    lease.flush().unwrap();
    assert_silent(&far);
}

#[test]
fn a_write_of_nothing_leaves_nothing_unsent() {
    let (pool, mut lease, _far) = one_lease_with(Builder::buffered);
    assert_eq!(lease.write(b"").unwrap(), 0);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn buffers_hold_8_kib_unless_told_otherwise() {
    let (_pool, mut lease, mut far) = one_lease_with(Builder::buffered);
    let bytes = [b'.'; 8192];
    lease.write_all(&bytes).unwrap();
    assert_eq!(lease.unsent().len(), bytes.len());
    lease.write_all(b"!").unwrap(); // one more than fits
    assert!(lease.unsent().is_empty());
    far.write_all(&bytes).unwrap();
    far.write_all(b"!").unwrap();
    eventually("all has come", || {
        let come = lease.get_ref().tcp().peek(&mut [0; 9000]);
        come.unwrap() == bytes.len() + 1
    });
    assert_eq!(lease.fill_buf().unwrap().len(), bytes.len());
}

#[test]
fn a_read_from_the_buffer_sends_nothing() {
    let (_pool, mut lease, mut far) = one_lease_with(Builder::buffered);
    far.write_all(b"one\ntwo\n").unwrap();
    assert_eq!(lease.fill_buf().unwrap()[0], b'o');
    let mut line = String::new();
    lease.read_line(&mut line).unwrap();
    lease.write_all(b"request").unwrap();
    lease.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    assert_silent(&far);
}

#[test]
fn unread_bytes_in_the_buffer_close_as_unread() {
    for finishes in [false, true] {
        let (pool, mut lease, mut far) = one_lease_with(Builder::buffered);
        far.write_all(b"one\ntwo\n").unwrap();
        lease.read_line(&mut String::new()).unwrap();
        assert_eq!(lease.unread(), b"two\n");
        if finishes {
            Connection::finish(lease);
        } else {
            drop(lease);
        }
        assert_left(&pool, Eviction::Unread);
    }
}

#[test]
fn unsent_bytes_close_as_unanswered_whatever_is_said() {
    let settings: [fn(Builder) -> Builder; 3] = [
        |b| b,
        |b| b.only_finished(true),
        |b| b.allow_unanswered(true),
    ];
    for settings in settings {
        for finishes in [false, true] {
            let (pool, mut lease, mut far) = one_lease_with(|b| settings(b).buffered());
            lease.write_all(b"half a requ").unwrap();
            if finishes {
                Connection::finish(lease);
            } else {
                drop(lease);
            }
            assert_left(&pool, Eviction::Unanswered);
            far.set_read_timeout(Some(SOON)).unwrap();
            assert_eq!(far.read(&mut [0; 8]).unwrap(), 0, "nothing was sent");
        }
    }
}

#[test]
fn neither_discard_nor_the_end_of_the_pool_sends_what_was_not_sent() {
    let (_pool, mut lease, mut far) = one_lease_with(Builder::buffered);
    lease.write_all(b"half a requ").unwrap();
    Connection::discard(lease);
    assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);

    let (pool, mut lease, mut far) = one_lease_with(Builder::buffered);
    lease.write_all(b"half a requ").unwrap();
    pool.end();
    drop(lease);
    assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
}

/// A client of the user's own that has a buffered stream inside.
struct Client {
    line: BufStream,
}

#[test]
fn a_client_of_ones_own_tells_too() {
    let client = |b: Builder| {
        b.handshake(|stream| {
            let line = BufStream::new(stream);
            Ok::<_, io::Error>(Client { line })
        })
    };
    let (pool, mut lease, mut far) = one_lease_with(client);
    far.write_all(b"one\ntwo\n").unwrap();
    lease.line.read_line(&mut String::new()).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Unread);

    let (pool, mut lease, _far) = one_lease_with(client);
    lease.line.write_all(b"half a requ").unwrap();
    Connection::finish(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_handshake_that_leaves_bytes_in_the_buffers_has_failed() {
    let greeting = Server::serving(|mut socket| {
        let _ = socket.write_all(b"one\ntwo\n");
        let _ = socket.read(&mut [0; 1]);
    });
    let address = greeting.address();
    let fails = |shake_hands: fn(&mut BufStream) -> io::Result<()>| {
        let pool = Pool::builder(move || TcpStream::connect(address))
            .handshake(move |stream| {
                let mut stream = BufStream::new(stream);
                shake_hands(&mut stream).map(|()| stream)
            })
            .build()
            .unwrap();
        let error = pool.allocate().unwrap_err();
        assert!(matches!(error, Error::Handshake(_)), "{error:?}");
        let source = std::error::Error::source(&error).unwrap();
        source.to_string()
    };
    let unread = fails(|stream| stream.read_line(&mut String::new()).map(drop));
    assert_eq!(unread, "the handshake left bytes unread in its buffer");
    let unsent = fails(|stream| stream.write_all(b"hello"));
    assert_eq!(unsent, "the handshake left bytes unsent in its buffer");
}

#[test]
fn with_allow_unread_the_next_caller_reads_on() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.allow_unread(true).buffered());
    far.write_all(b"one\ntwo\n").unwrap();
    lease.read_line(&mut String::new()).unwrap();
    drop(lease);
    assert_back(&pool);
    let mut line = String::new();
    pool.pull().unwrap().read_line(&mut line).unwrap();
    assert_eq!(line, "two\n");
}

#[test]
fn a_ping_that_leaves_bytes_in_the_buffers_closes() {
    let server = Server::serving(|mut socket| {
        let _ = io::copy(&mut socket.try_clone().unwrap(), &mut socket);
    });
    let address = server.address();
    let (tell, told) = std::sync::mpsc::channel();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .reap_interval(None)
        .buffered()
        .ping(Duration::from_nanos(1), move |stream| {
            stream.write_all(b"PING\nPING\n")?;
            stream.read_line(&mut String::new())?;
            stream.write_all(b"and")?;
            let _ = tell.send(());
            Ok::<_, io::Error>(())
        })
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    pool.reap();
    told.recv_timeout(SOON).unwrap();
    crate::support::eventually("it closes", || pool.stats().open == 0);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_write_larger_than_the_buffer_goes_out_with_what_is_there() {
    let (_pool, mut lease, far) = with_capacity(64, 8);
    lease.write_all(b"small").unwrap();
    assert_silent(&far);
    assert_eq!(lease.write(b" and large").unwrap(), 10);
    assert!(lease.unsent().is_empty());
    assert_eq!(one_read(&far), b"small and large");
    // Without anything there too, and in pieces.
    assert_eq!(lease.write(b"0123456789").unwrap(), 10);
    assert_eq!(one_read(&far), b"0123456789");
    let pieces = [
        IoSlice::new(b"01234"),
        IoSlice::new(b""),
        IoSlice::new(b"56789"),
    ];
    assert_eq!(lease.write_vectored(&pieces).unwrap(), 10);
    assert_eq!(one_read(&far), b"0123456789");
    // What just fits stays.
    assert_eq!(lease.write(b"01234567").unwrap(), 8);
    assert_silent(&far);
    assert_eq!(lease.write(b"8").unwrap(), 1);
    assert_eq!(one_read(&far), b"012345678");
}

#[test]
fn without_room_for_writing_each_write_is_sent_at_once() {
    let (_pool, mut lease, mut far) = with_capacity(0, 0);
    lease.write_all(b"now").unwrap();
    assert_eq!(one_read(&far), b"now");
    far.write_all(b"a line\n").unwrap();
    let mut line = String::new();
    lease.read_line(&mut line).unwrap();
    assert_eq!(line, "a line\n");
}

#[test]
fn a_read_larger_than_the_buffer_goes_past_it() {
    let (pool, mut lease, mut far) = with_capacity(4, 64);
    lease.write_all(b"request").unwrap();
    far.write_all(b"0123456789").unwrap();
    let mut bytes = [0; 10];
    assert_eq!(lease.read(&mut bytes).unwrap(), 10);
    assert_eq!(one_read(&far), b"request");
    // What is in the buffer comes first.
    far.write_all(b"01234567").unwrap();
    assert_eq!(lease.fill_buf().unwrap(), b"0123");
    assert_eq!(lease.read(&mut bytes).unwrap(), 4);
    let (mut head, mut tail) = ([0; 2], [0; 2]);
    let mut both = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
    assert_eq!(lease.read_vectored(&mut both).unwrap(), 4);
    assert_eq!((head, tail), (*b"45", *b"67"));
    drop(lease);
    assert_back(&pool);
}

#[test]
fn short_vectored_reads_are_served_from_the_buffer() {
    let (_pool, mut lease, mut far) = one_lease_with(Builder::buffered);
    far.write_all(b"0123456789").unwrap();
    let (mut head, mut tail) = ([0; 3], [0; 3]);
    let mut both = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut tail)];
    assert_eq!(lease.read_vectored(&mut both).unwrap(), 6);
    assert_eq!((head, tail), (*b"012", *b"345"));
    assert_eq!(lease.unread(), b"6789");
    assert_eq!(lease.read(&mut []).unwrap(), 0);
    assert_eq!(lease.read_vectored(&mut []).unwrap(), 0);
}

/// It was sent in part, so nobody may go on from here but its own caller.
#[test]
fn what_a_flush_could_not_send_in_time_is_kept_and_closes() {
    let (pool, mut lease, _far) = one_lease_with(|b| {
        b.write_timeout(Some(Duration::from_millis(20)))
            .handshake(|stream| Ok::<_, io::Error>(BufStream::with_capacity(64, MUCH, stream)))
    });
    lease.write_all(&vec![b'.'; MUCH]).unwrap();
    let error = lease.flush().unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));
    let rest = lease.unsent().len();
    // Windows does not say how much it has sent when a write times out.
    assert!(rest > 0 && (rest < MUCH || cfg!(windows)), "{rest}");
    // A read sends first, and does not pass over that either.
    lease.read(&mut [0; 1]).unwrap_err();
    Connection::finish(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_flush_that_failed_goes_on_where_it_stopped() {
    let (pool, mut lease, mut far) = one_lease_with(|b| {
        b.handshake(|stream| Ok::<_, io::Error>(BufStream::with_capacity(64, MUCH, stream)))
    });
    let request: Vec<u8> = (0..MUCH).map(|n| n.to_le_bytes()[1]).collect();
    lease.write_all(&request).unwrap();
    lease.get_ref().set_nonblocking(true).unwrap();
    assert_eq!(lease.flush().unwrap_err().kind(), ErrorKind::WouldBlock);
    let server = background(move || {
        let mut read = vec![0; MUCH];
        far.read_exact(&mut read).unwrap();
        far.write_all(b"!").unwrap();
        (far, read)
    });
    lease.get_ref().set_nonblocking(false).unwrap();
    lease.flush().unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    let (_far, read) = server.join();
    assert!(read == request, "the request arrived whole");
    drop(lease);
    assert_back(&pool);
}

/// In small pieces, against a socket that takes as much as it likes of each.
#[test]
fn nothing_is_lost_or_sent_twice_where_a_socket_takes_only_a_part() {
    let (_pool, mut lease, mut far) = with_capacity(64, 1000);
    let request: Vec<u8> = (0..MUCH).map(|n| n.to_le_bytes()[1]).collect();
    lease.get_ref().set_nonblocking(true).unwrap();
    let server = background(move || {
        let mut read = vec![0; MUCH];
        far.read_exact(&mut read).unwrap();
        read
    });
    let mut pieces = request.chunks(777);
    let mut left: &[u8] = &[];
    loop {
        if left.is_empty() {
            let Some(piece) = pieces.next() else { break };
            left = piece;
        }
        match lease.write(left) {
            Ok(count) => left = &left[count..],
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    while let Err(error) = lease.flush() {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    assert!(server.join() == request, "the request arrived whole");
}

#[test]
fn a_second_try_through_the_buffers_is_seen() {
    let moment = Some(Duration::from_millis(5));
    let (pool, mut lease, mut far) = one_lease_with(|b| b.read_timeout(moment).buffered());
    lease.write_all(b"first\n").unwrap();
    lease.read_line(&mut String::new()).unwrap_err();
    lease.write_all(b"second\n").unwrap();
    lease.flush().unwrap();
    far.write_all(b"late\n").unwrap();
    lease.get_ref().set_read_timeout(Some(SOON)).unwrap();
    lease.read_line(&mut String::new()).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn the_end_of_the_stream_is_the_end() {
    let (pool, mut lease, far) = one_lease_with(Builder::buffered);
    (&far).write_all(b"rest").unwrap();
    drop(far);
    let mut rest = String::new();
    lease.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "rest");
    assert!(lease.fill_buf().unwrap().is_empty());
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_flush_into_a_connection_that_is_gone_fails_and_closes() {
    let (pool, mut lease, far) = one_lease_with(Builder::buffered);
    lease.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    lease.write_all(b"request").unwrap();
    lease.flush().unwrap_err();
    assert_eq!(lease.unsent(), b"request");
    drop(lease);
    assert_left(&pool, Eviction::Broken);
    assert_closed(&mut { far });
}

#[test]
fn it_shows_what_it_holds() {
    let (_pool, mut lease, _far) = one_lease_with(Builder::buffered);
    lease.write_all(b"12345").unwrap();
    let shown = format!("{:?}", &*lease);
    assert!(shown.starts_with("BufStream { stream: Stream("), "{shown}");
    assert!(shown.contains("unread: 0, unsent: 5"), "{shown}");
}
