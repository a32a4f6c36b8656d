//! `recycle`: what it is asked about, and what its answer does.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use jackpot::{Connection, Eviction, Pool};

use crate::support::leases::one_lease_with;
use crate::support::{assert_back, assert_closed, assert_left, panic_quietly};

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
