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

/// Waits on a condition variable, for so long at most.
pub(super) fn wait<'a, T>(
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
