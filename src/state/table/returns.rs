//! How a connection comes to the table, from a connect or from a lease, and leaves it.

use std::sync::Arc;
use std::time::Instant;

use super::{Effects, Table};
use crate::report::error::Error;
use crate::report::event::Eviction;
use crate::state::breaker::Word;
use crate::state::queue::Failure;
use crate::state::slots::{Pinged, Place};

impl<L, H: Clone, W: Clone> Table<L, H, W> {
    /// A lease that is about to end tells of the other side; true if that shuts the gate.
    pub(crate) fn take_word(
        &mut self,
        place: Place,
        word: Word,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) -> bool {
        // What was cut, was cut by us.
        let Some(born) = self.slots.get(place).map(|open| open.born) else {
            return false;
        };
        match word {
            Word::Silence => false,
            Word::Heard => {
                fx.spent.extend(self.gate.heard(born));
                false
            }
            Word::HungUp => {
                let (shuts, old) = self.gate.hung_up(born, now);
                fx.spent.extend(old);
                self.topping_up &= !shuts;
                shuts
            }
        }
    }

    /// A lease came back fit, and there is nothing to decide but where it goes: among the idle ones.
    ///
    /// That is what happens nearly always, and it needs no look at the clock. Where there is more
    /// to it, the lease comes out again, for `take_word` and `give_back`.
    pub(crate) fn park(
        &mut self,
        place: Place,
        held: L,
        word: Word,
        now: Option<Instant>,
    ) -> Result<(), L> {
        let now = now.unwrap_or(self.clock);
        let is_welcome = self.waiters.is_empty()
            && !self.topping_up
            && self.drainers == 0
            && !self.is_over_limit()
            && match word {
                Word::Silence => true,
                Word::Heard => self.gate.is_calm(),
                Word::HungUp => false,
            }
            && self
                .slots
                .get(place)
                .is_some_and(|open| open.doom.is_none() && !open.has_expired(now));
        if !is_welcome {
            return Err(held);
        }
        self.look(now);
        self.slots.park(place, held, now);
        Ok(())
    }

    /// A lease came back, fit to be used again unless the verdict says otherwise.
    pub(crate) fn give_back(
        &mut self,
        place: Place,
        held: L,
        verdict: Option<Eviction>,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        self.look(now);
        let Some(open) = self.slots.get(place) else {
            return self.come_home_severed(held, fx);
        };
        let why = open
            .doom
            .or(verdict)
            .or_else(|| self.is_over_limit().then_some(Eviction::OverLimit))
            .or_else(|| open.has_expired(now).then_some(Eviction::MaxLifetime));
        match why {
            Some(why) => self.close(place, why, now, Some(held), fx),
            None => self.slots.park(place, held, now),
        }
        self.settle(now, fx);
    }

    /// A lease came back from a ping.
    pub(crate) fn give_back_pinged(
        &mut self,
        place: Place,
        held: L,
        pinged: &Pinged,
        verdict: Option<Eviction>,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        let stays = verdict.is_none()
            && !self.is_over_limit()
            && self
                .slots
                .get(place)
                .is_some_and(|open| open.doom.is_none() && !open.has_expired(now));
        if stays {
            self.look(now);
            self.slots.park_after_ping(place, held, pinged, now);
            self.settle(now, fx);
        } else {
            self.give_back(place, held, verdict, now, fx);
        }
    }

    /// A leased connection leaves the pool for good: it was dead, or its holder keeps it.
    pub(crate) fn withdraw(
        &mut self,
        place: Place,
        held: Option<L>,
        why: Eviction,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        self.look(now);
        self.remove(place, held, why, now, fx);
        self.settle(now, fx);
    }

    pub(super) fn remove(
        &mut self,
        place: Place,
        held: Option<L>,
        why: Eviction,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        if self.slots.get(place).is_none() {
            self.severed -= 1;
            fx.leftover = held;
        } else {
            self.close(place, why, now, held, fx);
        }
    }

    fn come_home_severed(&mut self, held: L, fx: &mut Effects<L, H, W>) {
        self.severed -= 1;
        fx.leftover = Some(held);
        self.note_drained(fx);
    }

    /// A connect succeeded.
    pub(crate) fn connected(
        &mut self,
        place: Place,
        held: L,
        handle: H,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        self.look(now);
        self.counts.connects += 1;
        if !self.slots.is_outdated(place) {
            fx.spent.extend(self.gate.connected(now));
        }
        let owner = self.waiters.unassign(place.id);
        let expires = self.rules.max_lifetime.and_then(|lifetime| {
            let least = lifetime / 10 * 9;
            now.checked_add(self.random.between(least, lifetime))
        });
        self.slots.fill(place, handle, now, expires);
        if self.ended {
            self.close(place, Eviction::Ended, now, Some(held), fx);
        } else if self.is_over_limit() {
            self.close(place, Eviction::OverLimit, now, Some(held), fx);
        } else {
            self.slots.park(place, held, now);
            if let Some(first) = self.waiters.first() {
                // The others were not there when it was made, and it may have died meanwhile.
                self.grant(place.index, first, owner != Some(first), now, fx);
            }
        }
        self.settle(now, fx);
    }

    /// A connect failed.
    pub(crate) fn connect_failed(
        &mut self,
        place: Place,
        error: Arc<Error>,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        self.look(now);
        self.counts.connect_failures += 1;
        let outdated = self.slots.is_outdated(place);
        self.slots.abandon(place);
        if !outdated {
            self.topping_up = false;
            let failure = Failure::Connect(Arc::clone(&error));
            if error.is_hopeless() {
                // Those who sleep hear of it too: what they wait for does not come.
                for seat in self.waiters.sleeping() {
                    self.fail(seat, failure.clone(), now, fx);
                }
            }
            if let Some(seat) = self.waiters.unassign(place.id) {
                self.fail(seat, failure, now, fx);
            }
            fx.spent.extend(self.gate.failed(error, now));
        }
        self.settle(now, fx);
    }

    /// A connect will not be made, because the pool has ended.
    pub(crate) fn connect_dropped(
        &mut self,
        place: Place,
        now: Instant,
        fx: &mut Effects<L, H, W>,
    ) {
        self.waiters.unassign(place.id);
        self.slots.abandon(place);
        self.settle(now, fx);
    }

    /// Whether this lease is to close when it comes back, or was cut.
    pub(crate) fn is_doomed(&self, place: Place) -> bool {
        self.slots.get(place).is_none_or(|open| open.doom.is_some())
    }
}
