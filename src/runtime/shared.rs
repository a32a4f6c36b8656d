//! What all handles, leases and threads of a pool share: the only file that locks the core.
//!
//! Every operation locks, decides, unlocks, and then acts ([`Shared::with`]). The lock is never
//! held across a system call, a log line, a wake-up, a destructor of a client or socket, or any
//! function that the user gave us.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::backoff::Backoff;
use crate::net::connector::Factory;
use crate::net::probe;
use crate::net::socket::Socket;
use crate::net::stream::Stream;
use crate::report::event::{Close, Event, Freed, Outage};
use crate::report::outcome::Eviction;
use crate::report::stats::{Brief, CallSites, ConnectionInfo, Stats};
use crate::runtime::closer::Closer;
use crate::runtime::parker::{Parker, wait};
use crate::runtime::settings::Settings;
use crate::state::core::{self, Reserved, Rules, Tale, What};
use crate::state::slots;
use crate::state::slots::{CallSite, Closed, Ending, Holder, SlotKey, Taker};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::sync::user_code::{destroy, guarded, guarded_call, log};
use crate::sync::{Condvar, Mutex, MutexGuard, now, thread};

/// The name of the thread that pings, as it is reported.
pub(crate) const PING_THREAD: &str = "jackpot-ping";

/// What a lease consists of: the client, and a handle of its own on the socket under it.
pub(crate) struct Held<C> {
    pub(crate) client: C,
    pub(crate) stream: Stream,
}

pub(crate) type Core<C> = core::Core<Held<C>, Arc<Socket>, Arc<Parker>>;
pub(crate) type Effects<C> = core::Effects<Held<C>, Arc<Socket>, Arc<Parker>>;
pub(crate) type Turn<C> = core::Turn<Held<C>>;
pub(crate) type Dead<C> = core::Dead<Held<C>>;
pub(crate) type Lease<C> = slots::Lease<Held<C>>;

/// In this order: the handles that leases hold, counted just before the first field, the leases and
/// the lock are written by every thread that pulls, and so should lie in one cache line.
#[repr(C)]
pub(crate) struct Shared<C> {
    /// Leases that reached a caller. It stands outside the lock because a connection that fails
    /// its probe is taken under the lock but never handed out.
    allocations: AtomicU64,
    state: Mutex<State<C>>,
    /// Rung when nothing is outstanding any more, and when the pool ends.
    changed: Condvar,
    /// What [`Core::is_short`](core::Core::is_short) said last, to be read without the lock.
    short: AtomicBool,
    /// Whether a caller looks at the clock before it takes what is idle: where a lease's start must
    /// be exact, or somebody waits whom it may overtake for a while only.
    looks_on_take: AtomicBool,
    /// Sweeps so far; chooses whose sending side the next one looks at.
    pub(crate) sweeps: AtomicU64,
    pub(crate) settings: Settings<C>,
    pub(crate) closer: Arc<Closer<C>>,
    /// Who wants to hear of the pool's end.
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
    /// Starts a connect thread. A pointer, because only threads ask that `C` be `Send`, and a
    /// guard's `drop` may not.
    connect: fn(&Arc<Self>, Reserved),
}

/// Hears of the pool's end, whoever ends it.
pub(crate) trait Listener: Send + Sync {
    fn pool_ended(&self);
}

/// Everything behind the lock.
struct State<C> {
    core: Core<C>,
    /// There until the pool is dropped.
    factory: Option<Arc<dyn Factory>>,
    /// Wakes the reaper; its loss ends it.
    reaper: Option<Sender<()>>,
}

impl<C: Send + 'static> Shared<C> {
    pub(crate) fn new(
        limit: usize,
        rules: Rules,
        backoff: Backoff,
        factory: Arc<dyn Factory>,
        settings: Settings<C>,
        connect: fn(&Arc<Self>, Reserved),
    ) -> Arc<Self> {
        let looks_on_take = AtomicBool::new(settings.exact_leases);
        Arc::new(Self {
            allocations: AtomicU64::new(0),
            state: Mutex::new(State {
                core: Core::new(limit, rules, backoff, now()),
                factory: Some(factory),
                reaper: None,
            }),
            changed: Condvar::new(),
            short: AtomicBool::new(false),
            looks_on_take,
            sweeps: AtomicU64::new(0),
            settings,
            closer: Closer::new(),
            listeners: Mutex::default(),
            connect,
        })
    }
}

impl<C> Shared<C> {
    /// Moves the core's clock, decides, unlocks, acts.
    pub(crate) fn with<R>(self: &Arc<Self>, decide: impl FnOnce(&mut Core<C>) -> R) -> R {
        self.decide(self.lock_at(now()), |state| decide(&mut state.core))
    }

    /// [`with`](Self::with), where the lock has been taken already.
    fn decide<R>(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State<C>>,
        decide: impl FnOnce(&mut State<C>) -> R,
    ) -> R {
        let decided = decide(&mut state);
        let (effects, reaper) = self.conclude(&mut state);
        drop(state);
        self.act(effects, reaper);
        decided
    }

    /// [`with`](Self::with), for a connect thread, which starts the next connect itself.
    pub(crate) fn with_connect<R>(
        self: &Arc<Self>,
        decide: impl FnOnce(&mut Core<C>) -> R,
    ) -> (R, Option<Reserved>) {
        let mut state = self.lock_at(now());
        let decided = decide(&mut state.core);
        let (mut effects, reaper) = self.conclude(&mut state);
        drop(state);
        let next = effects.connects.pop();
        self.act(effects, reaper);
        (decided, next)
    }

    /// What is to be done once the lock is free, and how to wake the reaper if that is part of it.
    fn conclude(&self, state: &mut State<C>) -> (Effects<C>, Option<Sender<()>>) {
        let short = state.core.is_short();
        if self.short.load(Relaxed) != short {
            self.short.store(short, Relaxed);
        }
        let looks = self.settings.exact_leases || state.core.has_waiters();
        if self.looks_on_take.load(Relaxed) != looks {
            self.looks_on_take.store(looks, Relaxed);
        }
        let effects = state.core.take_effects();
        let reaper = state.reaper.as_ref().filter(|_| effects.wake_reaper);
        let reaper = reaper.cloned();
        (effects, reaper)
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_at(&self, now: Instant) -> MutexGuard<'_, State<C>> {
        let mut state = self.lock();
        state.core.advance(now);
        state
    }

    fn act(self: &Arc<Self>, effects: Effects<C>, reaper: Option<Sender<()>>) {
        for parker in effects.wake {
            parker.wake();
        }
        for socket in effects.recall {
            socket.recall();
        }
        for socket in effects.cut {
            socket.abort();
        }
        drop(effects.released);
        for closed in &effects.close {
            if closed.ending == Ending::Abort {
                closed.handle.recall();
                closed.handle.abort();
            }
        }
        // Closed before others are opened: a server may count as strictly as the pool does.
        let places = effects.close.iter().filter(|closed| closed.occupies);
        let places: Vec<SlotKey> = places.map(|closed| closed.key).collect();
        let closed = effects.close.into_iter();
        let departed = closed.filter_map(|closed| self.close(closed));
        let departed: Vec<_> = departed.flatten().collect();
        for reserved in effects.connects {
            (self.connect)(self, reserved);
        }
        if !places.is_empty() {
            self.with(|core| core.vacate(&places));
        }
        if let Some(Held { client, stream }) = effects.aborted {
            self.dispose(client, &Arc::clone(stream.socket()), stream);
        }
        if effects.drained {
            self.changed.notify_all();
        }
        if let Some(reaper) = reaper {
            // Full means that it has been woken already.
            let _ = reaper.try_send(());
        }
        if effects.warn_of_hang_ups {
            log!(
                Warn,
                "the other side hangs up on one connection after the other without a byte"
            );
        }
        for tale in departed.into_iter().flatten() {
            self.tell_one(tale);
        }
        for error in effects.errors {
            destroy(error);
        }
    }

    /// Closes a connection that leaves; what is to be told of it.
    fn close(&self, closed: Closed<Held<C>, Arc<Socket>>) -> Option<[Option<Tale>; 2]> {
        if let Some(Held { client, stream }) = closed.client {
            self.dispose(client, &closed.handle, stream);
        }
        let (id, why, age) = (closed.key.id, closed.why, closed.age);
        let returned = closed.held.map(|held| What::Returned { held });
        let tales = [returned, Some(What::Evicted { why, age })];
        let tales = tales.map(|what| what.map(|what| Tale { id, what }));
        closed.tell.then_some(tales)
    }

    /// Drops a client whose connection is not used any more, and closes its socket.
    ///
    /// The last handle on a socket closes it. A destructor of the user's may send what lies in a
    /// buffer, or block: it runs when the socket has been shut down, and elsewhere.
    pub(crate) fn dispose(&self, client: C, socket: &Arc<Socket>, stream: Stream) {
        drop(stream);
        if !self.settings.plain_client {
            socket.abort();
            return self.closer.drop_later(client);
        }
        drop(client);
        // A sweep that is just looking at the socket has a handle too.
        if Arc::strong_count(socket) > 1 {
            socket.abort();
        }
    }

    /// Tells this of a connection, and what happens to it meanwhile.
    pub(crate) fn tell_of_connection(self: &Arc<Self>, first: Option<Tale>) {
        let mut next = first;
        while let Some(tale) = next {
            let id = tale.id;
            self.tell_one(tale);
            next = self.with(|core| core.next_tale(id));
        }
    }

    fn tell_one(&self, tale: Tale) {
        let id = tale.id;
        self.tell(&match tale.what {
            What::Leased { waited, at } => Event::Leased { id, waited, at },
            What::Overdue { held, holder, at } => {
                let thread = match &holder {
                    Holder::Caller(thread) => thread.name(),
                    Holder::Ping => Some(PING_THREAD),
                };
                let thread = thread.map(str::to_owned);
                let name = thread.as_deref().unwrap_or("without a name");
                let held_for = Brief(held);
                let place = at.map(|at| format!(", taken at {}:{}", at.file(), at.line()));
                let place = place.unwrap_or_default();
                log!(
                    Warn,
                    "connection {id} has been leased for {held_for} by thread {name}{place}"
                );
                Event::Overdue {
                    id,
                    held,
                    thread,
                    at,
                }
            }
            What::Returned { held } => Event::Returned { id, held },
            What::Evicted { why, age } => {
                log!(Debug, "connection {id} left after {}: {why}", Brief(age));
                Event::Evicted { id, why, age }
            }
        });
    }

    /// A lease has reached its caller.
    pub(crate) fn tell_leased(self: &Arc<Self>, key: SlotKey, waited: Duration, at: CallSite) {
        if self.settings.lease_events {
            let taker = self.watched_taker(at);
            self.tell_that(|core| core.lease_begins(key, waited, taker));
        }
    }

    /// A lease is about to end; told before anybody else can have the connection.
    pub(crate) fn tell_returned(self: &Arc<Self>, key: SlotKey) {
        if self.settings.lease_events {
            self.tell_that(|core| core.lease_ends(key));
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_that(self: &Arc<Self>, of: impl FnOnce(&mut Core<C>) -> Option<Tale>) {
        let tale = self.with(of);
        self.tell_of_connection(tale);
    }

    pub(crate) fn tell(&self, event: &Event) {
        let Some(on_event) = &self.settings.on_event else {
            return;
        };
        if let Err(text) = guarded(|| on_event(event)) {
            log!(Error, "the event function panicked: {text}");
        }
    }

    /// The most recently used idle connection, if there is one, not yet probed.
    #[inline]
    pub(crate) fn take(&self, barge: bool, at: CallSite) -> Option<Lease<C>> {
        let now = self.looks_on_take.load(Relaxed).then(now);
        let taker = self.taker(at);
        let mut state = self.lock();
        if let Some(now) = now {
            state.core.advance(now);
        }
        state.core.take(barge && now.is_some(), taker)
    }

    /// The calling thread, if leases are watched, and its call.
    ///
    /// A lease that is told is watched from when its beginning is told.
    pub(crate) fn taker(&self, at: CallSite) -> Taker {
        if self.settings.watches_leases && !self.settings.lease_events {
            return self.watched_taker(at);
        }
        Taker {
            at: Some(at),
            holder: None,
        }
    }

    fn watched_taker(&self, at: CallSite) -> Taker {
        let watches = self.settings.watches_leases;
        Taker {
            at: Some(at),
            holder: watches.then(|| Holder::Caller(std::thread::current())),
        }
    }

    pub(crate) fn count_allocation(&self) {
        self.allocations.fetch_add(1, Relaxed);
    }

    /// A lease is over.
    pub(crate) fn give_back(self: &Arc<Self>, key: SlotKey, mut held: Held<C>, finished: bool) {
        self.tell_returned(key);
        let has_sent = held.stream.socket().is_unanswered();
        let verdict = self.verdict(key, &mut held, finished);
        let was_of_use = finished || (has_sent && verdict.is_none());
        let signal = held.stream.socket().peer_signal(was_of_use);
        held.stream.socket().set_leased(verdict.is_some());
        let looks = self.settings.looks_on_return || verdict.is_some();
        let looked = looks.then(now);
        let mut state = match looked {
            Some(now) => self.lock_at(now),
            None => self.lock(),
        };
        if verdict.is_none() {
            match state.core.make_idle(key, held, signal) {
                Ok(()) => return,
                Err(back) => held = back,
            }
        }
        if looked.is_none() {
            drop(state);
            state = self.lock_at(now());
        }
        self.decide(state, |state| {
            state.core.give_back(key, held, verdict, signal);
        });
    }

    /// What a lease that is over says against using its connection again.
    fn verdict(&self, key: SlotKey, held: &mut Held<C>, finished: bool) -> Option<Eviction> {
        let settings = &self.settings;
        if thread::panicking() {
            return Some(Eviction::Panicked);
        }
        let over = finished || settings.allow_unanswered || settings.only_finished;
        if let Some(why) = held
            .stream
            .socket()
            .make_reusable(over, settings.allow_unread)
        {
            return Some(why);
        }
        if settings.only_finished && !finished {
            return Some(Eviction::Unfinished);
        }
        let recycle = settings.recycle.as_ref()?;
        if self.lock().core.is_doomed(key) {
            return None; // the core knows why it is to close
        }
        let socket = held.stream.socket();
        // What lies in it was for this caller: it must not pass for what `recycle` asks for.
        socket.set_leased(false);
        if let Some(why) = probe::verdict(socket, settings.allow_unread) {
            if why == Eviction::PeerClosed {
                socket.hung_up();
            }
            return Some(why);
        }
        socket.set_leased(true);
        if let Err(error) = guarded_call(recycle, &mut held.client) {
            log!(Debug, "connection {}: recycle failed: {error}", key.id);
            return Some(Eviction::RecycleFailed);
        }
        held.stream
            .socket()
            .make_reusable(true, settings.allow_unread)
    }

    /// Whether the pool wants a lease back whose socket this is; costs no lock.
    pub(crate) fn wants_back(&self, socket: &Socket) -> bool {
        self.short.load(Relaxed) || socket.is_recalled()
    }

    pub(crate) fn free(self: &Arc<Self>, keep: usize, close: Close) -> Freed {
        let freed = self.with(|core| core.free(keep, close));
        let Freed {
            kept,
            closed,
            doomed,
        } = freed;
        log!(
            Debug,
            "freed: {kept} kept, {closed} closed, {doomed} doomed"
        );
        self.tell(&Event::Freed(freed));
        freed
    }

    /// Tells this one when the pool ends.
    pub(crate) fn listen(&self, listener: Weak<dyn Listener>) {
        let mut listeners = self.listeners();
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(listener);
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Weak<dyn Listener>>> {
        let listeners = self.listeners.lock();
        listeners.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn end(self: &Arc<Self>, close: Close) {
        let (first, reaper) = self.decide(self.lock_at(now()), |state| {
            (state.core.end(close), state.reaper.take())
        });
        drop(reaper);
        self.changed.notify_all();
        if first {
            let listeners = std::mem::take(&mut *self.listeners());
            for listener in listeners.iter().filter_map(Weak::upgrade) {
                listener.pool_ended();
            }
            log!(Debug, "the pool has ended");
            self.tell(&Event::Ended);
        }
    }

    pub(crate) fn drain(&self, timeout: Duration) -> bool {
        let deadline = now().checked_add(timeout);
        let mut state = self.lock();
        if !state.core.begin_draining() {
            return true;
        }
        let drained = loop {
            if state.core.is_drained() {
                break true;
            }
            let left = deadline.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                break false;
            }
            state = wait(&self.changed, state, left);
        };
        state.core.end_draining();
        drained
    }

    /// Sleeps; false if the pool ends meanwhile, or has ended.
    pub(crate) fn sleep_until(&self, until: Option<Instant>) -> bool {
        let mut state = self.lock();
        while !state.core.has_ended() {
            let left = until.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return true;
            }
            state = wait(&self.changed, state, left);
        }
        false
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let now = now();
        let found: Vec<_> = self
            .lock()
            .core
            .slots()
            .occupants()
            .map(|found| {
                let socket = found.handle.cloned();
                (found.without_handle(), socket)
            })
            .collect();
        found
            .into_iter()
            .map(|(found, socket)| ConnectionInfo {
                id: found.id,
                state: found.state,
                local: socket.as_ref().and_then(|s| s.tcp().local_addr().ok()),
                peer: socket.as_ref().and_then(|s| s.tcp().peer_addr().ok()),
                age: now.saturating_duration_since(found.born),
                in_state: now.saturating_duration_since(found.since),
                leases: found.leases,
                taken_at: found.taken_at,
            })
            .collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.lock();
        state.core.stats(self.allocations.load(Relaxed))
    }

    /// The same for an error, with the call sites of the leases: their list is copied from all
    /// slots under the lock, and counted outside.
    pub(crate) fn stats_with_call_sites(&self) -> Stats {
        let (stats, sites) = {
            let locked = self.lock();
            let stats = locked.core.stats(self.allocations.load(Relaxed));
            (stats, locked.core.slots().call_sites())
        };
        Stats {
            call_sites: CallSites::new(stats.leased, &sites),
            ..stats
        }
    }

    pub(crate) fn outage(&self) -> Option<Outage> {
        self.lock().core.outage()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.lock().core.has_ended()
    }

    pub(crate) fn limit(&self) -> usize {
        self.lock().core.limit()
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.lock().core.backoff().clone()
    }

    pub(crate) fn set_backoff(&self, backoff: Backoff) {
        self.lock().core.set_backoff(backoff);
    }

    /// Where the next connection comes from; `None` once the pool has ended.
    pub(crate) fn factory(&self) -> Option<Arc<dyn Factory>> {
        let state = self.lock();
        state.factory.clone().filter(|_| !state.core.has_ended())
    }

    pub(crate) fn set_factory(self: &Arc<Self>, factory: Arc<dyn Factory>) {
        let old = self.decide(self.lock_at(now()), |state| {
            state.core.factory_changed();
            state.factory.replace(factory)
        });
        destroy(old);
    }

    pub(crate) fn set_reaper(&self, reaper: Sender<()>) {
        let mut state = self.lock();
        state.core.set_has_reaper();
        state.reaper = Some(reaper);
    }
}

/// What the user's functions captured is dropped here, perhaps by a lease: a panic ends here too.
impl<C> Drop for Shared<C> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        destroy(state.factory.take());
        self.settings.release();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::builder::Builder;
    use crate::runtime::connection::Connection;

    struct Ear;

    impl Listener for Ear {
        fn pool_ended(&self) {}
    }

    /// A sweep has a handle on each socket that it looks at.
    #[test]
    fn a_connection_is_closed_although_somebody_has_a_handle_on_its_socket() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let builder = Builder::new(move || TcpStream::connect(address)).reap_interval(None);
        let pool = builder.build().unwrap();
        let lease = pool.pull().unwrap();
        let mut far = server.accept().unwrap().0;
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _handle = Arc::clone(Connection::stream(&lease).socket());
        Connection::discard(lease);
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
    }

    /// A pool may outlive any number of pipelines.
    #[test]
    fn listeners_that_are_gone_are_forgotten() {
        let factory = || Err(std::io::ErrorKind::ConnectionRefused.into());
        let pool = Builder::new(factory).reap_interval(None).build().unwrap();
        let listen = || {
            let listener: Arc<dyn Listener> = Arc::new(Ear);
            pool.shared().listen(Arc::downgrade(&listener));
            listener
        };
        let _kept = listen();
        for _ in 0..3 {
            drop(listen());
        }
        let _another = listen();
        assert_eq!(pool.shared().listeners().len(), 2);
    }
}
