//! One deadline for a whole conversation, however many reads and writes it takes.

use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{BufStream, Connection, Eviction, Pool, Stream};
use rustls::version::TLS13;

use crate::support::leases::{one_lease, one_lease_with};
use crate::support::{Background, SOON, Server, assert_back, assert_left, background, eventually};
use crate::tls::{self, DRIP_LINE, TlsServer};

/// Until a deadline that is to strike.
const BRIEF: Duration = Duration::from_millis(80);
/// The same where a server is to have said something before, on a busy machine too.
const LONGER: Duration = Duration::from_millis(800);
/// Between two bytes of a server that drips.
const DRIP: Duration = Duration::from_millis(5);
/// How much later than its deadline a call may return on a busy machine.
const LATE: Duration = Duration::from_secs(4);

/// Fails the test unless this ends at the deadline, by the deadline.
#[track_caller]
fn struck_at<T>(deadline: Instant, what: &str, call: impl FnOnce() -> io::Result<T>) {
    let result = call();
    let ended = Instant::now();
    let error = result.err().unwrap_or_else(|| panic!("{what}: no error"));
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{what}: {error}");
    assert!(ended >= deadline, "{what}: {:?} early", deadline - ended);
    assert!(ended < deadline + LATE, "{what}: {:?}", ended - deadline);
}

/// Something that reads.
type Reading = fn(&mut Connection) -> io::Result<usize>;

const READS: [(&str, Reading); 6] = [
    ("read", |lease| lease.read(&mut [0; 8])),
    ("read_exact", |lease| {
        lease.read_exact(&mut [0; 1 << 20]).map(|()| 0)
    }),
    ("read_to_end", |lease| lease.read_to_end(&mut Vec::new())),
    ("read_vectored", |lease| {
        lease.read_vectored(&mut [IoSliceMut::new(&mut [0; 8])])
    }),
    ("peek", |lease| lease.peek(&mut [0; 8])),
    ("read through &Stream", |lease| {
        Connection::stream(lease).read(&mut [0; 8])
    }),
];

#[test]
fn every_read_ends_at_the_deadline() {
    for own in [None, Some(SOON)] {
        for (what, read) in READS {
            let (_pool, mut lease, _far) = one_lease_with(|b| b.read_timeout(own));
            let deadline = Instant::now() + BRIEF;
            lease.set_deadline(Some(deadline)).unwrap();
            struck_at(deadline, what, || read(&mut lease));
        }
    }
}

#[test]
fn every_write_ends_at_the_deadline() {
    let much = vec![b'.'; 1 << 16];
    let (one, two) = (
        [IoSlice::new(&much)],
        [IoSlice::new(&much[1..]), IoSlice::new(&much)],
    );
    for own in [None, Some(SOON)] {
        for buffers in [&one[..], &two[..]] {
            let (pool, lease, _far) = one_lease_with(|b| b.write_timeout(own));
            let mut stream = Connection::stream(&lease);
            let deadline = Instant::now() + BRIEF;
            stream.set_deadline(Some(deadline)).unwrap();
            struck_at(deadline, "write", || {
                while stream.write_vectored(buffers)? > 0 {}
                Ok(())
            });
            assert_eq!(stream.write_timeout().unwrap(), own);
            Connection::finish(lease);
            assert_left(&pool, Eviction::Broken);
        }
        let (_pool, mut lease, _far) = one_lease_with(|b| b.write_timeout(own));
        let deadline = Instant::now() + BRIEF;
        lease.set_deadline(Some(deadline)).unwrap();
        struck_at::<()>(deadline, "write_all", || {
            loop {
                lease.write_all(&much)?;
            }
        });
    }
}

#[test]
fn a_server_that_drips_does_not_outlive_the_deadline() {
    let server = Server::dripping(DRIP);
    let address = server.address();
    // However long each single read may take.
    for own in [None, Some(SOON), Some(LONGER / 2)] {
        let pool = Pool::builder(move || TcpStream::connect(address))
            .read_timeout(own)
            .build()
            .unwrap();
        let mut lease = pool.pull().unwrap();
        let deadline = Instant::now() + LONGER;
        lease.set_deadline(Some(deadline)).unwrap();
        let mut read = Vec::new();
        struck_at(deadline, "read_to_end", || lease.read_to_end(&mut read));
        assert!(read.len() > 1, "it has not dripped: {}", read.len());
        assert_eq!(lease.read_timeout().unwrap(), own);
    }
}

#[test]
fn a_deadline_reaches_through_a_buf_reader_and_a_buf_stream() {
    let server = Server::dripping(DRIP);
    let address = server.address();
    let connect = move || TcpStream::connect(address);
    let pool = Pool::builder(connect)
        .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
        .build()
        .unwrap();
    let mut lines = pool.pull().unwrap();
    let deadline = Instant::now() + BRIEF;
    let set = Connection::stream(&lines).set_deadline(Some(deadline));
    set.unwrap();
    struck_at(deadline, "BufReader", || {
        lines.read_line(&mut String::new())
    });

    let pool = Pool::builder(connect).buffered().build().unwrap();
    let mut lines: Connection<BufStream> = pool.pull().unwrap();
    let deadline = Instant::now() + BRIEF;
    lines.get_ref().set_deadline(Some(deadline)).unwrap();
    struck_at(deadline, "BufStream", || {
        lines.read_line(&mut String::new())
    });
}

#[test]
fn past_the_deadline_nothing_is_asked_of_the_system() {
    let (_pool, mut lease, mut far) = one_lease();
    far.write_all(b"it is here").unwrap();
    assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 1);
    lease.set_deadline(Some(Instant::now())).unwrap();
    let calls: [(&str, Reading); 6] = [
        ("read", |lease| lease.read(&mut [0; 8])),
        ("read_vectored", |lease| {
            lease.read_vectored(&mut [IoSliceMut::new(&mut [0; 8])])
        }),
        ("peek", |lease| lease.peek(&mut [0; 8])),
        ("write", |lease| lease.write(b"?")),
        ("write_vectored", |lease| {
            lease.write_vectored(&[IoSlice::new(b"?")])
        }),
        ("write through &Stream", |lease| {
            Connection::stream(lease).write(b"?")
        }),
    ];
    for nonblocking in [false, true] {
        lease.set_nonblocking(nonblocking).unwrap();
        for (what, call) in calls {
            let error = call(&mut lease).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{what}");
        }
    }
    far.set_nonblocking(true).unwrap();
    let sent = far.read(&mut [0; 8]).unwrap_err();
    assert_eq!(sent.kind(), ErrorKind::WouldBlock, "nothing was sent");
}

#[test]
fn a_shorter_time_out_of_ones_own_still_counts() {
    let own = Some(BRIEF);
    let (_pool, mut lease, _far) = one_lease_with(|b| b.read_timeout(own));
    let without = lease.read(&mut [0; 8]).unwrap_err();
    lease.set_deadline(Some(Instant::now() + SOON)).unwrap();
    for _ in 0..2 {
        let started = Instant::now();
        let error = lease.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), without.kind());
        assert_eq!(error.raw_os_error(), without.raw_os_error());
        let waited = started.elapsed();
        assert!(waited >= BRIEF / 2 && waited < SOON / 2, "{waited:?}");
    }
    // One that is set under the deadline too.
    lease.set_read_timeout(Some(DRIP)).unwrap();
    let started = Instant::now();
    lease.read(&mut [0; 8]).unwrap_err();
    assert!(started.elapsed() < SOON / 2);
    assert_eq!(lease.read_timeout().unwrap(), Some(DRIP));
}

#[test]
fn time_outs_look_as_if_there_were_no_deadline() {
    let own = (Some(2 * SOON), Some(3 * SOON));
    let (_pool, mut lease, mut far) =
        one_lease_with(|b| b.read_timeout(own.0).write_timeout(own.1));
    let of = |stream: &Stream| {
        let read = stream.read_timeout().unwrap();
        (read, stream.write_timeout().unwrap())
    };
    lease.set_deadline(Some(Instant::now() + SOON)).unwrap();
    assert_eq!(of(&lease), own);
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(of(&lease), own);
    let on_socket = lease.tcp().read_timeout().unwrap().unwrap();
    assert!(on_socket <= SOON, "{on_socket:?}");

    lease.set_read_timeout(None).unwrap();
    assert_eq!(of(&lease), (None, own.1));
    lease.set_deadline(None).unwrap();
    assert_eq!((lease.deadline(), of(&lease)), (None, (None, own.1)));
    assert_eq!(lease.tcp().write_timeout().unwrap(), own.1);
}

#[test]
fn a_deadline_and_what_it_made_of_the_time_outs_end_with_the_lease() {
    let own = (Some(2 * SOON), None);
    let (pool, mut lease, mut far) = one_lease_with(|b| b.read_timeout(own.0).write_timeout(own.1));
    for changes_own in [false, true] {
        lease.set_deadline(Some(Instant::now() + SOON)).unwrap();
        lease.write_all(b"?").unwrap();
        far.write_all(b"!").unwrap();
        lease.read_exact(&mut [0; 1]).unwrap();
        if changes_own {
            lease.set_read_timeout(Some(DRIP)).unwrap();
        }
        drop(lease);
        assert_back(&pool);
        lease = pool.pull().unwrap();
        assert_eq!(lease.deadline(), None);
        assert_eq!(lease.read_timeout().unwrap(), own.0);
        assert_eq!(lease.write_timeout().unwrap(), own.1);
    }
    // And the next caller's reads do not end by it.
    lease.set_deadline(Some(Instant::now())).unwrap();
    drop(lease);
    let mut lease = pool.pull().unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn a_later_deadline_replaces_an_earlier_one() {
    let (pool, mut lease, mut far) = one_lease();
    lease.set_deadline(Some(Instant::now() + DRIP)).unwrap();
    lease.read(&mut [0; 1]).unwrap_err();
    lease.set_deadline(Some(Instant::now() + SOON)).unwrap();
    let answer = background(move || {
        thread::sleep(4 * DRIP);
        far.write_all(b"!").unwrap();
        far
    });
    lease.read_exact(&mut [0; 1]).unwrap();
    let _far = answer.join();
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_deadline_beyond_all_time_outs_is_allowed() {
    let (_pool, mut lease, mut far) = one_lease();
    let years = Duration::from_secs(60 * 60 * 24 * 365 * 50);
    lease.set_deadline(Some(Instant::now() + years)).unwrap();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn without_blocking_a_deadline_only_ends_what_comes_after_it() {
    let (_pool, mut lease, mut far) = one_lease();
    lease.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + BRIEF;
    lease.set_deadline(Some(deadline)).unwrap();
    let started = Instant::now();
    let kind = lease.read(&mut [0; 1]).unwrap_err().kind();
    if started.elapsed() < BRIEF {
        assert_eq!(kind, ErrorKind::WouldBlock);
    }
    far.write_all(b"!").unwrap();
    eventually("the deadline passes", || Instant::now() >= deadline);
    let error = lease.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

/// As a read that timed out does.
#[test]
fn a_lease_whose_deadline_struck_is_unanswered_until_a_byte_comes() {
    let (pool, mut lease, _far) = one_lease();
    lease.set_deadline(Some(Instant::now())).unwrap();
    lease.read(&mut [0; 1]).unwrap_err();
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);

    let (pool, mut lease, mut far) = one_lease();
    lease.set_deadline(Some(Instant::now())).unwrap();
    lease.read(&mut [0; 1]).unwrap_err();
    far.write_all(b"!").unwrap();
    lease.set_deadline(None).unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_second_try_after_the_deadline_makes_a_lease_ambiguous() {
    for nonblocking in [false, true] {
        let (pool, mut lease, mut far) = one_lease();
        lease.write_all(b"first").unwrap();
        far.write_all(b"!").unwrap();
        lease.read_exact(&mut [0; 1]).unwrap(); // half of the reply
        lease.set_nonblocking(nonblocking).unwrap();
        lease.set_deadline(Some(Instant::now())).unwrap();
        lease.read(&mut [0; 1]).unwrap_err();
        lease.set_deadline(None).unwrap();
        lease.write_all(b"second").unwrap();
        far.write_all(b"!").unwrap();
        eventually("a byte", || lease.read(&mut [0; 1]).is_ok());
        drop(lease);
        assert_left(&pool, Eviction::Unanswered);
    }
}

/// A client may keep what it could not send.
#[test]
fn a_lease_whose_write_was_too_late_is_closed_even_if_nothing_was_sent() {
    let (pool, mut lease, _far) = one_lease_with(|b| b.allow_unanswered(true));
    lease.set_deadline(Some(Instant::now())).unwrap();
    lease.write_all(b"?").unwrap_err();
    Connection::finish(lease);
    assert_left(&pool, Eviction::Broken);
}

/// The server drips within a session, or does not even come to the end of its handshake.
#[test]
fn a_deadline_reaches_through_a_tls_session() {
    let server = TlsServer::new(0);
    let pool = server.pool(&TLS13);
    let mut tls = pool.pull().unwrap();
    let deadline = Instant::now() + LONGER;
    let set = Connection::stream(&tls).set_deadline(Some(deadline));
    set.unwrap();
    tls.write_all(format!("{DRIP_LINE}\n").as_bytes()).unwrap();
    let mut read = Vec::new();
    struck_at(deadline, "a session", || tls.read_to_end(&mut read));
    assert!(read.len() > 1, "it has not dripped: {}", read.len());
    drop(tls);
    assert_eq!(pool.stats().idle, 0);

    let slow = Server::serving(|mut socket| {
        // A record of 16 KiB of a handshake.
        let _ = socket.write_all(&[22, 3, 3, 0x40, 0]);
        while socket.write_all(&[0]).is_ok() {
            thread::sleep(DRIP);
        }
    });
    let address = slow.address();
    let config = tls::client(&TLS13);
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake(move |stream| {
            stream.set_deadline(Some(Instant::now() + BRIEF))?;
            tls::shake_hands(&config, tls::NAME, stream)
        })
        .build()
        .unwrap();
    let error = background(move || pool.allocate().unwrap_err()).join();
    let cause = error.io_error().unwrap();
    assert_eq!(cause.kind(), ErrorKind::TimedOut, "{error}");
}

/// A mode that was switched behind the pool's back makes calls return at once.
#[test]
fn a_deadline_does_not_spin_on_a_socket_that_does_not_wait() {
    let (_pool, mut lease, _far) = one_lease();
    lease.tcp().set_nonblocking(true).unwrap();
    lease.set_deadline(Some(Instant::now() + SOON)).unwrap();
    let error = lease.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_reader_and_a_writer_share_a_deadline() {
    let (_pool, lease, mut far) = one_lease();
    lease.set_deadline(Some(Instant::now() + SOON)).unwrap();
    let echo: Background<_> = background(move || {
        let mut bytes = [0; 4];
        for _ in 0..500 {
            far.read_exact(&mut bytes).unwrap();
            far.write_all(&bytes).unwrap();
        }
        far
    });
    let (mut reader, mut writer) = (Connection::stream(&lease), Connection::stream(&lease));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                writer.write_all(b"ping").unwrap();
            }
        });
        for _ in 0..500 {
            reader.read_exact(&mut [0; 4]).unwrap();
        }
    });
    echo.join();
}
