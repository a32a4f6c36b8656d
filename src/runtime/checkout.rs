//! How a caller gets a connection: at once where one is idle, else by waiting its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Delays;
use crate::net::probe;
use crate::report::error::Error;
use crate::report::event::Event;
use crate::report::outcome::PeerSignal;
use crate::runtime::connection::Connection;
use crate::runtime::parker::Parker;
use crate::runtime::shared::{Dead, Lease, Shared, Turn, taker};
use crate::state::core::{Caller, CloseWhen};
use crate::state::queue::Failure;
use crate::state::slots::CallSite;
use crate::sync::now;

/// How long a call that is not prepared to wait searches for a live one among the dead.
const SEARCH: Duration = Duration::from_millis(1);

/// How long a caller is prepared to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// One try, however long it takes.
    OneTry,
    /// The backoff's retries, and no longer than this.
    Retries(Option<Duration>),
}

impl Effort {
    /// Whether it may go before a waiter that lets others go first.
    fn may_barge(self) -> bool {
        !matches!(self, Self::OneTry | Self::Retries(Some(Duration::ZERO)))
    }
}

/// Gets a connection for the calling thread.
#[inline]
pub(crate) fn pull<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    effort: Effort,
    at: CallSite,
) -> Result<Connection<C>, Error> {
    pull_within(shared, effort, at, &mut None)
}

/// [`pull`], with what a longer undertaking has left of its retries; none until it first waits.
#[inline]
pub(crate) fn pull_within<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    effort: Effort,
    at: CallSite,
    delays: &mut Option<Delays>,
) -> Result<Connection<C>, Error> {
    let mut dead = None;
    if let Some(lease) = shared.take(effort.may_barge(), at) {
        let key = lease.key;
        match hand_out(shared, lease) {
            Ok(connection) => {
                shared.tell_leased(key, Duration::ZERO, at);
                return Ok(connection);
            }
            Err(found) => dead = Some(found),
        }
    }
    pull_slowly(shared, effort, at, dead, delays)
}

/// A call that finds no live connection at once; apart, so that the others cost less.
#[cold]
#[inline(never)]
fn pull_slowly<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    effort: Effort,
    at: CallSite,
    dead: Option<Dead<C>>,
    delays: &mut Option<Delays>,
) -> Result<Connection<C>, Error> {
    let started = now();
    let call = Call {
        shared,
        started,
        effort,
        deadline: match effort {
            Effort::Retries(Some(timeout)) => started.checked_add(timeout),
            _ => None,
        },
        caller: Caller::new(
            Arc::default(),
            effort != Effort::OneTry,
            taker(at, shared.settings.watches_untold),
        ),
        attempts: 0,
        last: None,
        next: None,
        is_asleep: false,
        delays,
    };
    let result = call.search(dead, at);
    if shared.settings.lease_events {
        let waited = now().saturating_duration_since(started);
        match &result {
            Ok(connection) => shared.tell_leased(connection.key(), waited, at),
            Err(_) => shared.tell(&Event::GaveUp { waited, at }),
        }
    }
    result
}

/// Hands a connection to its caller if it lives; else it must leave the pool.
#[inline]
fn hand_out<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    lease: Lease<C>,
) -> Result<Connection<C>, Dead<C>> {
    let socket = lease.client.socket();
    if lease.probe {
        if let Some(why) = probe::verdict(socket, shared.settings.allow_unread) {
            let silent = socket.peer_signal(false) != PeerSignal::Heard;
            return Err(Dead { lease, why, silent });
        }
    }
    socket.set_leased(true);
    shared.count_allocation();
    Ok(Connection::new(Arc::clone(shared), lease.key, lease.client))
}

/// One call that found nothing idle.
struct Call<'a, C> {
    shared: &'a Arc<Shared<C>>,
    started: Instant,
    effort: Effort,
    deadline: Option<Instant>,
    caller: Caller<Arc<Parker>>,
    /// Failed tries so far.
    attempts: u32,
    last: Option<Failure>,
    /// What follows the last failed try, until the next one begins. It stands while the call is
    /// busy with a connection that proves dead: that is no try, and neither ends the delay nor uses
    /// up a retry.
    next: Option<Next>,
    /// Whether it waits for that, as opposed to a connection that is being made.
    is_asleep: bool,
    /// By the backoff as it was when the call began to wait.
    delays: &'a mut Option<Delays>,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Another try at this time; `None` is later than the clock can tell.
    At(Option<Instant>),
    Never,
}

impl<C: Send + 'static> Call<'_, C> {
    /// Searches what is idle, of which the first was `dead`, for a live one; then waits its turn.
    fn search(self, dead: Option<Dead<C>>, at: CallSite) -> Result<Connection<C>, Error> {
        let shared = self.shared;
        let (mut next, mut close_when) = (dead, CloseWhen::Now);
        while let Some(dead) = next.take() {
            shared.with(|core| core.found_dead(dead, close_when));
            // One dead connection is enough for one caller.
            close_when = CloseWhen::Later;
            if self.is_search_over() {
                return Err(self.give_up_at_once());
            }
            if let Some(lease) = shared.take(self.effort.may_barge(), at) {
                match hand_out(shared, lease) {
                    Ok(connection) => return Ok(connection),
                    Err(dead) => next = Some(dead),
                }
            }
        }
        self.run()
    }

    /// Whether it has searched the dead for a live connection for long enough.
    fn is_search_over(&self) -> bool {
        let Effort::Retries(Some(timeout)) = self.effort else {
            return false;
        };
        now().saturating_duration_since(self.started) >= timeout.max(SEARCH)
    }

    fn run(mut self) -> Result<Connection<C>, Error> {
        if self.effort == Effort::Retries(Some(Duration::ZERO)) {
            return Err(self.give_up_at_once());
        }
        let mut turn = self.shared.with(|core| {
            self.delays.get_or_insert_with(|| core.backoff().delays());
            core.enter(&mut self.caller)
        });
        loop {
            turn = match turn {
                Turn::Granted(lease) => match hand_out(self.shared, lease) {
                    Ok(connection) => return Ok(connection),
                    Err(dead) if self.is_too_late() => {
                        let cause = self.shared.with(|core| {
                            core.found_dead(dead, CloseWhen::Later);
                            core.time_out()
                        });
                        return Err(self.timed_out(cause.as_ref()));
                    }
                    Err(dead) => {
                        self.is_asleep = false;
                        self.shared
                            .with(|core| core.come_back(&mut self.caller, dead))
                    }
                },
                Turn::Failed(failure, _) | Turn::Permanent(failure) if !self.caller.stays => {
                    return Err(failure.to_error(|| self.shared.stats()));
                }
                Turn::Failed(failure, poll_at) => {
                    self.failed(failure, false);
                    Turn::Pending(poll_at)
                }
                Turn::Permanent(failure) => {
                    self.failed(failure, true);
                    Turn::Pending(None)
                }
                Turn::Pending(poll_at) => self.wait(poll_at)?,
                Turn::QueueFull => {
                    let stats = Box::new(self.shared.stats());
                    return Err(Error::QueueFull { stats });
                }
                Turn::Ended => return Err(Error::Ended),
            }
        }
    }

    /// A try failed, or what came between two tries; that counts where it is the end of it all.
    fn failed(&mut self, failure: Failure, is_permanent: bool) {
        let counts = match self.next {
            None => true,
            Some(Next::At(_)) => is_permanent,
            Some(Next::Never) => false,
        };
        self.attempts = self.attempts.saturating_add(u32::from(counts));
        self.last = Some(failure);
        self.is_asleep = true;
        self.next = Some(match self.next {
            _ if is_permanent => Next::Never,
            Some(next) => next,
            None => match self.delays.as_mut().and_then(Iterator::next) {
                Some(delay) => Next::At(now().checked_add(delay)),
                None => Next::Never,
            },
        });
    }

    /// Sleeps until there may be an answer, and polls. Gives up where there is none in time, unless
    /// it has come at the last moment.
    fn wait(&mut self, poll_at: Option<Instant>) -> Result<Turn<C>, Error> {
        let next = self.next.filter(|_| self.is_asleep);
        let is_last_poll = matches!(next, Some(Next::Never));
        let retry_at = match next {
            Some(Next::At(at)) => at,
            _ => None,
        };
        if !is_last_poll {
            let times = [poll_at, retry_at, self.deadline];
            let until = times.into_iter().flatten().min();
            self.caller.waker.park_until(until);
        }
        let polled = self.shared.with(|core| {
            let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= core.now());
            let (is_too_late, is_retry_due) = (is_past(self.deadline), is_past(retry_at));
            match core.poll(&mut self.caller) {
                // What else was found comes out too: its error must not be dropped under the lock.
                turn @ (Turn::Pending(_) | Turn::Failed(..) | Turn::Permanent(_))
                    if is_last_poll || is_too_late =>
                {
                    let cause = if is_last_poll {
                        core.cause()
                    } else {
                        core.time_out()
                    };
                    core.leave(&mut self.caller);
                    Err((cause, turn))
                }
                Turn::Pending(_) if is_retry_due => {
                    (self.next, self.is_asleep) = (None, false);
                    Ok(core.retry(&mut self.caller))
                }
                turn => Ok(turn),
            }
        });
        polled.map_err(|(cause, _)| {
            if is_last_poll {
                self.exhausted(cause)
            } else {
                self.timed_out(cause.as_ref())
            }
        })
    }

    fn is_too_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now())
    }

    /// The error of a call that waits no longer, or was not prepared to wait at all.
    fn give_up_at_once(&self) -> Error {
        let cause = self.shared.with(|core| {
            let goes_on = !core.has_ended();
            goes_on.then(|| core.time_out())
        });
        cause.map_or(Error::Ended, |cause| self.timed_out(cause.as_ref()))
    }

    fn timed_out(&self, cause: Option<&Failure>) -> Error {
        let last = cause.or(self.last.as_ref());
        self.shared.timed_out(self.started, last)
    }

    fn exhausted(&self, cause: Option<Failure>) -> Error {
        let stats = self.shared.stats_with_call_sites();
        let last = self.last.clone().or(cause).unwrap_or(Failure::Full);
        Error::Exhausted {
            attempts: self.attempts,
            elapsed: now().saturating_duration_since(self.started),
            last: Box::new(last.to_error(|| stats.clone())),
            stats: Box::new(stats),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::net::stream::Stream;
    use crate::pool::Pool;
    use crate::report::event::Event;
    use crate::report::outcome::Eviction;
    use crate::runtime::reaper::CLOSE_BATCH;
    use crate::runtime::shared::Held;
    use crate::state::slots::Taker;
    use crate::sync::atomic::Ordering::Relaxed;
    use crossbeam_channel::{Receiver, bounded};
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::panic::Location;
    use std::sync::atomic::AtomicUsize;

    /// A pool whose reaper never comes, with so many dead connections left to it.
    struct LeftBehind {
        pool: Pool<Stream>,
        connects: Arc<AtomicUsize>,
        closed: Arc<AtomicUsize>,
        _server: TcpListener,
        woken: Receiver<()>,
    }

    impl LeftBehind {
        fn new(limit: usize, dead: usize) -> Self {
            Self::and_one_connect_fails(limit, dead, usize::MAX, out_of_descriptors)
        }

        /// The connect with this number, from 0, fails with this error.
        fn and_one_connect_fails(
            limit: usize,
            dead: usize,
            fails: usize,
            error: fn() -> io::Error,
        ) -> Self {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = server.local_addr().unwrap();
            let (connects, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
            let (made, told) = (Arc::clone(&connects), Arc::clone(&closed));
            let factory = move || match made.fetch_add(1, Relaxed) {
                number if number == fails => Err(error()),
                _ => TcpStream::connect(address),
            };
            let pool = Builder::new(factory)
                .limit(limit)
                .max_connecting(1)
                .reap_interval(None)
                .on_event(move |event| {
                    told.fetch_add(usize::from(matches!(event, Event::Evicted { .. })), Relaxed);
                })
                .build()
                .unwrap();
            let leases: Vec<_> = (0..dead).map(|_| pool.pull().unwrap()).collect();
            drop(leases);
            let (waker, woken) = bounded(1);
            pool.shared().set_reaper(waker);
            while let Some(lease) = pool.shared().take(true, Location::caller()) {
                let dead = Dead {
                    lease,
                    why: Eviction::PeerClosed,
                    silent: false,
                };
                pool.shared()
                    .with(|core| core.found_dead(dead, CloseWhen::Later));
            }
            assert_eq!(pool.stats().releases, dead as u64);
            let left = Self {
                pool,
                connects,
                closed,
                _server: server,
                woken,
            };
            assert_eq!(left.closed(), 0);
            left
        }

        fn closed(&self) -> usize {
            self.closed.load(Relaxed)
        }
    }

    fn out_of_descriptors() -> io::Error {
        io::Error::from_raw_os_error(if cfg!(windows) { 10024 } else { 24 })
    }

    #[test]
    fn what_was_left_to_a_reaper_that_does_not_come_is_closed_by_end_and_free() {
        let left = LeftBehind::new(20, 20);
        assert!(left.woken.try_recv().is_ok());
        left.pool.end();
        assert_eq!(left.closed(), 20);
        let left = LeftBehind::new(20, 20);
        let freed = left.pool.free(0);
        assert_eq!((freed.closed, left.closed()), (0, 20));
    }

    #[test]
    fn the_dead_and_the_living_together_stay_below_the_limit() {
        let left = LeftBehind::new(20, 15);
        let leases: Vec<_> = (0..12).map(|_| left.pool.pull().unwrap()).collect();
        assert_eq!(left.closed(), 7);
        drop(leases);
    }

    #[test]
    fn the_dead_give_up_their_descriptors_for_a_connect() {
        let left = LeftBehind::and_one_connect_fails(20, 10, 10, out_of_descriptors);
        drop(left.pool.allocate().unwrap());
        assert_eq!(left.connects.load(Relaxed), 12);
        assert_eq!(left.closed(), CLOSE_BATCH);
    }

    #[test]
    fn a_connect_that_fails_for_another_reason_costs_no_other_connection() {
        let refused = || io::ErrorKind::ConnectionRefused.into();
        let left = LeftBehind::and_one_connect_fails(20, 10, 10, refused);
        left.pool.allocate().unwrap_err();
        assert_eq!((left.connects.load(Relaxed), left.closed()), (11, 0));
    }

    /// So many hand-offs follow upon each other here that they make a convoy.
    #[test]
    fn who_is_prepared_to_wait_overtakes_a_waiter_at_last_and_nobody_else_does() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let pool = Builder::new(move || TcpStream::connect(address))
            .limit(1)
            .build()
            .unwrap();
        let shared = pool.shared();
        let deadline = now() + Duration::from_secs(10);
        let mut lease = pool.pull().unwrap();
        loop {
            assert!(now() < deadline, "nobody overtook anybody");
            let mut waiter = Caller::new(Arc::default(), true, Taker::default());
            let turn = shared.with(|core| core.enter(&mut waiter));
            assert!(matches!(
                turn,
                Turn::Pending(_) | Turn::Failed(Failure::Full, _)
            ));
            drop(lease);
            assert!(shared.take(false, Location::caller()).is_none());
            if let Some(found) = shared.take(true, Location::caller()) {
                shared.with(|core| core.leave(&mut waiter));
                assert!(hand_out(shared, found).is_ok());
                break;
            }
            let granted = loop {
                if let Turn::Granted(granted) = shared.with(|core| core.poll(&mut waiter)) {
                    break granted;
                }
            };
            lease = hand_out(shared, granted).ok().unwrap();
        }
    }

    /// What the probe makes of a connection to which the other side does this.
    fn found(strike: impl FnOnce(&Held<Stream>, TcpStream)) -> (Eviction, bool) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let builder = Builder::new(move || TcpStream::connect(address)).reap_interval(None);
        let pool = builder.build().unwrap();
        drop(pool.pull().unwrap());
        let mut lease = pool.shared().take(true, Location::caller()).unwrap();
        lease.probe = true;
        strike(&lease.client, server.accept().unwrap().0);
        assert!(lease.client.socket().tcp().peek(&mut [0]).is_ok());
        let dead = hand_out(pool.shared(), lease).unwrap_err();
        let found = (dead.why, dead.silent);
        pool.shared()
            .with(|core| core.found_dead(dead, CloseWhen::Now));
        found
    }

    #[test]
    fn only_who_is_prepared_to_wait_may_go_before_a_waiter() {
        for (effort, expected) in [
            (Effort::OneTry, false),
            (Effort::Retries(Some(Duration::ZERO)), false),
            (Effort::Retries(Some(SEARCH)), true),
            (Effort::Retries(None), true),
        ] {
            assert_eq!(effort.may_barge(), expected, "{effort:?}");
        }
    }

    #[test]
    fn only_who_never_sent_a_byte_is_silent() {
        use std::io::Write;
        assert_eq!(found(|_, far| drop(far)), (Eviction::PeerClosed, true));
        let greeting = |_: &Held<Stream>, mut far: TcpStream| far.write_all(b"hello").unwrap();
        assert_eq!(found(greeting), (Eviction::Unread, false));
        let was_heard = |held: &Held<Stream>, far: TcpStream| {
            held.stream.socket().peer_signal(true);
            drop(far);
        };
        assert_eq!(found(was_heard), (Eviction::PeerClosed, false));
    }
}
