//! When a running caller may overtake sleeping ones, and for how long. Pure.
//!
//! Handing every connection that comes back to the thread that has waited longest is fair, but
//! each hand-off costs the time that the thread takes to wake up, during which its connection
//! does nothing. When there are always waiters, every lease pays this price, and a queue that
//! formed once never dissolves: a convoy (Blasgen, Gray, Mitchell and Price, "The Convoy
//! Phenomenon", 1979). So in a convoy, and only there, a connection that comes back stays up for
//! grabs for a short window of time, and the thread that gave it back can go on with it.

use std::time::{Duration, Instant};

/// So many hand-offs in close succession make a convoy.
pub(super) const HAND_OFFS: u32 = 32;
/// Hand-offs further apart than this are not in close succession.
const QUIET: Duration = Duration::from_millis(10);
/// How long a waiter in a convoy may be overtaken, for each one that waits already.
///
/// The window grows with the queue because the wait does: what counts is that each connection
/// changes threads every so often, not after every lease.
const WINDOW_EACH: Duration = Duration::from_micros(64);
/// How long a waiter may be overtaken at most, however long the queue.
const LONGEST_WINDOW: Duration = Duration::from_millis(4);

/// Watches how close upon each other hand-offs follow.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Convoy {
    pub(super) hand_offs: u32,
    pub(super) last: Option<Instant>,
}

impl Convoy {
    /// A connection was handed to a waiter.
    pub(crate) fn handed_off(&mut self, now: Instant) {
        if self.is_quiet(now) {
            self.hand_offs = 0;
        }
        self.hand_offs = self.hand_offs.saturating_add(1);
        self.last = Some(now);
    }

    /// How long one who begins to wait behind so many others may be overtaken.
    pub(crate) fn window(&self, waiting: usize, now: Instant) -> Option<Duration> {
        if self.hand_offs < HAND_OFFS || self.is_quiet(now) {
            return None;
        }
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(1);
        Some(WINDOW_EACH.saturating_mul(waiting).min(LONGEST_WINDOW))
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last) > QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_succession_makes_a_convoy() {
        let mut now = Instant::now();
        let mut convoy = Convoy::default();
        for _ in 0..10 * HAND_OFFS {
            now += QUIET * 2;
            convoy.handed_off(now);
            assert_eq!(convoy.window(5, now), None);
        }
        for _ in 0..HAND_OFFS {
            now += QUIET / 2;
            convoy.handed_off(now);
        }
        assert_eq!(convoy.window(0, now), Some(WINDOW_EACH));
        assert_eq!(convoy.window(3, now), Some(WINDOW_EACH * 4));
        assert_eq!(convoy.window(usize::MAX, now), Some(LONGEST_WINDOW));
        assert_eq!(convoy.window(3, now + QUIET * 2), None);
    }

    #[test]
    fn a_convoy_begins_with_its_last_hand_off_and_ends_after_the_quiet() {
        let now = Instant::now();
        let mut convoy = Convoy::default();
        for hand_offs in 1..=HAND_OFFS {
            convoy.handed_off(now);
            assert_eq!(convoy.window(0, now).is_some(), hand_offs == HAND_OFFS);
        }
        assert!(convoy.window(0, now + QUIET).is_some());
        let over = now + QUIET + Duration::from_nanos(1);
        assert!(convoy.window(0, over).is_none());
    }
}
