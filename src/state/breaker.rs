//! The circuit breaker: how often the pool connects while the other side is away. Pure.

#[cfg(test)]
#[path = "../../tests/explore/state/breaker.rs"]
mod test_access;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Random;
use crate::report::error::Error;
use crate::report::event;

/// The least time between the starts of two connects during an outage: ten in a second.
const SPACING: Duration = Duration::from_millis(100);
/// The most time between a connect's start and the next one that the pool makes by itself.
const LONGEST: Duration = Duration::from_secs(1);

/// How many connections in a row the other side may hang up on without a byte before that is taken
/// for an outage.
const TOLERATED: u32 = 10;

/// Open while the last connect failed, or while the other side hangs up on whoever connects.
///
/// While it is open, callers share the last failure, and single connects find out whether the other
/// side is back (the half-open state of the literature): at most one is under way, no two start
/// within [`SPACING`], and the pool's own come after pauses that grow from `SPACING` to [`LONGEST`],
/// with jitter, so that the clients of a server that died do not all come back at one instant.
///
/// A server that accepts and hangs up lets every connect succeed. After [`TOLERATED`] connections
/// in a row that ended so within `LONGEST`, each further one is a failed connect, and it takes
/// more than a connect to close the breaker: a byte from the other side, or `LONGEST` without
/// another such end.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Breaker {
    last_start: Option<Instant>,
    outage: Option<Outage>,
    /// Connections in a row on which the other side hung up without a byte, up to `TOLERATED`.
    hang_ups: u32,
    /// Since when a connection must have been made to tell anything new.
    news_since: Option<Instant>,
    random: Random,
    /// Errors that nobody needs any more; to be dropped outside the lock, because they are the
    /// user's.
    pub(super) retired: Vec<Arc<Error>>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Outage {
    error: Arc<Error>,
    /// When the first connect of it failed.
    since: Instant,
    /// How many have failed since.
    failures: u64,
    pause: Duration,
    retry_at: Instant,
    /// Whether connects succeed and come to nothing.
    hangs_up: bool,
    /// The first success since the last failure.
    quiet_since: Option<Instant>,
}

impl Breaker {
    /// The error of the last connect, while the breaker is open.
    pub(crate) fn error(&self) -> Option<&Arc<Error>> {
        self.outage.as_ref().map(|outage| &outage.error)
    }

    /// Since when the breaker is open, how many connects failed meanwhile, and the last error.
    pub(crate) fn outage(&self) -> Option<event::Outage> {
        self.outage.as_ref().map(|outage| event::Outage {
            since: outage.since,
            failures: outage.failures,
            error: Arc::clone(&outage.error),
        })
    }

    /// When the pool should try again by itself, while the breaker is open.
    ///
    /// Not too soon after the last start either, which may have been given up without a result.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        let outage = self.outage.as_ref()?;
        let spaced = self.last_start.map(|start| start + SPACING);
        Some(spaced.map_or(outage.retry_at, |spaced| outage.retry_at.max(spaced)))
    }

    /// Whether a caller's own attempt may start a connect now.
    pub(crate) fn may_start(&self, now: Instant) -> bool {
        self.outage.is_none()
            || self
                .last_start
                .is_none_or(|start| now.saturating_duration_since(start) >= SPACING)
    }

    pub(crate) fn started(&mut self, now: Instant) {
        self.last_start = Some(now);
    }

    /// A connect failed: opens the breaker.
    pub(crate) fn failed(&mut self, error: Arc<Error>, now: Instant) {
        self.open(error, false, now);
    }

    /// A connect succeeded: closes the breaker, unless the other side has been hanging up.
    pub(crate) fn connected(&mut self, now: Instant) {
        let hanging_up = self.outage.as_mut().filter(|outage| outage.hangs_up);
        if let Some(outage) = hanging_up {
            let since = *outage.quiet_since.get_or_insert(now);
            if now.saturating_duration_since(since) < LONGEST {
                outage.retry_at = now;
                return;
            }
        }
        self.close();
    }

    /// A byte came from the other side on a connection of this birth; may close the breaker.
    pub(crate) fn heard(&mut self, born: Instant) {
        self.hang_ups = 0;
        let hanging_up = self.outage.as_ref().is_some_and(|outage| outage.hangs_up);
        if hanging_up && self.is_news(born) {
            self.close();
        }
    }

    /// Whether it would be nothing new that the other side was heard.
    pub(crate) fn is_untroubled(&self) -> bool {
        self.hang_ups == 0 && self.outage.is_none()
    }

    /// The other side hung up without a byte on a connection of this birth; whether that is a
    /// failed connect, which opens the breaker.
    pub(crate) fn hung_up(&mut self, born: Instant, now: Instant) -> bool {
        let lived = now.saturating_duration_since(born);
        if lived >= LONGEST || !self.is_news(born) {
            return false;
        }
        if self.hang_ups < TOLERATED {
            self.hang_ups += 1;
            return false;
        }
        let text = format!(
            "the other side hung up on more than {TOLERATED} connections in a row \
             without sending a byte"
        );
        let error = io::Error::new(io::ErrorKind::ConnectionAborted, text);
        self.open(Arc::new(Error::Connect(error)), true, now);
        true
    }

    /// Connections come from elsewhere now: closes the breaker.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.hang_ups = 0;
        self.news_since = Some(now);
        self.close();
    }

    fn is_news(&self, born: Instant) -> bool {
        self.news_since.is_none_or(|since| born >= since)
    }

    fn close(&mut self) {
        let ended = self.outage.take();
        self.retired.extend(ended.map(|outage| outage.error));
    }

    fn open(&mut self, error: Arc<Error>, hangs_up: bool, now: Instant) {
        let before = self.outage.take();
        let (since, failures, pause) = match &before {
            None => (now, 0, SPACING),
            Some(outage) => (
                outage.since,
                outage.failures,
                (outage.pause * 2).min(LONGEST),
            ),
        };
        let drawn = self.random.between((pause / 2).max(SPACING), pause);
        let outage = Outage {
            error,
            since,
            failures: failures + 1,
            pause,
            retry_at: self.last_start.unwrap_or(now) + drawn,
            hangs_up,
            quiet_since: None,
        };
        self.news_since = Some(now);
        self.outage = Some(outage);
        self.retired.extend(before.map(|outage| outage.error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Arc<Error> {
        Arc::new(Error::Connect(std::io::ErrorKind::ConnectionRefused.into()))
    }

    #[test]
    fn the_pools_own_pauses_grow_to_a_second_and_stay() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for round in 0..50 {
            breaker.started(now);
            breaker.failed(error(), now);
            let pause = breaker.retry_at().unwrap() - now;
            assert!(pause >= SPACING && pause <= LONGEST, "{pause:?}");
            assert!(round < 4 || pause >= LONGEST / 2, "{pause:?}");
            now += pause;
        }
    }

    #[test]
    fn they_are_drawn_from_the_upper_half_of_what_doubles() {
        for (greatest, pauses) in [
            (false, [100, 100, 200, 400, 500, 500]),
            (true, [100, 200, 400, 800, 1000, 1000]),
        ] {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            for pause in pauses.map(Duration::from_millis) {
                breaker.pin(Random::pinned(greatest));
                breaker.started(now);
                breaker.failed(error(), now);
                assert_eq!(breaker.retry_at(), Some(now + pause));
                now += pause;
            }
        }
    }

    #[test]
    fn callers_start_ten_in_a_second_at_most() {
        let begin = Instant::now();
        let mut breaker = Breaker::default();
        breaker.started(begin);
        breaker.failed(error(), begin);
        let starts = (1..1000)
            .filter(|&ms| {
                let now = begin + Duration::from_millis(ms);
                let may = breaker.may_start(now);
                if may {
                    breaker.started(now);
                    breaker.failed(error(), now);
                }
                may
            })
            .count();
        assert_eq!(starts, 9);
        breaker.connected(begin + LONGEST);
        assert!(breaker.may_start(begin) && breaker.error().is_none());
    }

    #[test]
    fn an_outage_counts_its_failures_from_the_first_one_to_the_success() {
        let begin = Instant::now();
        let mut breaker = Breaker::default();
        assert!(breaker.outage().is_none());
        for n in 1..=3 {
            breaker.started(begin);
            let last = error();
            breaker.failed(Arc::clone(&last), begin + SPACING * n);
            let outage = breaker.outage().unwrap();
            let (since, failures) = (outage.since, outage.failures);
            assert_eq!((since, failures), (begin + SPACING, u64::from(n)));
            assert!(Arc::ptr_eq(&outage.error, &last));
        }
        breaker.connected(begin + LONGEST);
        assert!(breaker.outage().is_none());
        breaker.failed(error(), begin + LONGEST * 2);
        let outage = breaker.outage().unwrap();
        let (since, failures) = (outage.since, outage.failures);
        assert_eq!((since, failures), (begin + LONGEST * 2, 1));
    }

    /// A breaker opened by hang-ups, and when the last of them was.
    fn hung_up_on() -> (Breaker, Instant) {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..TOLERATED {
            breaker.started(now);
            assert!(!breaker.hung_up(now, now) && breaker.error().is_none());
        }
        assert!(breaker.hung_up(now, now));
        (breaker, now)
    }

    #[test]
    fn a_connect_does_not_close_a_breaker_opened_by_hang_ups_but_a_byte_does() {
        let (mut breaker, now) = hung_up_on();
        let later = now + SPACING;
        breaker.started(later);
        breaker.connected(later);
        assert_eq!(breaker.retry_at(), Some(later + SPACING));
        breaker.heard(later);
        assert!(breaker.error().is_none());
        assert!(
            !breaker.hung_up(later, later),
            "the count begins again from 0"
        );
    }

    #[test]
    fn a_second_without_a_hang_up_closes_the_breaker_too() {
        let (mut breaker, now) = hung_up_on();
        let later = now + SPACING;
        breaker.connected(later);
        breaker.connected(later + LONGEST / 2);
        assert!(breaker.error().is_some());
        breaker.connected(later + LONGEST);
        assert!(breaker.error().is_none());
        assert!(breaker.hung_up(later, later), "nothing was heard yet");
    }

    #[test]
    fn what_is_old_news_neither_opens_nor_closes() {
        let (mut breaker, now) = hung_up_on();
        let (later, retry_at) = (now + SPACING, breaker.retry_at());
        breaker.failed(error(), later);
        breaker.connected(later);
        assert!(!breaker.hung_up(now, later), "older than the last failure");
        assert!(!breaker.hung_up(later, later + LONGEST), "it lived");
        let (mut breaker, now) = hung_up_on();
        let before = now.checked_sub(SPACING).unwrap();
        breaker.heard(before);
        assert!(breaker.error().is_some());
        breaker.reset(later);
        assert_eq!(breaker.retired.len(), 1);
        assert!(!breaker.hung_up(now, later), "of another factory");
        assert!(retry_at.is_some());
    }
}
