//! How late calls are, beside threads that only sleep.
//!
//! A machine under load wakes every thread late. What a call adds of its own is seen against as many
//! threads beside it that wait as long, at the same time, for something that never comes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What a call may be later than a sleeper: some steps of a coarse clock, since a socket's time-out
/// counts in them, and some wake-ups one after the other.
const MORE: Duration = Duration::from_millis(250);
/// The worst of one thread may be so many times that of another, on a machine under load.
const TIMES: u32 = 4;

#[derive(Default)]
pub(crate) struct Lateness {
    calls: Mutex<Duration>,
    sleepers: Mutex<Duration>,
    is_over: AtomicBool,
}

impl Lateness {
    /// A call that was given so long has come back.
    pub(crate) fn call(&self, given: Duration, took: Duration) {
        raise(&self.calls, took.saturating_sub(given));
    }

    /// Waits for nothing, for one of these times after the other, until it is over.
    pub(crate) fn sleep(&self, times: impl IntoIterator<Item = Duration>) {
        let (_never, receiver) = mpsc::channel::<()>();
        for time in times {
            if self.is_over.load(SeqCst) {
                return;
            }
            let begun = Instant::now();
            assert_eq!(receiver.recv_timeout(time), Err(RecvTimeoutError::Timeout));
            raise(&self.sleepers, begun.elapsed().saturating_sub(time));
        }
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn end(&self) {
        self.is_over.store(true, SeqCst);
    }

    /// No call was later than a machine under load makes it.
    #[track_caller]
    pub(crate) fn check(&self) {
        let (calls, sleepers) = (*self.calls.lock().unwrap(), *self.sleepers.lock().unwrap());
        println!("late at most: calls {calls:?}, sleepers {sleepers:?}");
        assert!(
            calls <= sleepers * TIMES + MORE,
            "calls were {calls:?} late, and those who only slept {sleepers:?}"
        );
    }
}

fn raise(worst: &Mutex<Duration>, by: Duration) {
    let mut worst = worst.lock().unwrap();
    *worst = by.max(*worst);
}
