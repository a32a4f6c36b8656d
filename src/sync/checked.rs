//! The checker's locks and threads, and a clock that only moves when a schedule says so.
//!
//! Between two schedules [`restart`] sets the clock back. A thread that runs [`keep_time`] is
//! time: whenever the schedule lets it run, the clock jumps to the next moment that somebody
//! sleeps for. Without such a thread the time stands still and nobody times out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LockResult, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
pub(crate) use shuttle::thread;

/// As std's, with a time-out by this module's clock, which the checker's own does not have.
#[derive(Debug, Default)]
pub(crate) struct Condvar(Arc<shuttle::sync::Condvar>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    /// Whether the time was up comes with the guard.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let Some(until) = now().checked_add(timeout) else {
            return with_time(self.0.wait(guard), false);
        };
        let timer = CLOCK.with_borrow_mut(|clock| clock.set(until, Arc::clone(&self.0)));
        wake_keeper();
        // The keeper of time may have run meanwhile. From here to the sleep nobody else does.
        if now() >= until {
            return Ok((guard, true));
        }
        let woken = self.0.wait(guard);
        let is_late = CLOCK.with_borrow_mut(|clock| clock.timers.remove(&timer).is_none());
        with_time(woken, is_late)
    }
}

fn with_time<T>(result: LockResult<T>, is_late: bool) -> LockResult<(T, bool)> {
    match result {
        Ok(guard) => Ok((guard, is_late)),
        Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), is_late))),
    }
}

/// When a sleep ends, and a number that tells two of one moment apart.
type Timer = (Instant, u64);

struct Clock {
    start: Instant,
    now: Instant,
    timers: BTreeMap<Timer, Arc<shuttle::sync::Condvar>>,
    timers_set: u64,
    keeper: Option<thread::Thread>,
    stopped: bool,
}

impl Clock {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            timers: BTreeMap::new(),
            timers_set: 0,
            keeper: None,
            stopped: false,
        }
    }

    fn set(&mut self, until: Instant, bell: Arc<shuttle::sync::Condvar>) -> Timer {
        self.timers_set += 1;
        let timer = (until, self.timers_set);
        self.timers.insert(timer, bell);
        timer
    }

    /// Jumps to the end of the next sleep; whom to wake then.
    fn jump(&mut self) -> Option<Arc<shuttle::sync::Condvar>> {
        let ((until, _), bell) = self.timers.pop_first()?;
        self.now = self.now.max(until);
        Some(bell)
    }
}

// All threads of a schedule are one thread to the system, and another schedule may run beside it.
std::thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::new(Clock::new());
}

/// Begins a schedule.
pub(crate) fn restart() {
    CLOCK.with_borrow_mut(|clock| *clock = Clock::new());
}

/// What a thread does that is time: it ends with [`stop`].
pub(crate) fn keep_time() {
    CLOCK.with_borrow_mut(|clock| clock.keeper = Some(thread::current()));
    loop {
        let (bell, stopped) = CLOCK.with_borrow_mut(|clock| (clock.jump(), clock.stopped));
        match bell {
            Some(bell) => {
                bell.notify_all();
                // No thread that can run stands still for ever while others time out and wait again.
                thread::yield_now();
            }
            None if stopped => return,
            None => thread::park(),
        }
    }
}

/// Ends the thread that is time.
pub(crate) fn stop() {
    CLOCK.with_borrow_mut(|clock| clock.stopped = true);
    wake_keeper();
}

fn wake_keeper() {
    if let Some(keeper) = CLOCK.with_borrow(|clock| clock.keeper.clone()) {
        keeper.unpark();
    }
}

pub(crate) fn now() -> Instant {
    CLOCK.with_borrow(|clock| clock.now)
}

/// Moves the clock by hand; wakes nobody.
pub(crate) fn pass(time: Duration) {
    CLOCK.with_borrow_mut(|clock| clock.now += time);
}

/// How far the clock has moved in this schedule.
pub(crate) fn elapsed() -> Duration {
    CLOCK.with_borrow(|clock| clock.now - clock.start)
}

/// The same each time, so that a schedule can be repeated.
pub(crate) fn seed() -> u64 {
    0x4A41_434B_504F_5401
}
