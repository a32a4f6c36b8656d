//! What goes back into the pool, and what is closed instead.

use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use jackpot::{Builder, Close, Connection, Eviction, Pool, Stream};

use crate::support::{
    Peer, assert_back, assert_closed, assert_left, background, eventually, panic_quietly, reset,
    shows_resets,
};

const MOMENT: Duration = Duration::from_millis(5);

/// The one lease of a pool with these settings, and the other end of its socket.
fn one_lease_with<C: Send + 'static>(
    settings: impl FnOnce(Builder) -> Builder<C>,
) -> (Pool<C>, Connection<C>, TcpStream) {
    let peer = Peer::new();
    let pool = settings(peer.builder(1)).build().unwrap();
    let lease = pool.allocate().unwrap();
    (pool, lease, peer.accept())
}

fn one_lease() -> (Pool, Connection, TcpStream) {
    one_lease_with(|builder| builder)
}

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

/// Writes until no more fits.
fn stall(mut stream: &Stream) -> ErrorKind {
    let much = vec![b'.'; 65536];
    loop {
        if let Err(error) = stream.write(&much) {
            return error.kind();
        }
    }
}

/// Whether a read failed because nothing came.
fn came_to_nothing(result: &io::Result<usize>) -> bool {
    result
        .as_ref()
        .is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

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
fn a_peek_of_zero_length_means_nothing() {
    let (pool, mut lease, mut far) = one_lease();
    far.write_all(b"!").unwrap();
    assert_eq!(lease.peek(&mut []).unwrap(), 0);
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_peek_that_sees_the_end_breaks_it() {
    let (pool, lease, far) = one_lease();
    drop(far);
    assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 0);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_peek_that_fails_breaks_it() {
    let (pool, lease, far) = one_lease();
    reset(far);
    match lease.peek(&mut [0; 1]) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        Ok(count) => assert!(count == 0 && !shows_resets()),
    }
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_peek_that_sees_nothing_changes_nothing() {
    let (pool, lease, _far) = one_lease_with(|b| b.read_timeout(Some(MOMENT)));
    assert!(came_to_nothing(&lease.peek(&mut [0; 1])));
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_peek_is_no_answer() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 1);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_pending_error_that_is_taken_breaks_it() {
    if !shows_resets() {
        return eprintln!("skipped: here, a reset leaves no error behind");
    }
    let (pool, lease, far) = one_lease();
    assert!(lease.take_error().unwrap().is_none());
    reset(far);
    eventually("the error is there", || {
        lease.take_error().unwrap().is_some()
    });
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn asking_for_an_error_that_is_not_there_changes_nothing() {
    let (pool, lease, _far) = one_lease();
    assert!(lease.take_error().unwrap().is_none());
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_lease_whose_thread_panics_is_closed_and_its_slot_is_free() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let lease = pool.allocate().unwrap();
    let mut far = peer.accept();
    let panicked = thread::spawn(move || {
        let _lease = lease;
        panic_quietly()
    });
    assert!(panicked.join().is_err());
    assert_left(&pool, Eviction::Panicked);
    assert_closed(&mut far);
    assert!(pool.allocate().is_ok());
}

#[test]
fn an_answered_lease_whose_thread_panics_is_closed() {
    let (pool, mut lease, mut far) = one_lease();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _lease = lease;
        panic_quietly()
    }));
    assert!(panicked.is_err());
    assert_left(&pool, Eviction::Panicked);
}

#[test]
fn a_lease_finished_while_its_thread_panics_is_closed() {
    struct Finishes(Option<Connection>);
    impl Drop for Finishes {
        fn drop(&mut self) {
            Connection::finish(self.0.take().unwrap());
        }
    }
    for only_finished in [false, true] {
        let (pool, lease, _far) = one_lease_with(|b| b.only_finished(only_finished));
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _lease = Finishes(Some(lease));
            panic_quietly()
        }));
        assert!(panicked.is_err());
        assert_left(&pool, Eviction::Panicked);
    }
}

#[test]
fn a_lease_that_survives_a_caught_panic_goes_back() {
    let (pool, lease, _far) = one_lease();
    assert!(catch_unwind(|| panic_quietly()).is_err());
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_lease_may_be_finished_on_another_thread() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    background(move || lease.read_exact(&mut [0; 1]))
        .join()
        .unwrap();
    assert_back(&pool);

    let mut lease = pool.allocate().unwrap();
    lease.write_all(b"?").unwrap();
    background(move || drop(lease)).join();
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn recycle_decides_on_what_is_otherwise_fit() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (pool, lease, _far) = one_lease_with({
        let calls = Arc::clone(&calls);
        move |builder| {
            builder.recycle(move |_| match calls.fetch_add(1, SeqCst) {
                0 => Ok(()),
                _ => Err("worn out"),
            })
        }
    });
    drop(lease);
    assert_back(&pool);
    drop(pool.allocate().unwrap());
    assert_left(&pool, Eviction::RecycleFailed);
    assert_eq!(calls.load(SeqCst), 2);
}

#[test]
fn recycle_that_panics_closes() {
    let (pool, lease, mut far) =
        one_lease_with(|b| b.recycle(|_| -> Result<(), &str> { panic_quietly() }));
    drop(lease);
    assert_left(&pool, Eviction::RecycleFailed);
    assert_closed(&mut far);
}

#[test]
fn recycle_that_finds_the_end_closes() {
    let (pool, lease, far) = one_lease_with(|b| {
        b.recycle(|stream| {
            stream
                .tcp()
                .shutdown(Shutdown::Read)
                .and_then(|()| stream.read(&mut [0; 1]))
                .map(drop)
        })
    });
    drop(lease);
    assert_left(&pool, Eviction::Broken);
    drop(far);
}

#[test]
fn recycle_is_not_asked_about_what_closes_anyway() {
    type Harm = fn(&Pool, &mut Connection);
    let unfit: [(Eviction, Harm); 5] = [
        (Eviction::Broken, |_, lease| {
            lease.shutdown(Shutdown::Write).unwrap();
        }),
        (Eviction::Unanswered, |_, lease| {
            lease.write_all(b"?").unwrap();
        }),
        (Eviction::Freed, |pool, _| {
            pool.free(0);
        }),
        (Eviction::Ended, |pool, _| pool.end()),
        (Eviction::HalfClosed, |_, lease| {
            lease.tcp().shutdown(Shutdown::Write).unwrap();
        }),
    ];
    for (why, make_unfit) in unfit {
        let asked = Arc::new(AtomicUsize::new(0));
        let (pool, mut lease, _far) = one_lease_with({
            let asked = Arc::clone(&asked);
            move |builder| {
                builder.recycle(move |_| {
                    asked.fetch_add(1, SeqCst);
                    Ok::<_, io::Error>(())
                })
            }
        });
        make_unfit(&pool, &mut lease);
        drop(lease);
        assert_left(&pool, why);
        assert_eq!(asked.load(SeqCst), 0, "asked about {why}");
    }
}

#[test]
fn bytes_in_the_clients_own_buffer_are_found_by_recycle() {
    let (pool, mut lines, mut far) = one_lease_with(|builder| {
        builder
            .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
            .recycle(|lines| match lines.buffer() {
                [] => Ok(()),
                _ => Err("bytes that nobody read"),
            })
    });
    let mut line = String::new();
    far.write_all(b"one\n").unwrap();
    lines.read_line(&mut line).unwrap();
    drop(lines);
    assert_back(&pool);

    let mut lines = pool.allocate().unwrap();
    far.write_all(b"two\nthree\n").unwrap();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    drop(lines);
    assert_left(&pool, Eviction::RecycleFailed);
    assert_closed(&mut far);
}

#[test]
fn a_lifetime_ends_a_connection_between_leases_never_within_one() {
    let lifetime = Duration::from_millis(20);
    let (pool, mut lease, mut far) = one_lease_with(|b| b.max_lifetime(Some(lifetime)));
    eventually("it is too old", || pool.connections()[0].age > lifetime);
    assert_eq!(pool.reap(), 0);
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::MaxLifetime);
    assert_closed(&mut far);
}

/// What dooms a lease that is out, whatever its caller does.
type Doom = fn(&Pool);

const DOOMS: [(Eviction, Doom); 3] = [
    (Eviction::Ended, |pool| pool.end()),
    (Eviction::Freed, |pool| {
        pool.free(0);
    }),
    (Eviction::OverLimit, |pool| pool.set_limit(0)),
];

#[test]
fn a_doomed_lease_works_on_and_closes_when_it_comes_back() {
    for (why, doom) in DOOMS {
        let (pool, mut lease, mut far) = one_lease();
        doom(&pool);
        lease.write_all(b"?").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        far.write_all(b"!").unwrap();
        lease.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(pool.stats().leased, 1);
        drop(lease);
        assert_left(&pool, why);
        assert_closed(&mut far);
    }
}

#[test]
fn a_limit_that_was_raised_again_in_time_closes_nothing() {
    let (pool, lease, _far) = one_lease();
    pool.set_limit(0);
    pool.set_limit(1);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn unread_bytes_close_at_the_next_probe() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_back(&pool); // nobody has looked yet
    let error = pool.pull_timeout(Duration::ZERO).unwrap_err();
    assert!(error.is_timeout());
    assert_left(&pool, Eviction::Unread);
    assert_closed(&mut far);
}

#[test]
fn unread_bytes_close_at_the_next_sweep() {
    let (pool, mut lease, mut far) = one_lease();
    far.write_all(b"!!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    Connection::finish(lease);
    assert_back(&pool);
    assert_eq!(pool.reap(), 1);
    assert_left(&pool, Eviction::Unread);
}

#[test]
fn unread_bytes_are_not_handed_to_a_caller_who_waits() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let mut first = pool.allocate().unwrap();
    let dirty = Connection::id(&first);
    let mut far = peer.accept();
    let second = background({
        let pool = pool.clone();
        move || Connection::id(&pool.pull().unwrap())
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    far.write_all(b"!!").unwrap();
    first.read_exact(&mut [0; 1]).unwrap();
    drop(first);
    assert_ne!(second.join(), dirty);
    assert_eq!(pool.stats().evicted(Eviction::Unread), 1);
}

#[test]
fn with_allow_unread_a_server_may_speak_first() {
    let (pool, lease, mut far) = one_lease_with(|b| b.allow_unread(true));
    let id = Connection::id(&lease);
    drop(lease);
    far.write_all(b"news").unwrap();
    eventually("the news are there", || {
        let lease = pool.allocate().unwrap();
        lease.set_nonblocking(true).unwrap();
        lease.peek(&mut [0; 4]).is_ok()
    });
    assert_eq!(pool.reap(), 0);
    let mut lease = pool.allocate().unwrap();
    assert_eq!(Connection::id(&lease), id);
    let mut news = [0; 4];
    lease.read_exact(&mut news).unwrap();
    assert_eq!(&news, b"news");
    drop(lease);
    assert_back(&pool);
}

#[test]
fn with_allow_unread_a_request_without_an_answer_is_closed_all_the_same() {
    let (pool, mut lease, _far) = one_lease_with(|b| b.allow_unread(true));
    lease.write_all(b"?").unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn with_only_finished_no_other_way_out_leads_back() {
    fn leaves_early(mut lease: Connection) -> io::Result<()> {
        lease.read_exact(&mut [0; 1])?;
        Err(io::Error::other("the reply says no"))?;
        Connection::finish(lease);
        Ok(())
    }
    fn forgets_a_branch(mut lease: Connection) {
        let mut reply = [0];
        lease.read_exact(&mut reply).unwrap();
        if reply != *b"!" {
            Connection::finish(lease);
        }
    }
    let ways: [(Eviction, fn(Connection)); 6] = [
        (Eviction::Unfinished, drop),
        (Eviction::Unfinished, |lease| {
            leaves_early(lease).unwrap_err();
        }),
        (Eviction::Unfinished, forgets_a_branch),
        (Eviction::Panicked, |lease| {
            let panicked = catch_unwind(AssertUnwindSafe(move || {
                let _lease = lease;
                panic_quietly()
            }));
            assert!(panicked.is_err());
        }),
        (Eviction::Discarded, Connection::discard),
        (Eviction::Detached, |lease| drop(Connection::detach(lease))),
    ];
    for (why, leave) in ways {
        let (pool, lease, mut far) = one_lease_with(|b| b.only_finished(true));
        far.write_all(b"!").unwrap();
        leave(lease);
        assert_left(&pool, why);
    }
}

#[test]
fn with_only_finished_what_is_finished_goes_back() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.only_finished(true));
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    Connection::finish(lease);
    assert_back(&pool);
    Connection::finish(pool.allocate().unwrap());
    assert_back(&pool);
}

#[test]
fn with_only_finished_what_is_broken_says_so() {
    let (pool, mut lease, far) = one_lease_with(|b| b.only_finished(true));
    drop(far);
    assert_eq!(lease.read(&mut [0; 1]).unwrap(), 0);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn finish_overrides_unanswered() {
    for only_finished in [false, true] {
        let settings = |b: Builder| b.only_finished(only_finished).read_timeout(Some(MOMENT));
        let (pool, mut lease, _far) = one_lease_with(settings);
        lease.write_all(b"no reply to this").unwrap();
        Connection::finish(lease);
        assert_back(&pool);

        let mut lease = pool.allocate().unwrap();
        assert!(came_to_nothing(&lease.read(&mut [0; 1])));
        Connection::finish(lease);
        assert_back(&pool);
    }
}

#[test]
fn what_finish_overrode_is_over() {
    let (pool, mut lease, _far) = one_lease();
    lease.write_all(b"no reply to this").unwrap();
    Connection::finish(lease);
    drop(pool.allocate().unwrap());
    assert_back(&pool);
}

#[test]
fn finish_overrides_nothing_else() {
    type Harm = fn(&mut Connection, TcpStream);
    let unfit: [(Eviction, Harm); 5] = [
        (Eviction::Broken, |lease, far| {
            drop(far);
            assert_eq!(lease.read(&mut [0; 1]).unwrap(), 0);
        }),
        (Eviction::Broken, |lease, far| {
            reset(far);
            assert_eq!(lease.read(&mut [0; 1]).is_err(), shows_resets());
        }),
        (Eviction::Broken, |lease, _| {
            lease.shutdown(Shutdown::Write).unwrap();
        }),
        (Eviction::Broken, |lease, _far| {
            lease.set_write_timeout(Some(MOMENT)).unwrap();
            stall(lease);
        }),
        (Eviction::HalfClosed, |lease, _far| {
            lease.tcp().shutdown(Shutdown::Write).unwrap();
        }),
    ];
    for (why, make_unfit) in unfit {
        for only_finished in [false, true] {
            let (pool, mut lease, far) = one_lease_with(|b| b.only_finished(only_finished));
            make_unfit(&mut lease, far);
            Connection::finish(lease);
            assert_left(&pool, why);
        }
    }
    for (why, doom) in DOOMS {
        for only_finished in [false, true] {
            let (pool, lease, _far) = one_lease_with(|b| b.only_finished(only_finished));
            doom(&pool);
            Connection::finish(lease);
            assert_left(&pool, why);
        }
    }
}

#[test]
fn finish_does_not_override_recycle_or_age() {
    let (pool, lease, _far) = one_lease_with(|b| b.recycle(|_| Err::<(), _>("no")));
    Connection::finish(lease);
    assert_left(&pool, Eviction::RecycleFailed);

    let (pool, lease, _far) = one_lease_with(|b| b.max_lifetime(Some(MOMENT)));
    eventually("it is too old", || pool.connections()[0].age > MOMENT);
    Connection::finish(lease);
    assert_left(&pool, Eviction::MaxLifetime);
}

#[test]
fn with_allow_unanswered_a_client_may_only_send() {
    let (pool, mut lease, _far) =
        one_lease_with(|b| b.allow_unanswered(true).read_timeout(Some(MOMENT)));
    lease.write_all(b"requests:1|c\n").unwrap();
    drop(lease);
    assert_back(&pool);
    let mut lease = pool.allocate().unwrap();
    assert!(came_to_nothing(&lease.read(&mut [0; 1])));
    drop(lease);
    assert_back(&pool);
}

#[test]
fn with_allow_unanswered_a_write_that_stalled_closes_all_the_same() {
    let (pool, lease, _far) =
        one_lease_with(|b| b.allow_unanswered(true).write_timeout(Some(MOMENT)));
    assert!(matches!(
        stall(&lease),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));
    drop(lease);
    assert_left(&pool, Eviction::Broken);

    let (pool, lease, _far) = one_lease_with(|b| b.allow_unanswered(true));
    lease.set_nonblocking(true).unwrap();
    assert_eq!(stall(&lease), ErrorKind::WouldBlock);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn an_answer_does_not_mend_a_write_that_stalled() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.write_timeout(Some(MOMENT)));
    stall(&lease);
    far.write_all(b"what?").unwrap();
    lease.read_exact(&mut [0; 5]).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_write_that_stalled_and_went_on_is_no_reason_to_close() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.allow_unanswered(true));
    lease.set_nonblocking(true).unwrap();
    assert_eq!(stall(&lease), ErrorKind::WouldBlock);
    let drain = background(move || io::copy(&mut far, &mut io::sink()));
    eventually("the rest is written", || lease.write(b"rest").is_ok());
    drop(lease);
    assert_back(&pool);
    pool.end();
    drain.join().unwrap();
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

#[test]
fn what_is_discarded_is_closed_and_its_slot_is_free() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    Connection::discard(pool.allocate().unwrap());
    assert_left(&pool, Eviction::Discarded);
    assert_closed(&mut peer.accept());
    assert!(pool.allocate().is_ok());
}

#[test]
fn what_is_detached_lives_on_outside_the_pool() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
        .build()
        .unwrap();
    let mut lines = Connection::detach(pool.allocate().unwrap());
    let mut far = peer.accept();
    assert_left(&pool, Eviction::Detached);
    let next = pool.allocate().unwrap();
    pool.free_with(0, Close::Hard);
    pool.end_with(Close::Hard);
    drop(next);
    drop(pool);
    lines.get_mut().write_all(b"?").unwrap();
    far.read_exact(&mut [0; 1]).unwrap();
    far.write_all(b"still here\n").unwrap();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "still here\n");
    drop(lines);
    assert_closed(&mut far);
}

#[test]
fn a_broken_or_doomed_lease_can_still_be_discarded_or_detached() {
    for (_, doom) in DOOMS {
        let (pool, lease, _far) = one_lease();
        doom(&pool);
        Connection::discard(lease);
        assert_left(&pool, Eviction::Discarded);

        let (pool, lease, mut far) = one_lease();
        doom(&pool);
        lease.shutdown(Shutdown::Read).unwrap();
        let mut stream = Connection::detach(lease);
        assert_left(&pool, Eviction::Detached);
        stream.write_all(b"?").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
    }
}
