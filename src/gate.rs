//! The outage gate: how often the pool connects while the other side is away. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Random;
use crate::error::Error;

/// The least time between the starts of two connects during an outage: ten in a second.
const SPACING: Duration = Duration::from_millis(100);
/// The most time between a connect's start and the next one that the pool makes by itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shut while the last connect failed.
///
/// While it is shut there is at most one connect under way, no two start within [`SPACING`], and
/// the pool's own attempts come after pauses that grow from `SPACING` to [`PATIENCE`], with jitter,
/// so that the clients of a server that died do not all come back to it at one instant.
#[derive(Debug)]
pub(crate) struct Gate {
    last_start: Option<Instant>,
    outage: Option<Outage>,
    random: Random,
}

#[derive(Debug)]
struct Outage {
    error: Arc<Error>,
    pause: Duration,
    retry_at: Instant,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            last_start: None,
            outage: None,
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

    /// A connect failed; the error before, to be dropped by the caller.
    pub(crate) fn failed(&mut self, error: Arc<Error>, now: Instant) -> Option<Arc<Error>> {
        let pause = self
            .outage
            .as_ref()
            .map_or(SPACING, |outage| (outage.pause * 2).min(PATIENCE));
        let drawn = self.random.between((pause / 2).max(SPACING), pause);
        let retry_at = self.last_start.unwrap_or(now) + drawn;
        let before = self.outage.replace(Outage {
            error,
            pause,
            retry_at,
        });
        before.map(|outage| outage.error)
    }

    /// The outage is over; its last error, to be dropped by the caller.
    pub(crate) fn lift(&mut self) -> Option<Arc<Error>> {
        self.outage.take().map(|outage| outage.error)
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
        gate.lift();
        assert!(gate.may_start(begin) && gate.shut().is_none());
    }
}
