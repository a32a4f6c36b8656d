//! What goes back into the pool, and what is closed instead.

mod ends;
mod panics;
mod peeks;
mod sends;

use std::io::{self, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use jackpot::{Connection, Eviction, Stream};

use crate::support::leases::{DOOMS, came_to_nothing, one_lease, one_lease_with, stall};
use crate::support::{
    Peer, assert_back, assert_closed, assert_left, background, eventually, panic_quietly, reset,
    shows_resets,
};

const MOMENT: Duration = Duration::from_millis(5);

/// Something that a caller does with its lease.
type Deed = fn(&mut Connection) -> io::Result<usize>;

/// Every way to read.
const READS: [(&str, Deed); 6] = [
    ("through the lease", |lease| lease.read(&mut [0; 8])),
    ("through the lease, vectored", |lease| {
        lease.read_vectored(&mut [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [0; 8])])
    }),
    ("through Stream", |lease| (**lease).read(&mut [0; 8])),
    ("through Stream, vectored", |lease| {
        (**lease).read_vectored(&mut [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [0; 8])])
    }),
    ("through &Stream", |lease| {
        Connection::stream(lease).read(&mut [0; 8])
    }),
    ("through &Stream, vectored", |lease| {
        Connection::stream(lease)
            .read_vectored(&mut [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [0; 8])])
    }),
];

/// Every way to write.
const WRITES: [(&str, Deed); 6] = [
    ("through the lease", |lease| lease.write(b"?")),
    ("through the lease, vectored", |lease| {
        lease.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"?")])
    }),
    ("through Stream", |lease| (**lease).write(b"?")),
    ("through Stream, vectored", |lease| {
        (**lease).write_vectored(&[IoSlice::new(b""), IoSlice::new(b"?")])
    }),
    ("through &Stream", |lease| {
        Connection::stream(lease).write(b"?")
    }),
    ("through &Stream, vectored", |lease| {
        Connection::stream(lease).write_vectored(&[IoSlice::new(b""), IoSlice::new(b"?")])
    }),
];

/// Every way to do nothing at length.
const NOTHINGS: [(&str, Deed); 6] = [
    ("read", |lease| lease.read(&mut [])),
    ("read_vectored", |lease| {
        lease.read_vectored(&mut [IoSliceMut::new(&mut []), IoSliceMut::new(&mut [])])
    }),
    ("read_vectored of no buffers", |lease| {
        lease.read_vectored(&mut [])
    }),
    ("write", |lease| lease.write(b"")),
    ("write_vectored", |lease| {
        lease.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"")])
    }),
    ("write_vectored of no buffers", |lease| {
        lease.write_vectored(&[])
    }),
];

#[test]
fn a_lease_that_was_not_used_goes_back() {
    let (pool, lease, _far) = one_lease();
    drop(lease);
    assert_back(&pool);
}

#[test]
fn an_answered_request_goes_back() {
    for (write, read) in WRITES.iter().zip(&READS) {
        let (pool, mut lease, mut far) = one_lease();
        assert_eq!(write.1(&mut lease).unwrap(), 1, "{}", write.0);
        far.write_all(b"!").unwrap();
        assert_eq!(read.1(&mut lease).unwrap(), 1, "{}", read.0);
        drop(lease);
        assert_back(&pool);
    }
}

#[test]
fn a_request_without_an_answer_is_closed() {
    for (way, write) in WRITES {
        let (pool, mut lease, mut far) = one_lease();
        assert_eq!(write(&mut lease).unwrap(), 1, "{way}");
        drop(lease);
        assert_left(&pool, Eviction::Unanswered);
        assert_closed(&mut far);
    }
}

#[test]
fn a_second_request_without_an_answer_is_closed() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"first").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    lease.write_all(b"second").unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn an_end_of_file_breaks_it() {
    for (way, read) in READS {
        let (pool, mut lease, far) = one_lease();
        drop(far);
        assert_eq!(read(&mut lease).unwrap(), 0, "{way}");
        drop(lease);
        assert_left(&pool, Eviction::Broken);
    }
}

#[test]
fn an_error_while_reading_breaks_it() {
    for (way, read) in READS {
        let (pool, mut lease, far) = one_lease();
        reset(far);
        match read(&mut lease) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{way}"),
            Ok(count) => assert!(count == 0 && !shows_resets(), "{way}"),
        }
        drop(lease);
        assert_left(&pool, Eviction::Broken);
    }
}

#[test]
fn an_error_while_writing_breaks_it() {
    for (_, write) in WRITES {
        let (pool, mut lease, far) = one_lease_with(|b| b.allow_unanswered(true));
        reset(far);
        while write(&mut lease).is_ok() {}
        drop(lease);
        assert_left(&pool, Eviction::Broken);
    }
}

#[test]
fn a_shutdown_breaks_it_for_good() {
    for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
        let (pool, lease, mut far) = one_lease();
        lease.shutdown(how).unwrap();
        drop(lease);
        assert_left(&pool, Eviction::Broken);
        assert_closed(&mut far);
    }
    let (pool, mut lease, mut far) = one_lease();
    lease.shutdown(Shutdown::Write).unwrap();
    far.write_all(b"the answer").unwrap();
    lease.read_exact(&mut [0; 10]).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_read_that_times_out_is_unanswered_until_a_byte_comes() {
    for (way, read) in READS {
        let (pool, mut lease, _far) = one_lease_with(|b| b.read_timeout(Some(MOMENT)));
        assert!(came_to_nothing(&read(&mut lease)), "{way}");
        drop(lease);
        assert_left(&pool, Eviction::Unanswered);
    }
    let (pool, mut lease, mut far) = one_lease_with(|b| b.read_timeout(Some(MOMENT)));
    assert!(came_to_nothing(&lease.read(&mut [0; 8])));
    far.write_all(b"!").unwrap();
    eventually("the late byte is read", || lease.read(&mut [0; 8]).is_ok());
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_read_that_would_block_is_unanswered_until_a_byte_comes() {
    for (way, read) in READS {
        let (pool, mut lease, _far) = one_lease();
        lease.set_nonblocking(true).unwrap();
        assert!(came_to_nothing(&read(&mut lease)), "{way}");
        drop(lease);
        assert_left(&pool, Eviction::Unanswered);
    }
    let (pool, mut lease, mut far) = one_lease();
    lease.set_nonblocking(true).unwrap();
    assert!(came_to_nothing(&lease.read(&mut [0; 8])));
    far.write_all(b"!").unwrap();
    eventually("the byte is read", || lease.read(&mut [0; 8]).is_ok());
    drop(lease);
    assert_back(&pool);
}

#[test]
fn zero_length_reads_and_writes_mean_nothing() {
    for (way, nothing) in NOTHINGS {
        let (pool, mut lease, mut far) = one_lease();
        far.write_all(b"!").unwrap(); // else Linux lets even a read of nothing block
        assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 1);
        assert_eq!(nothing(&mut lease).unwrap(), 0, "{way}");
        drop(lease);
        assert_back(&pool);
    }
}

#[test]
fn zero_length_reads_and_writes_answer_nothing() {
    for (way, nothing) in NOTHINGS {
        let (pool, mut lease, mut far) = one_lease();
        lease.write_all(b"?").unwrap();
        far.write_all(b"!").unwrap();
        assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 1);
        assert_eq!(nothing(&mut lease).unwrap(), 0, "{way}");
        drop(lease);
        assert_left(&pool, Eviction::Unanswered);
    }
}

#[test]
fn a_handshake_may_have_written_last() {
    let (pool, lease, mut far) = one_lease_with(|builder| {
        builder.handshake(|mut stream| {
            stream.write_all(b"hello")?;
            Ok::<_, io::Error>(stream)
        })
    });
    far.read_exact(&mut [0; 5]).unwrap();
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_handshake_that_left_the_socket_unfit_has_failed() {
    let unfit: [fn(&Stream); 2] = [
        |stream| stream.shutdown(Shutdown::Write).unwrap(),
        |stream| stream.tcp().shutdown(Shutdown::Write).unwrap(),
    ];
    for make_unfit in unfit {
        let peer = Peer::new();
        let pool = peer
            .builder(1)
            .handshake(move |stream| {
                make_unfit(&stream);
                Ok::<_, io::Error>(stream)
            })
            .build()
            .unwrap();
        let error = pool.allocate().unwrap_err();
        assert!(matches!(error, jackpot::Error::Handshake(_)), "{error}");
        let stats = pool.stats();
        assert_eq!(
            (stats.open, stats.connects, stats.connect_failures),
            (0, 0, 1)
        );
        assert_closed(&mut peer.accept());
    }
}

#[test]
fn the_client_and_the_lease_share_one_memory() {
    let (pool, mut lines, mut far) = one_lease_with(|builder| {
        builder.handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
    });
    lines.get_mut().write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    Connection::stream(&lines).read_exact(&mut [0; 1]).unwrap();
    drop(lines);
    assert_back(&pool);

    let lines = pool.allocate().unwrap();
    Connection::stream(&lines).write_all(b"?").unwrap();
    drop(lines);
    assert_left(&pool, Eviction::Unanswered);
}
