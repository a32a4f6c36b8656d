//! What all handles, leases and threads of a pool share: with the files below it, all that locks the core.
//!
//! Every operation locks, decides, unlocks, and then acts ([`Shared::with`]). The lock is never
//! held across a system call, a log line, a wake-up, a destructor of a client or socket, or any
//! function that the user gave us.

mod effects;
mod events;
mod leases;
mod views;

pub(crate) use leases::taker;

use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::net::connector::Factory;
use crate::net::socket::Socket;
use crate::net::stream::Stream;
use crate::report::event::{Close, Event, Freed};
use crate::runtime::closer::Closer;
use crate::runtime::parker::{Parker, wait_until};
use crate::runtime::settings::{Functions, Settings};
use crate::state::core::{self, Reserved};
use crate::state::slots;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::sync::user_code::destroy;
use crate::sync::{Condvar, Mutex, MutexGuard, now};

/// What a lease consists of: the client, and a handle of its own on the socket under it.
pub(crate) struct Held<C> {
    pub(crate) client: C,
    pub(crate) stream: Stream,
}

impl<C> Held<C> {
    #[inline]
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        self.stream.socket()
    }
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
    /// What the core's function of this name said last, to be read without the lock.
    wants_leases_back: AtomicBool,
    /// Whether a caller reads the clock before it takes what is idle: where a lease's start must be
    /// exact, or somebody waits whom it may overtake for a while only.
    take_reads_clock: AtomicBool,
    /// Sweeps so far; chooses whose sending side the next one tries.
    pub(crate) sweeps: AtomicU64,
    pub(crate) settings: Settings,
    pub(crate) functions: Functions<C>,
    pub(crate) closer: Arc<Closer<C>>,
    /// Wakes the reaper, if there is one.
    reaper: OnceLock<Sender<()>>,
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
    /// Who wants to hear of the pool's end.
    listeners: Vec<Weak<dyn Listener>>,
}

impl<C: Send + 'static> Shared<C> {
    pub(crate) fn new(
        core: Core<C>,
        factory: Arc<dyn Factory>,
        settings: Settings,
        functions: Functions<C>,
        connect: fn(&Arc<Self>, Reserved),
    ) -> Arc<Self> {
        Arc::new(Self {
            allocations: AtomicU64::new(0),
            state: Mutex::new(State {
                core,
                factory: Some(factory),
                listeners: Vec::new(),
            }),
            changed: Condvar::new(),
            wants_leases_back: AtomicBool::new(false),
            take_reads_clock: AtomicBool::new(settings.exact_lease_start),
            sweeps: AtomicU64::new(0),
            settings,
            functions,
            closer: Closer::new(),
            reaper: OnceLock::new(),
            connect,
        })
    }
}

impl<C> Shared<C> {
    /// Moves the core's clock, decides, unlocks, acts.
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
        self.conclude(state);
        decided
    }

    /// Unlocks, and does what is to be done then.
    fn conclude(self: &Arc<Self>, mut state: MutexGuard<'_, State<C>>) {
        let wants_back = state.core.wants_leases_back();
        if self.wants_leases_back.load(Relaxed) != wants_back {
            self.wants_leases_back.store(wants_back, Relaxed);
        }
        let reads_clock = self.settings.exact_lease_start || state.core.has_waiters();
        if self.take_reads_clock.load(Relaxed) != reads_clock {
            self.take_reads_clock.store(reads_clock, Relaxed);
        }
        let effects = state.core.take_effects();
        drop(state);
        self.act(effects);
    }

    /// Asks the core something that changes nothing.
    pub(crate) fn read<R>(&self, ask: impl FnOnce(&Core<C>) -> R) -> R {
        ask(&self.lock().core)
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_at(&self, now: Instant) -> MutexGuard<'_, State<C>> {
        let mut state = self.lock();
        state.core.advance(now);
        state
    }

    pub(crate) fn free(self: &Arc<Self>, keep: usize, close: Close) -> Freed {
        let freed = self.with(|core| core.free(keep, close));
        self.tell(&Event::Freed(freed));
        freed
    }

    /// Tells this one when the pool ends.
    pub(crate) fn listen(&self, listener: Weak<dyn Listener>) {
        let mut state = self.lock();
        state.listeners.retain(|other| other.strong_count() > 0);
        state.listeners.push(listener);
    }

    pub(crate) fn end(self: &Arc<Self>, close: Close) {
        let (first, listeners) = self.decide(self.lock_at(now()), |state| {
            let first = state.core.end(close);
            (first, std::mem::take(&mut state.listeners))
        });
        self.wake_reaper();
        self.changed.notify_all();
        if first {
            for listener in listeners.iter().filter_map(Weak::upgrade) {
                listener.pool_ended();
            }
            self.tell(&Event::Ended);
        }
    }

    pub(crate) fn drain(&self, timeout: Duration) -> bool {
        let deadline = now().checked_add(timeout);
        let mut state = self.lock();
        if !state.core.begin_draining() {
            return true;
        }
        let is_drained = |state: &State<C>| state.core.is_drained();
        let (mut state, drained) = wait_until(&self.changed, state, deadline, is_drained);
        state.core.end_draining();
        drained
    }

    /// Sleeps; false if the pool ends meanwhile, or has ended.
    pub(crate) fn sleep_until(&self, until: Option<Instant>) -> bool {
        let has_ended = |state: &State<C>| state.core.has_ended();
        !wait_until(&self.changed, self.lock(), until, has_ended).1
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
        self.lock().core.set_has_reaper();
        let _ = self.reaper.set(reaper);
    }

    fn wake_reaper(&self) {
        if let Some(reaper) = self.reaper.get() {
            // Full means that it has been woken already.
            let _ = reaper.try_send(());
        }
    }
}

/// What the user's functions captured is dropped here, perhaps by a lease: a panic ends here too.
impl<C> Drop for Shared<C> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let state = state.unwrap_or_else(PoisonError::into_inner);
        destroy(state.factory.take());
        self.functions.release();
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
        assert_eq!(pool.shared().lock().listeners.len(), 2);
    }
}
