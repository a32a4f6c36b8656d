//! Sleeping until woken, or until a time.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard, now};

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
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut woken, _) = wait_until(&self.bell, woken, until, |woken| *woken);
        *woken = false;
    }
}

/// Waits until this is so, or until this time; whether it is so.
pub(super) fn wait_until<'a, T>(
    bell: &Condvar,
    mut guard: MutexGuard<'a, T>,
    until: Option<Instant>,
    is_so: impl Fn(&T) -> bool,
) -> (MutexGuard<'a, T>, bool) {
    loop {
        if is_so(&guard) {
            return (guard, true);
        }
        let left = until.map(|at| at.saturating_duration_since(now()));
        guard = match left {
            None => bell.wait(guard).unwrap_or_else(PoisonError::into_inner),
            Some(Duration::ZERO) => return (guard, false),
            Some(left) => {
                let woken = bell.wait_timeout(guard, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
