//! What all handles, leases and threads of a pool share: the only file that locks.
//!
//! Every operation locks, decides, unlocks, and then acts ([`Shared::with`]). The lock is never
//! held across a system call, a log line, a wake-up, a destructor of a client or socket, or any
//! function that the user gave us.

use std::sync::{Arc, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::backoff::Backoff;
use crate::builder::Settings;
use crate::net::connector::Factory;
use crate::net::probe;
use crate::net::stream::{Socket, Stream};
use crate::report::event::{Close, Event, Freed};
use crate::report::outcome::{Eviction, PeerSignal};
use crate::report::stats::{Brief, ConnectionInfo, Stats};
use crate::runtime::connect;
use crate::runtime::connection::Connection;
use crate::state::slots::{Closed, Lease, Place};
use crate::state::table::{self, Dead, Late, Reserved, Rules};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::user_code::{destroy, guarded, guarded_call, say};
use crate::sync::{Condvar, Mutex, MutexGuard, now};

/// How many dead connections are closed between two locks.
pub(crate) const AT_ONCE: usize = 8;

/// What a lease consists of: the client, and a handle of its own on the socket under it.
pub(crate) struct Held<C> {
    pub(crate) client: C,
    pub(crate) stream: Stream,
}

pub(crate) type Table<C> = table::Table<Held<C>, Arc<Socket>, Arc<Parker>>;
pub(crate) type Effects<C> = table::Effects<Held<C>, Arc<Socket>, Arc<Parker>>;

/// In this order: the handles that leases hold, counted just before the first field, the leases and
/// the lock are written by every thread that pulls, and so should lie in one cache line.
#[repr(C)]
pub(crate) struct Shared<C> {
    /// Leases that reached a caller. It stands outside the lock because a connection that fails
    /// its probe is taken under the lock but never handed out.
    allocations: AtomicU64,
    state: Mutex<State<C>>,
    drained: Condvar,
    /// Sweeps so far; chooses whose sending side the next one looks at.
    pub(crate) sweeps: AtomicU64,
    pub(crate) settings: Settings<C>,
    /// Starts a connect thread. A pointer, because only threads ask that `C` be `Send`, and a
    /// guard's `drop` may not.
    connect: fn(&Arc<Self>, Reserved),
}

/// Everything behind the lock.
pub(crate) struct State<C> {
    pub(crate) table: Table<C>,
    pub(crate) backoff: Backoff,
    factory: Arc<dyn Factory>,
    /// Wakes the reaper; its loss ends it.
    reaper: Option<Sender<()>>,
    /// Dead connections that the reaper is to close; none without one. With those in the table
    /// they are no more than the limit: see `make_room`.
    graves: Vec<Closed<Held<C>, Arc<Socket>>>,
}

impl<C> Shared<C> {
    pub(crate) fn new(
        limit: usize,
        rules: Rules,
        backoff: Backoff,
        factory: Arc<dyn Factory>,
        settings: Settings<C>,
    ) -> Arc<Self>
    where
        C: Send + 'static,
    {
        Arc::new(Self {
            state: Mutex::new(State {
                table: Table::new(limit, rules, now()),
                backoff,
                factory,
                reaper: None,
                graves: Vec::new(),
            }),
            drained: Condvar::new(),
            allocations: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
            settings,
            connect: connect::spawn,
        })
    }

    /// Moves the core's clock, decides, unlocks, acts.
    pub(crate) fn with<R>(self: &Arc<Self>, decide: impl FnOnce(&mut State<C>) -> R) -> R {
        self.decide(self.lock_at(now()), decide)
    }

    /// [`with`](Self::with), where the lock has been taken already.
    fn decide<R>(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State<C>>,
        decide: impl FnOnce(&mut State<C>) -> R,
    ) -> R {
        let decided = decide(&mut state);
        let effects = state.table.take_effects();
        drop(state);
        if let Some(effects) = effects {
            self.act(effects);
        }
        decided
    }

    /// [`with`](Self::with), for a connect thread, which starts the next connect itself.
    pub(crate) fn with_connect<R>(
        self: &Arc<Self>,
        decide: impl FnOnce(&mut State<C>) -> R,
    ) -> (R, Option<Reserved>) {
        let mut state = self.lock_at(now());
        let decided = decide(&mut state);
        let effects = state.table.take_effects();
        drop(state);
        let mut effects = effects.unwrap_or_default();
        let next = effects.connects.pop();
        self.act(effects);
        (decided, next)
    }

    fn lock_at(&self, now: Instant) -> MutexGuard<'_, State<C>> {
        let mut state = self.lock();
        state.table.advance(now);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act(self: &Arc<Self>, effects: Effects<C>) {
        for parker in effects.wake {
            parker.wake();
        }
        for closed in &effects.closed {
            if closed.cut {
                closed.handle.cut();
            }
        }
        // Closed before others are opened: a server may count as strictly as the pool does.
        let closed: Vec<_> = effects.closed.into_iter().map(close).collect();
        for reserved in effects.connects {
            (self.connect)(self, reserved);
        }
        if let Some(held) = effects.leftover {
            destroy(held);
        }
        if effects.drained {
            self.drained.notify_all();
        }
        for Late { id, why, age } in closed.into_iter().flatten() {
            self.tell_evicted(id, why, age);
        }
        for error in effects.spent {
            destroy(error);
        }
    }

    pub(crate) fn tell_evicted(&self, id: u64, why: Eviction, age: Duration) {
        say!(Debug, "connection {id} left after {}: {why}", Brief(age));
        self.tell(&Event::Evicted { id, why, age });
    }

    pub(crate) fn tell(&self, event: &Event) {
        let Some(on_event) = &self.settings.on_event else {
            return;
        };
        if let Err(text) = guarded(|| on_event(event)) {
            say!(Error, "the event function panicked: {text}");
        }
    }

    /// The most recently used idle connection, if there is one, not yet probed.
    pub(crate) fn take(&self, overtake: bool) -> Option<(Lease<Held<C>>, bool)> {
        let settings = &self.settings;
        let now = settings.exact_leases.then(now);
        let holder = self.holder();
        let mut state = self.lock();
        if let Some(now) = now {
            state.table.advance(now);
        }
        state.table.take(overtake, holder)
    }

    /// The calling thread, if leases are watched.
    pub(crate) fn holder(&self) -> Option<Thread> {
        self.settings.watches_leases.then(thread::current)
    }

    /// Hands a connection to its caller if it lives; else it must leave the pool.
    pub(crate) fn hand_out(
        self: &Arc<Self>,
        lease: Lease<Held<C>>,
        probe: bool,
    ) -> Result<Connection<C>, Dead<Held<C>>> {
        let Lease { place, held, .. } = lease;
        if probe {
            let verdict = probe::verdict(held.stream.socket(), self.settings.allow_unread);
            if let Some(why) = verdict {
                let mute = held.stream.socket().word(false) != PeerSignal::Heard;
                return Err(Dead {
                    place,
                    held,
                    why,
                    mute,
                });
            }
        }
        held.stream.socket().set_leased(true);
        self.allocations.fetch_add(1, Relaxed);
        Ok(Connection::new(Arc::clone(self), place, held))
    }

    /// A connection was found dead on its way to a caller that has no place in the queue.
    pub(crate) fn bury(self: &Arc<Self>, dead: Dead<Held<C>>) {
        let Dead {
            place, held, why, ..
        } = dead;
        self.withdraw(place, PeerSignal::Silence, Some(held), why);
        self.found_dead(why);
    }

    /// [`bury`](Self::bury), for a caller that has paid for one: the reaper closes this one.
    ///
    /// To close a socket takes far longer than to find it dead, and after a restart of the server
    /// the caller that comes first finds one after the other.
    pub(crate) fn bury_later(self: &Arc<Self>, dead: Dead<Held<C>>) {
        let Dead {
            place, held, why, ..
        } = dead;
        let reaper = self.with(|state| {
            state.table.withdraw(place, Some(held), why);
            if state.reaper.is_some() {
                let closed = &mut state.table.effects.closed;
                state.graves.append(closed);
            }
            state.reaper.clone()
        });
        wake(reaper.as_ref());
    }

    /// Closes what callers have left to the reaper, a few at a time: one whose destructor blocks
    /// holds up no more.
    pub(crate) fn close_graves(self: &Arc<Self>) {
        while self.close_some_graves(|_| AT_ONCE) {}
    }

    /// Before a connect: closes what would make it one too many. A server may count as strictly as
    /// the pool does, and nobody should have more descriptors open than the limit says.
    pub(crate) fn make_room(self: &Arc<Self>) {
        self.close_some_graves(|state| {
            let open = state.table.slots().occupied() + state.graves.len();
            open.saturating_sub(state.table.limit())
        });
    }

    /// Closes some of what callers have left to the reaper; false if there was nothing to close.
    pub(crate) fn close_some_graves(
        self: &Arc<Self>,
        count: impl FnOnce(&State<C>) -> usize,
    ) -> bool {
        self.with(|state| {
            let rest = state.graves.len().saturating_sub(count(state));
            let closed = state.graves.split_off(rest);
            let some = !closed.is_empty();
            state.table.effects.closed.extend(closed);
            some
        })
    }

    /// The reaper looks at all the others.
    pub(crate) fn found_dead(&self, why: Eviction) {
        if why == Eviction::Unread {
            return;
        }
        let reaper = self.lock().reaper.clone();
        wake(reaper.as_ref());
    }

    /// A lease is over.
    pub(crate) fn give_back(self: &Arc<Self>, place: Place, mut held: Held<C>, finished: bool) {
        let has_sent = held.stream.socket().is_unanswered();
        let verdict = self.fitness(place, &mut held, finished);
        let was_of_use = finished || (has_sent && verdict.is_none());
        let word = held.stream.socket().word(was_of_use);
        held.stream.socket().set_leased(verdict.is_some());
        let looks = self.settings.looks_on_return || verdict.is_some();
        let looked = looks.then(now);
        let mut state = match looked {
            Some(now) => self.lock_at(now),
            None => self.lock(),
        };
        if verdict.is_none() {
            match state.table.park(place, held, word) {
                Ok(()) => return,
                Err(back) => held = back,
            }
        }
        if looked.is_none() {
            drop(state);
            state = self.lock_at(now());
        }
        let shuts = self.decide(state, |state| {
            let shuts = state.table.take_word(place, word);
            state.table.give_back(place, held, verdict);
            shuts
        });
        if shuts {
            warn_of_hang_ups();
        }
    }

    /// What speaks against using this connection again.
    fn fitness(&self, place: Place, held: &mut Held<C>, finished: bool) -> Option<Eviction> {
        let settings = &self.settings;
        if thread::panicking() {
            return Some(Eviction::Panicked);
        }
        let over = finished || settings.allow_unanswered || settings.only_finished;
        if let Some(why) = held.stream.socket().settle(over) {
            return Some(why);
        }
        if settings.only_finished && !finished {
            return Some(Eviction::Unfinished);
        }
        let recycle = settings.recycle.as_ref()?;
        if self.lock().table.is_doomed(place) {
            return None; // the table knows why it is to close
        }
        if let Err(error) = guarded_call(recycle, &mut held.client) {
            say!(Debug, "connection {}: recycle failed: {error}", place.id);
            return Some(Eviction::RecycleFailed);
        }
        held.stream.socket().settle(true)
    }

    /// A lease ends without coming back.
    pub(crate) fn withdraw(
        self: &Arc<Self>,
        place: Place,
        word: PeerSignal,
        held: Option<Held<C>>,
        why: Eviction,
    ) {
        let shuts = self.with(|state| {
            let shuts = state.table.take_word(place, word);
            state.table.withdraw(place, held, why);
            shuts
        });
        if shuts {
            warn_of_hang_ups();
        }
    }

    pub(crate) fn free(self: &Arc<Self>, keep: usize, close: Close) -> Freed {
        let freed = self.with(|state| state.table.free(keep, close));
        let Freed {
            kept,
            closed,
            doomed,
        } = freed;
        say!(
            Debug,
            "freed: {kept} kept, {closed} closed, {doomed} doomed"
        );
        self.tell(&Event::Freed(freed));
        freed
    }

    pub(crate) fn end(self: &Arc<Self>, close: Close) {
        let (first, reaper) = self.with(|state| {
            let first = state.table.end(close);
            state.table.effects.closed.append(&mut state.graves);
            (first, state.reaper.take())
        });
        drop(reaper);
        if first {
            say!(Debug, "the pool has ended");
            self.tell(&Event::Ended);
        }
    }

    pub(crate) fn drain(&self, timeout: Duration) -> bool {
        let deadline = now().checked_add(timeout);
        let mut state = self.lock();
        if !state.table.begin_draining() {
            return true;
        }
        let drained = loop {
            if state.table.is_drained() {
                break true;
            }
            let left = deadline.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                break false;
            }
            state = wait(&self.drained, state, left);
        };
        state.table.end_draining();
        drained
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let now = now();
        let found: Vec<_> = self
            .lock()
            .table
            .slots()
            .occupants()
            .map(|(id, state, born, since, leases, socket)| {
                (id, state, born, since, leases, socket.cloned())
            })
            .collect();
        found
            .into_iter()
            .map(|(id, state, born, since, leases, socket)| ConnectionInfo {
                id,
                state,
                local: socket.as_ref().and_then(|s| s.tcp().local_addr().ok()),
                peer: socket.as_ref().and_then(|s| s.tcp().peer_addr().ok()),
                age: now.saturating_duration_since(born),
                in_state: now.saturating_duration_since(since),
                leases,
            })
            .collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.lock();
        state.table.stats(self.allocations.load(Relaxed))
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.lock().table.has_ended()
    }

    pub(crate) fn limit(&self) -> usize {
        self.lock().table.limit()
    }

    pub(crate) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.with(|state| state.table.set_limit(limit));
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.lock().backoff.clone()
    }

    pub(crate) fn set_backoff(&self, backoff: Backoff) {
        self.lock().backoff = backoff;
    }

    /// Where the next connection comes from; `None` once the pool has ended.
    pub(crate) fn factory(&self) -> Option<Arc<dyn Factory>> {
        let state = self.lock();
        (!state.table.has_ended()).then(|| Arc::clone(&state.factory))
    }

    pub(crate) fn set_factory(self: &Arc<Self>, factory: Arc<dyn Factory>) {
        let old = self.with(|state| {
            let old = std::mem::replace(&mut state.factory, factory);
            state.table.factory_changed();
            old
        });
        destroy(old);
    }

    pub(crate) fn set_reaper(&self, reaper: Sender<()>) {
        self.lock().reaper = Some(reaper);
    }
}

fn wake(reaper: Option<&Sender<()>>) {
    if let Some(reaper) = reaper {
        // Full means that it has been woken already.
        let _ = reaper.try_send(());
    }
}

/// Closes a connection that has left the table; what is to be told of it.
fn close<C>(closed: Closed<Held<C>, Arc<Socket>>) -> Option<Late> {
    let Closed { id, why, age, .. } = closed;
    if let Some(held) = closed.held {
        destroy(held);
    }
    drop(closed.handle);
    closed.tell.then_some(Late { id, why, age })
}

/// Wakes one thread that waits for a connection.
///
/// Not `thread::park`: that shares one token with everything else on the caller's thread, and a
/// pool must not eat a wake-up that was meant for its user.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    woken: Mutex<bool>,
    bell: Condvar,
}

impl Parker {
    pub(crate) fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }

    /// Sleeps until woken, or until this time.
    pub(crate) fn park_until(&self, until: Option<Instant>) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        while !*woken {
            let left = until.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            woken = wait(&self.bell, woken, left);
        }
        *woken = false;
    }
}

fn wait<'a, T>(
    bell: &Condvar,
    guard: MutexGuard<'a, T>,
    left: Option<Duration>,
) -> MutexGuard<'a, T> {
    match left {
        None => bell.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(left) => {
            let woken = bell.wait_timeout(guard, left);
            woken.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

pub(crate) fn warn_of_hang_ups() {
    say!(
        Warn,
        "the other side hangs up on one connection after the other without a word"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::pool::Pool;
    use crossbeam_channel::{Receiver, bounded};
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::AtomicUsize;

    /// A pool whose reaper never comes, with so many dead connections left to it.
    struct Graveyard {
        pool: Pool<Stream>,
        connects: Arc<AtomicUsize>,
        closed: Arc<AtomicUsize>,
        _server: TcpListener,
        woken: Receiver<()>,
    }

    impl Graveyard {
        /// The connect with this number, from 0, runs out of descriptors.
        fn new(limit: usize, dead: usize, fails: usize) -> Self {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = server.local_addr().unwrap();
            let (connects, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
            let (made, told) = (Arc::clone(&connects), Arc::clone(&closed));
            let factory = move || match made.fetch_add(1, Relaxed) {
                number if number == fails => Err(io::Error::from_raw_os_error(if cfg!(windows) {
                    10024
                } else {
                    24
                })),
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
            while let Some((lease, _)) = pool.shared().take(true) {
                let Lease { place, held, .. } = lease;
                pool.shared().bury_later(Dead {
                    place,
                    held,
                    why: Eviction::PeerClosed,
                    mute: false,
                });
            }
            assert_eq!(pool.stats().releases, dead as u64);
            let yard = Self {
                pool,
                connects,
                closed,
                _server: server,
                woken,
            };
            assert_eq!(yard.closed(), 0);
            yard
        }

        fn closed(&self) -> usize {
            self.closed.load(Relaxed)
        }
    }

    #[test]
    fn what_was_left_to_a_reaper_that_does_not_come_is_closed_by_end_and_free() {
        let yard = Graveyard::new(20, 20, usize::MAX);
        assert!(yard.woken.try_recv().is_ok());
        yard.pool.end();
        assert_eq!(yard.closed(), 20);
        let yard = Graveyard::new(20, 20, usize::MAX);
        let freed = yard.pool.free(0);
        assert_eq!((freed.closed, yard.closed()), (0, 20));
    }

    #[test]
    fn the_dead_and_the_living_together_stay_below_the_limit() {
        let yard = Graveyard::new(20, 15, usize::MAX);
        let leases: Vec<_> = (0..12).map(|_| yard.pool.pull().unwrap()).collect();
        assert_eq!(yard.closed(), 7);
        drop(leases);
    }

    #[test]
    fn the_dead_give_up_their_descriptors_for_a_connect() {
        let yard = Graveyard::new(20, 10, 10);
        drop(yard.pool.allocate().unwrap());
        assert_eq!(yard.connects.load(Relaxed), 12);
        assert_eq!(yard.closed(), AT_ONCE);
    }

    /// What the probe makes of a connection to which the other side does this.
    fn found(strike: impl FnOnce(&Held<Stream>, TcpStream)) -> (Eviction, bool) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let builder = Builder::new(move || TcpStream::connect(address)).reap_interval(None);
        let pool = builder.build().unwrap();
        drop(pool.pull().unwrap());
        let (lease, _) = pool.shared().take(true).unwrap();
        strike(&lease.held, server.accept().unwrap().0);
        assert!(lease.held.stream.socket().tcp().peek(&mut [0]).is_ok());
        let dead = pool.shared().hand_out(lease, true).unwrap_err();
        let found = (dead.why, dead.mute);
        pool.shared().bury(dead);
        found
    }

    #[test]
    fn only_who_never_said_a_word_is_mute() {
        use std::io::Write;
        assert_eq!(found(|_, far| drop(far)), (Eviction::PeerClosed, true));
        let greeting = |_: &Held<Stream>, mut far: TcpStream| far.write_all(b"hello").unwrap();
        assert_eq!(found(greeting), (Eviction::Unread, false));
        let was_heard = |held: &Held<Stream>, far: TcpStream| {
            held.stream.socket().word(true);
            drop(far);
        };
        assert_eq!(found(was_heard), (Eviction::PeerClosed, false));
    }
}
