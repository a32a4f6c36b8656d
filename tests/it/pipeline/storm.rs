//! Everything at once: invariant 9 of the design, under a server that does its worst.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;
use crate::support::lateness::Lateness;

/// For so long a stalling server is silent, and whoever misses its deadline waits.
const STALL: Duration = Duration::from_millis(1200);
const CALLERS: usize = 200;
const CALLS: usize = 40;

/// Executes `caller.call`, and does something bad to some connections.
fn storm_server(seen: Arc<Mutex<HashMap<String, usize>>>, stall: Duration) -> Server {
    let turn = Count::default();
    Server::serving(move |mut socket| {
        while let Ok(line) = read_line(&mut socket) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            *seen.lock().unwrap().entry(text).or_default() += 1;
            let done = match turn.up() % 400 {
                7 => return, // closes
                107 => {
                    let linger = Some(Duration::ZERO);
                    let _ = socket2::SockRef::from(socket).set_linger(linger);
                    return; // resets
                }
                207 => {
                    let _ = socket.write_all(&line[..line.len() / 2]);
                    return; // cuts the reply
                }
                307 => {
                    thread::sleep(stall); // stalls
                    socket.write_all(&line)
                }
                _ => socket.write_all(&line),
            };
            if done.is_err() {
                return;
            }
        }
    })
}

#[test]
fn nobody_gets_anothers_reply_nothing_runs_twice_and_nothing_called_unsent_was_seen() {
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let server = storm_server(Arc::clone(&seen), STALL);
    let pipeline = lines(&server, 4);
    let lateness = Lateness::default();
    let unsent = Mutex::new(Vec::new());
    let [replies, lost, late] = [(); 3].map(|()| Count::default());
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (pipeline, lateness) = (&pipeline, &lateness);
            let (unsent, replies, lost, late) = (&unsent, &replies, &lost, &late);
            let timeout =
                move |call| Duration::from_millis(5 + ((caller * 7 + call * 13) % 56) as u64);
            scope.spawn(move || lateness.sleep((0..CALLS).map(timeout)));
            // One that has time leads for long, and nobody else's deadline wakes it.
            let has_time = caller % 10 == 0;
            scope.spawn(move || {
                for call in 0..CALLS {
                    let request = format!("{caller}.{call}");
                    let timeout = if has_time { SOON } else { timeout(call) };
                    let started = Instant::now();
                    let result = pipeline.call_timeout(format!("{request}\n").as_bytes(), timeout);
                    lateness.call(timeout, started.elapsed());
                    match result {
                        Ok(reply) => {
                            assert_eq!(reply, request, "another caller's reply");
                            replies.up();
                        }
                        Err(error) if !error.was_sent() => unsent.lock().unwrap().push(request),
                        Err(CallError::Lost(_)) => drop(lost.up()),
                        Err(error) => {
                            assert!(error.is_timeout(), "{error:?}");
                            late.up();
                        }
                    }
                }
            });
        }
    });
    lateness.check();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    for request in unsent.lock().unwrap().iter() {
        assert!(
            !seen.contains_key(request),
            "{request} was seen, and called unsent"
        );
    }
    let twice = seen.iter().find(|(_, count)| **count > 1);
    assert_eq!(twice, None, "executed twice");
    assert!(replies.get() > 0 && lost.get() > 0, "no storm");
    // Whatever drifts still is drained or replaced, and nothing is left.
    eventually("all is quiet", || {
        let _ = pipeline.call_timeout(b"calm\n", SOON);
        let stats = pipeline.stats();
        (stats.queued, stats.in_flight, stats.lanes) == (0, 0, 0)
    });
    let pool = pipeline.pool();
    assert!(pool.drain(SOON));
    println!("{}\n{}", pipeline.stats(), pool.stats());
}

/// With `repeatable` a request may be executed twice, but never more often, and still nobody gets
/// another caller's reply.
#[test]
fn what_may_be_repeated_survives_most_of_a_storm() {
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let server = storm_server(Arc::clone(&seen), Duration::from_millis(40));
    let address = server.address();
    let pool = Pool::new(4, move || connect(address)).unwrap();
    let pipeline = Pipeline::builder(pool, line)
        .repeatable(true)
        .build()
        .unwrap();
    let replies = Count::default();
    thread::scope(|scope| {
        for caller in 0..64 {
            let (pipeline, replies) = (&pipeline, &replies);
            scope.spawn(move || {
                for call in 0..CALLS {
                    let request = format!("{caller}.{call}");
                    match pipeline.call_timeout(format!("{request}\n").as_bytes(), SOON) {
                        Ok(reply) => {
                            assert_eq!(reply, request, "another caller's reply");
                            replies.up();
                        }
                        Err(error) => assert!(error.was_sent(), "{error:?}"),
                    }
                }
            });
        }
    });
    let most = seen.lock().unwrap().values().copied().max();
    assert!(most <= Some(2), "{most:?}");
    let stats = pipeline.stats();
    assert!(
        stats.repeated > 0 && replies.get() > 64 * CALLS / 2,
        "{stats}"
    );
}
