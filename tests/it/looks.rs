//! What the pool's own looks at a socket take away from it, and what its holder sees of that.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Eviction, Pool};

use crate::support::{Server, read_line, reset, shows_resets};

/// Sends half a reply to each request and resets the connection.
fn resetting() -> Server {
    Server::serving(|mut socket| {
        if read_line(&mut socket).is_ok() {
            let _ = socket.write_all(b"half a reply");
            let own = socket.try_clone().unwrap();
            reset(own);
        }
    })
}

/// A look at an idle socket may come late, when it has been leased already.
#[test]
fn a_sweep_does_not_turn_a_reset_into_the_end_of_a_reply() {
    if !shows_resets() {
        return eprintln!("skipped: here, a reset looks like an end of file");
    }
    let server = resetting();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .limit(4)
        .reap_interval(None)
        .build()
        .unwrap();
    let over = AtomicBool::new(false);
    let (calls, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    pool.reap();
                }
            });
        }
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let end = Instant::now() + Duration::from_millis(1_500);
                    while Instant::now() < end {
                        drop(pool.pull()); // idle for an instant, so that sweeps find it
                        let Ok(mut lease) = pool.pull() else { continue };
                        if lease.write_all(b"ask\n").is_err() {
                            continue;
                        }
                        calls.fetch_add(1, SeqCst);
                        if lease.read_to_end(&mut Vec::new()).is_ok() {
                            wrong.fetch_add(1, SeqCst);
                        }
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        over.store(true, SeqCst);
    });
    let (calls, wrong) = (calls.into_inner(), wrong.into_inner());
    println!("{calls} calls, {wrong} wrong");
    assert!(calls > 100, "too few to tell: {calls}");
    assert_eq!(wrong, 0, "of {calls} half replies passed for whole ones");
    assert!(pool.stats().evicted(Eviction::Broken) > 0);
}
