//! Shared calls under every schedule: callers, leaders and hand-overs, time-outs and breaks.
//!
//! The client is a wire inside the process, whose reads wait under the checker's clock for as long as
//! the stream's time-out says. In each scene nobody gets another caller's reply, nothing is executed
//! twice, and what is said to be unsent was not executed.

use std::collections::VecDeque;

use super::*;
use crate::pipeline::Pipeline;
use crate::report::call_error::CallError;
use crate::sync::now;

/// All wires, and the server at their ends.
#[derive(Default)]
struct Office {
    desk: Mutex<Desk>,
    bell: Condvar,
}

#[derive(Default)]
struct Desk {
    /// Of each wire: what the server has not read, what the client has not, and whether it is cut.
    wires: Vec<(VecDeque<u8>, VecDeque<u8>, bool)>,
    executed: Vec<u8>,
    /// The server cuts the wire instead of answering this.
    bomb: Option<u8>,
    /// The server does not answer this, nor what comes on its wire afterwards.
    unanswered: Option<u8>,
    silent: BTreeSet<usize>,
    closed: bool,
}

/// A client: each request is one byte, and so is its reply.
struct Wire {
    office: Arc<Office>,
    number: usize,
    stream: Stream,
}

impl Office {
    fn change<R>(&self, change: impl FnOnce(&mut Desk) -> R) -> R {
        let changed = change(&mut self.desk.lock().unwrap());
        self.bell.notify_all();
        changed
    }

    /// Answers what comes, one request after the other.
    fn serve(&self) {
        let mut desk = self.desk.lock().unwrap();
        loop {
            let Desk {
                wires,
                executed,
                bomb,
                unanswered,
                silent,
                closed,
            } = &mut *desk;
            let mut wires = wires.iter_mut().enumerate();
            let found = wires.find(|(_, wire)| !wire.0.is_empty());
            if let Some((number, (requests, replies, is_cut))) = found {
                let request = requests.pop_front().unwrap();
                if *bomb == Some(request) {
                    *is_cut = true;
                    requests.clear();
                } else if *unanswered == Some(request) || silent.contains(&number) {
                    silent.insert(number);
                } else {
                    assert!(!executed.contains(&request), "{request} is executed twice");
                    executed.push(request);
                    replies.push_back(request);
                }
                drop(desk);
                self.bell.notify_all();
                desk = self.desk.lock().unwrap();
            } else if *closed {
                return;
            } else {
                desk = self.bell.wait(desk).unwrap();
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = self.stream.read_timeout()?;
        let until = timeout.and_then(|timeout| now().checked_add(timeout));
        let mut desk = self.office.desk.lock().unwrap();
        loop {
            let (_, replies, is_cut) = &mut desk.wires[self.number];
            if let Some(reply) = replies.pop_front() {
                buffer[0] = reply;
                return Ok(1);
            }
            if *is_cut {
                return Ok(0);
            }
            let left = until.map(|until| until.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            desk = match left {
                None => self.office.bell.wait(desk).unwrap(),
                Some(left) => self.office.bell.wait_timeout(desk, left).unwrap().0,
            };
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.office.change(|desk| {
            let (requests, _, is_cut) = &mut desk.wires[self.number];
            if *is_cut {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            requests.extend(bytes);
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Calls = Pipeline<u8, Wire>;

/// Plays callers, each with its request and how long it waits, over so many connections.
fn call_all(
    limit: usize,
    desk: Desk,
    callers: &[(u8, Option<Duration>)],
    during: impl FnOnce(&Calls),
    expected: fn(u8, &Result<u8, CallError>) -> bool,
) {
    let world = World::new(limit);
    let office = Arc::new(Office {
        desk: Mutex::new(desk),
        bell: Condvar::new(),
    });
    let server = Arc::clone(&office);
    let server = thread::spawn(move || server.serve());
    let wires = Arc::clone(&office);
    let pool = world
        .builder(false)
        .handshake(move |stream| {
            let office = Arc::clone(&wires);
            let number = office.change(|desk| {
                desk.wires.push(Default::default());
                desk.wires.len() - 1
            });
            Ok::<_, io::Error>(Wire {
                office,
                number,
                stream,
            })
        })
        .build()
        .unwrap();
    let calls = Pipeline::new(pool, |reply| {
        let mut byte = [0];
        reply.read_exact(&mut byte)?;
        Ok(byte[0])
    });
    let callers: Vec<_> = callers
        .iter()
        .map(|&(request, timeout)| {
            let (calls, office) = (calls.clone(), Arc::clone(&office));
            thread::spawn(move || {
                let result = match timeout {
                    None => calls.call(&[request]),
                    Some(timeout) => calls.call_timeout(&[request], timeout),
                };
                if let Ok(reply) = result {
                    assert_eq!(reply, request, "another caller's reply");
                }
                if result.as_ref().is_err_and(|error| !error.was_sent()) {
                    let executed = office.change(|desk| desk.executed.contains(&request));
                    assert!(!executed, "{request} was executed, and called unsent");
                }
                assert!(expected(request, &result), "{request}: {result:?}");
            })
        })
        .collect();
    during(&calls);
    join(callers);
    let stats = calls.stats();
    assert_eq!(stats.queued, 0, "{stats}");
    drop(calls);
    office.change(|desk| desk.closed = true);
    server.join().unwrap();
}

fn nothing(_: &Calls) {}

#[test]
fn callers_share_a_lane() {
    play(Time::Stands, || {
        let callers = [(1, None), (2, None), (3, None)];
        call_all(1, Desk::default(), &callers, nothing, |_, result| {
            result.is_ok()
        });
    });
}

#[test]
fn callers_share_two_lanes() {
    play(Time::Stands, || {
        let callers = [(1, None), (2, None), (3, None), (4, None)];
        call_all(2, Desk::default(), &callers, nothing, |_, result| {
            result.is_ok()
        });
    });
}

#[test]
fn time_outs_meet_replies_and_hand_overs() {
    play(Time::Jumps, || {
        let soon = Some(Duration::from_millis(3));
        let callers = [(1, soon), (2, None), (3, Some(Duration::from_millis(7)))];
        call_all(1, Desk::default(), &callers, nothing, |request, result| {
            result.is_ok() || request != 2 && result.as_ref().is_err_and(CallError::is_timeout)
        });
    });
}

/// The one that is never answered is given up, and whoever waits behind it gets another connection.
#[test]
fn nobody_is_stuck_behind_a_reply_that_does_not_come() {
    play(Time::Waits, || {
        let desk = Desk {
            unanswered: Some(1),
            ..Desk::default()
        };
        let callers = [
            (1, Some(Duration::from_millis(3))),
            (2, Some(Duration::from_secs(9))),
            (3, Some(Duration::from_secs(9))),
        ];
        call_all(1, desk, &callers, nothing, |request, result| match result {
            Ok(_) => request != 1,
            Err(error) => error.is_timeout(),
        });
    });
}

#[test]
fn a_break_meets_callers_that_come() {
    play(Time::Stands, || {
        let desk = Desk {
            bomb: Some(1),
            ..Desk::default()
        };
        let callers = [(1, None), (2, None), (3, None)];
        call_all(1, desk, &callers, nothing, |_, result| {
            matches!(result, Ok(_) | Err(CallError::Lost(_)))
        });
    });
}

#[test]
fn a_caller_that_pulls_gets_a_connection_beside_calls() {
    play(Time::Stands, || {
        let callers = [(1, None), (2, None), (3, None)];
        let pull = |calls: &Calls| drop(calls.pool().pull().unwrap());
        call_all(1, Desk::default(), &callers, pull, |_, result| {
            result.is_ok()
        });
    });
}

#[test]
fn the_end_of_the_pool_meets_calls() {
    play(Time::Stands, || {
        let callers = [(1, None), (2, None), (3, None)];
        let end = |calls: &Calls| calls.pool().end();
        call_all(
            1,
            Desk::default(),
            &callers,
            end,
            |_, result| match result {
                Ok(_) => true,
                Err(CallError::Pool(error)) => error.is_ended(),
                Err(_) => false,
            },
        );
    });
}
