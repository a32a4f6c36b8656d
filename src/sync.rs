//! What the order of events hangs on: locks, threads, the clock and the seed of random numbers.
//!
//! They are std's. Only where `tests/schedules` checks every schedule (`docs/RELIABILITY.md`) is
//! a checker in charge of them, so that it decides who runs next and what time it is, and can
//! repeat it.

#[cfg(all(test, jackpot_shuttle))]
mod checked;
pub(crate) mod user_code;

#[cfg(all(test, jackpot_shuttle))]
pub(crate) use checked::{
    Condvar, Mutex, MutexGuard, atomic, elapsed, keep_time, now, pass, restart, seed, stop, thread,
};
#[cfg(not(all(test, jackpot_shuttle)))]
pub(crate) use plain::{Condvar, Mutex, MutexGuard, atomic, now, seed, thread};

/// Starts a thread of the pool's own.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop)
}

#[cfg(not(all(test, jackpot_shuttle)))]
mod plain {
    use std::collections::hash_map::RandomState;
    use std::hash::{BuildHasher, Hasher};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
    pub(crate) use std::thread;
    use std::time::Instant;

    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    /// Differs between processes, and between two calls.
    pub(crate) fn seed() -> u64 {
        RandomState::new().build_hasher().finish()
    }
}
