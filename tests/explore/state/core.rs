//! What the tests see and pin of the core, and what makes two cores the same.

use std::time::Instant;

use super::{Caller, Core, Effects};
use crate::backoff::Random;
use crate::explore::Digest;
use crate::report::event::Event;
use crate::state::barging::{Convoy, HAND_OFFS};
use crate::state::breaker::Breaker;
use crate::state::queue::{Queue, Seat};
use crate::state::slots::SlotKey;

impl<W> Caller<W> {
    /// Its number in the queue, where it has one and does not wait.
    pub(crate) fn number(&self) -> Option<u64> {
        self.ticket.map(|ticket| ticket.number)
    }
}

impl Convoy {
    /// A convoy at this moment, or none.
    fn pinned(exists: bool, now: Instant) -> Self {
        Self {
            hand_offs: if exists { HAND_OFFS } else { 0 },
            last: exists.then_some(now),
        }
    }
}

/// For the copies of the core that the search makes; users cannot copy an event.
impl Clone for Event {
    fn clone(&self) -> Self {
        match *self {
            Self::Leased { id, waited, at } => Self::Leased { id, waited, at },
            Self::Returned { id, held } => Self::Returned { id, held },
            Self::Evicted { id, why, age } => Self::Evicted { id, why, age },
            Self::Overdue {
                id,
                held,
                ref thread,
                at,
            } => Self::Overdue {
                id,
                held,
                thread: thread.clone(),
                at,
            },
            ref other => unreachable!("the core does not tell of {other:?}"),
        }
    }
}

impl<L, H, W> Core<L, H, W> {
    pub(crate) fn effects(&mut self) -> &mut Effects<L, H, W> {
        &mut self.effects
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(crate) fn convoy(&mut self) -> &mut Convoy {
        &mut self.convoy
    }
}

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    pub(crate) fn queue(&self) -> &Queue<L, W> {
        &self.waiters
    }

    /// Leases whose holders wait for nothing on them any more, and their clients.
    pub(crate) fn abandoned(&self) -> &[(SlotKey, L)] {
        &self.abandoned
    }

    pub(crate) fn aborted(&self) -> usize {
        self.aborted
    }

    /// Until when the first waiter may be overtaken.
    pub(crate) fn barging_until(&self) -> Option<Instant> {
        let first = self.waiters.first();
        first.and_then(|first| self.waiters.seat(first).barging_until)
    }

    pub(crate) fn breaker_mut(&mut self) -> &mut Breaker {
        &mut self.breaker
    }

    /// Pins all that is drawn, and whether there is a convoy.
    pub(crate) fn pin(&mut self, greatest: bool, convoy: bool) {
        self.random = Random::pinned(greatest);
        self.breaker.pin(Random::pinned(greatest));
        self.convoy = Convoy::pinned(convoy, self.now);
    }

    /// What is to come depends on this, and on what the waiters' seats say, alone.
    pub(crate) fn digest(&self, digest: &mut Digest, waiters: &[Seat]) {
        let Self {
            now: _,
            effects: _,
            slots,
            waiters: queue,
            breaker,
            convoy: _,
            rules: _,
            limit,
            backoff: _,
            ended,
            refilling,
            alarm,
            dispatched,
            aborted,
            drainers,
            has_reaper,
            pinging,
            abandoned,
            reporting: _,
            unreported: _,
            ready_waiters,
            ready_waiters_so_far: _,
            counts: _,
            random: _,
        } = self;
        slots.digest(digest);
        breaker.digest(digest, slots.connecting() > 0);
        for index in 0..slots.len() {
            if let Some((_, open)) = slots.open_in(index) {
                breaker.digest_birth(digest, open.born);
            }
        }
        for number in [
            *limit,
            *aborted,
            *drainers,
            abandoned.len(),
            ready_waiters.len(),
        ] {
            digest.put(number as u64);
        }
        for flag in [ended, refilling, has_reaper, pinging] {
            digest.put(u64::from(*flag));
        }
        for (key, _) in abandoned {
            digest.id(key.id);
        }
        for &seat in waiters {
            queue.digest(digest, seat);
            let keeps = alarm.filter(|&(first, _)| first == seat);
            digest.due(keeps.map(|(_, at)| at));
            digest.put(u64::from(
                keeps.is_some_and(|(_, at)| Some(at) == breaker.retry_at()),
            ));
            let waiter = queue.seat(seat);
            if let Some(until) = waiter.barging_until {
                let at = until + until.saturating_duration_since(waiter.ticket.since);
                digest.put(u64::from(at > *dispatched));
                digest.due(Some(at));
            }
        }
    }
}
