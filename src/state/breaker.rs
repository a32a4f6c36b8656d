//! The outage gate: how often the pool connects while the other side is away. Pure.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Random;
use crate::report::error::Error;

/// The least time between the starts of two connects during an outage: ten in a second.
const SPACING: Duration = Duration::from_millis(100);
/// The most time between a connect's start and the next one that the pool makes by itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many connections in a row the other side may hang up on without a word before that is taken
/// for an outage.
const TOLERATED: u32 = 10;

/// Shut while the last connect failed, or while the other side hangs up on whoever connects.
///
/// While it is shut there is at most one connect under way, no two start within [`SPACING`], and
/// the pool's own attempts come after pauses that grow from `SPACING` to [`PATIENCE`], with jitter,
/// so that the clients of a server that died do not all come back to it at one instant.
///
/// A server that accepts and hangs up lets every connect succeed. After [`TOLERATED`] connections
/// in a row that ended so within `PATIENCE`, each further one is a failed connect, and it takes
/// more than a connect to open the gate: a word from the other side, or `PATIENCE` without another
/// such end.
#[derive(Debug)]
pub(crate) struct Gate {
    last_start: Option<Instant>,
    outage: Option<Outage>,
    /// Connections in a row on which the other side hung up without a word, up to `TOLERATED`.
    hang_ups: u32,
    /// Since when a connection must have been made to tell anything new.
    news_since: Option<Instant>,
    random: Random,
}

#[derive(Debug)]
struct Outage {
    error: Arc<Error>,
    pause: Duration,
    retry_at: Instant,
    /// Whether connects succeed and come to nothing.
    hangs_up: bool,
    /// The first success since the last failure.
    quiet_since: Option<Instant>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            last_start: None,
            outage: None,
            hang_ups: 0,
            news_since: None,
            random: Random::new(),
        }
    }

    /// The error of the last connect, while the gate is shut.
    pub(crate) fn shut(&self) -> Option<&Arc<Error>> {
        self.outage.as_ref().map(|outage| &outage.error)
    }

    /// When the pool should try again by itself, while the gate is shut.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.outage.as_ref().map(|outage| outage.retry_at)
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

    /// A connect failed: shuts the gate; the error that it was shut with before comes out.
    pub(crate) fn failed(&mut self, error: Arc<Error>, now: Instant) -> Option<Arc<Error>> {
        self.shut_with(error, false, now)
    }

    /// A connect succeeded: opens the gate, unless the other side has been hanging up.
    pub(crate) fn connected(&mut self, now: Instant) -> Option<Arc<Error>> {
        let hanging_up = self.outage.as_mut().filter(|outage| outage.hangs_up);
        if let Some(outage) = hanging_up {
            let since = *outage.quiet_since.get_or_insert(now);
            if now.saturating_duration_since(since) < PATIENCE {
                outage.retry_at = self.last_start.unwrap_or(now) + SPACING;
                return None;
            }
        }
        self.open()
    }

    /// The other side was heard on a connection of this birth; may open the gate.
    pub(crate) fn heard(&mut self, born: Instant) -> Option<Arc<Error>> {
        self.hang_ups = 0;
        let hanging_up = self.outage.as_ref().is_some_and(|outage| outage.hangs_up);
        if hanging_up && self.is_news(born) {
            return self.open();
        }
        None
    }

    /// Whether a word from the other side would be nothing new.
    pub(crate) fn is_calm(&self) -> bool {
        self.hang_ups == 0 && self.outage.is_none()
    }

    /// The other side hung up without a word on a connection of this birth; whether that is a
    /// failed connect, and then the error that the gate was shut with before.
    pub(crate) fn hung_up(&mut self, born: Instant, now: Instant) -> (bool, Option<Arc<Error>>) {
        let lived = now.saturating_duration_since(born);
        if lived >= PATIENCE || !self.is_news(born) {
            return (false, None);
        }
        if self.hang_ups < TOLERATED {
            self.hang_ups += 1;
            return (false, None);
        }
        let text = format!(
            "the other side hung up on more than {TOLERATED} connections in a row \
             without sending a byte"
        );
        let error = io::Error::new(io::ErrorKind::ConnectionAborted, text);
        let old = self.shut_with(Arc::new(Error::Connect(error)), true, now);
        (true, old)
    }

    /// Connections come from elsewhere now: opens the gate; the error comes out.
    pub(crate) fn lift(&mut self, now: Instant) -> Option<Arc<Error>> {
        self.hang_ups = 0;
        self.news_since = Some(now);
        self.open()
    }

    #[cfg(test)]
    pub(crate) fn hang_ups(&self) -> u32 {
        self.hang_ups
    }

    fn is_news(&self, born: Instant) -> bool {
        self.news_since.is_none_or(|since| born >= since)
    }

    fn open(&mut self) -> Option<Arc<Error>> {
        self.outage.take().map(|outage| outage.error)
    }

    fn shut_with(&mut self, error: Arc<Error>, hangs_up: bool, now: Instant) -> Option<Arc<Error>> {
        let pause = self
            .outage
            .as_ref()
            .map_or(SPACING, |outage| (outage.pause * 2).min(PATIENCE));
        let drawn = self.random.between((pause / 2).max(SPACING), pause);
        let retry_at = self.last_start.unwrap_or(now) + drawn;
        let outage = Outage {
            error,
            pause,
            retry_at,
            hangs_up,
            quiet_since: None,
        };
        self.news_since = Some(now);
        self.outage.replace(outage).map(|outage| outage.error)
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
        let mut gate = Gate::new();
        for round in 0..50 {
            gate.started(now);
            gate.failed(error(), now);
            let pause = gate.retry_at().unwrap() - now;
            assert!(pause >= SPACING && pause <= PATIENCE, "{pause:?}");
            assert!(round < 4 || pause >= PATIENCE / 2, "{pause:?}");
            now += pause;
        }
    }

    #[test]
    fn callers_start_ten_in_a_second_at_most() {
        let begin = Instant::now();
        let mut gate = Gate::new();
        gate.started(begin);
        gate.failed(error(), begin);
        let starts = (1..1000)
            .filter(|&ms| {
                let now = begin + Duration::from_millis(ms);
                let may = gate.may_start(now);
                if may {
                    gate.started(now);
                    gate.failed(error(), now);
                }
                may
            })
            .count();
        assert_eq!(starts, 9);
        gate.connected(begin + PATIENCE);
        assert!(gate.may_start(begin) && gate.shut().is_none());
    }

    /// A gate shut by hang-ups, and when the last of them was.
    fn hung_up_on() -> (Gate, Instant) {
        let (mut gate, now) = (Gate::new(), Instant::now());
        for _ in 0..TOLERATED {
            gate.started(now);
            assert!(!gate.hung_up(now, now).0 && gate.shut().is_none());
        }
        assert!(gate.hung_up(now, now).0);
        (gate, now)
    }

    #[test]
    fn a_connect_does_not_open_a_gate_shut_by_hang_ups_but_a_word_does() {
        let (mut gate, now) = hung_up_on();
        let later = now + SPACING;
        gate.started(later);
        gate.connected(later);
        assert_eq!(gate.retry_at(), Some(later + SPACING));
        assert!(gate.heard(later).is_some() && gate.shut().is_none());
        assert!(!gate.hung_up(later, later).0, "the count begins anew");
    }

    #[test]
    fn a_second_without_a_hang_up_opens_the_gate_too() {
        let (mut gate, now) = hung_up_on();
        let later = now + SPACING;
        gate.connected(later);
        gate.connected(later + PATIENCE / 2);
        assert!(gate.shut().is_some());
        gate.connected(later + PATIENCE);
        assert!(gate.shut().is_none());
        assert!(gate.hung_up(later, later).0, "nothing was heard yet");
    }

    #[test]
    fn what_is_old_news_neither_shuts_nor_opens() {
        let (mut gate, now) = hung_up_on();
        let (later, retry_at) = (now + SPACING, gate.retry_at());
        gate.failed(error(), later);
        gate.connected(later);
        assert!(!gate.hung_up(now, later).0, "older than the last failure");
        assert!(!gate.hung_up(later, later + PATIENCE).0, "it lived");
        let (mut gate, now) = hung_up_on();
        let before = now.checked_sub(SPACING).unwrap();
        assert!(gate.heard(before).is_none() && gate.shut().is_some());
        assert!(gate.lift(later).is_some());
        assert!(!gate.hung_up(now, later).0, "of another factory");
        assert!(retry_at.is_some());
    }
}
