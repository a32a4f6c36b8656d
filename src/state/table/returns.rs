//! How a connection comes to the table, from a connect or from a lease, and leaves it.

use std::sync::Arc;

use super::Table;
use crate::report::error::Error;
use crate::report::outcome::Eviction;
use crate::report::outcome::PeerSignal;
use crate::state::queue::Failure;
use crate::state::slots::{Pinged, Place};

impl<L, H: Clone, W: Clone> Table<L, H, W> {
    /// A lease that is about to end tells of the other side; true if that shuts the gate.
    pub(crate) fn take_word(&mut self, place: Place, word: PeerSignal) -> bool {
        // What was cut, was cut by us.
        let Some(born) = self.slots.get(place).map(|open| open.born) else {
            return false;
        };
        match word {
            PeerSignal::Silence => false,
            PeerSignal::Heard => {
                self.effects.spent.extend(self.gate.heard(born));
                false
            }
            PeerSignal::HungUp => {
                let (shuts, old) = self.gate.hung_up(born, self.now);
                self.effects.spent.extend(old);
                self.topping_up &= !shuts;
                shuts
            }
        }
    }

    /// A lease came back fit, and there is nothing to decide but where it goes: among the idle ones.
    ///
    /// That is what happens nearly always, and it needs no look at the clock. Where there is more
    /// to it, the lease comes out again, for `take_word` and `give_back`.
    pub(crate) fn park(&mut self, place: Place, held: L, word: PeerSignal) -> Result<(), L> {
        let is_welcome = self.waiters.is_empty()
            && !self.topping_up
            && self.drainers == 0
            && !self.is_over_limit()
            && match word {
                PeerSignal::Silence => true,
                PeerSignal::Heard => self.gate.is_calm(),
                PeerSignal::HungUp => false,
            }
            && self
                .slots
                .get(place)
                .is_some_and(|open| open.doom.is_none() && !open.has_expired(self.now));
        if !is_welcome {
            return Err(held);
        }
        self.slots.park(place, held, self.now);
        Ok(())
    }

    /// A lease came back, fit to be used again unless the verdict says otherwise.
    pub(crate) fn give_back(&mut self, place: Place, held: L, verdict: Option<Eviction>) {
        let Some(open) = self.slots.get(place) else {
            return self.come_home_severed(held);
        };
        let why = open
            .doom
            .or(verdict)
            .or_else(|| self.is_over_limit().then_some(Eviction::OverLimit))
            .or_else(|| open.has_expired(self.now).then_some(Eviction::MaxLifetime));
        match why {
            Some(why) => self.close(place, why, Some(held)),
            None => self.slots.park(place, held, self.now),
        }
        self.settle();
    }

    /// A lease came back from a ping.
    pub(crate) fn give_back_pinged(
        &mut self,
        place: Place,
        held: L,
        pinged: &Pinged,
        verdict: Option<Eviction>,
    ) {
        let stays = verdict.is_none()
            && !self.is_over_limit()
            && self
                .slots
                .get(place)
                .is_some_and(|open| open.doom.is_none() && !open.has_expired(self.now));
        if stays {
            self.slots.park_after_ping(place, held, pinged, self.now);
            self.settle();
        } else {
            self.give_back(place, held, verdict);
        }
    }

    /// A leased connection leaves the pool for good: it was dead, or its holder keeps it.
    pub(crate) fn withdraw(&mut self, place: Place, held: Option<L>, why: Eviction) {
        self.remove(place, held, why);
        self.settle();
    }

    pub(super) fn remove(&mut self, place: Place, held: Option<L>, why: Eviction) {
        if self.slots.get(place).is_none() {
            self.severed -= 1;
            self.effects.leftover = held;
        } else {
            self.close(place, why, held);
        }
    }

    fn come_home_severed(&mut self, held: L) {
        self.severed -= 1;
        self.effects.leftover = Some(held);
        self.note_drained();
    }

    /// A connect succeeded.
    pub(crate) fn connected(&mut self, place: Place, held: L, handle: H) {
        self.counts.connects += 1;
        if !self.slots.is_outdated(place) {
            self.effects.spent.extend(self.gate.connected(self.now));
        }
        let owner = self.waiters.unassign(place.id);
        let expires = self.rules.max_lifetime.and_then(|lifetime| {
            let least = lifetime / 10 * 9;
            self.now.checked_add(self.random.between(least, lifetime))
        });
        self.slots.fill(place, handle, self.now, expires);
        if self.ended {
            self.close(place, Eviction::Ended, Some(held));
        } else if self.is_over_limit() {
            self.close(place, Eviction::OverLimit, Some(held));
        } else {
            self.slots.park(place, held, self.now);
            if let Some(first) = self.waiters.first() {
                // The others were not there when it was made, and it may have died meanwhile.
                self.grant(place.index, first, owner != Some(first));
            }
        }
        self.settle();
    }

    /// A connect failed.
    pub(crate) fn connect_failed(&mut self, place: Place, error: Arc<Error>) {
        self.counts.connect_failures += 1;
        let outdated = self.slots.is_outdated(place);
        self.slots.abandon(place);
        if !outdated {
            self.topping_up = false;
            let failure = Failure::Connect(Arc::clone(&error));
            if error.is_hopeless() {
                // Those who sleep hear of it too: what they wait for does not come.
                for seat in self.waiters.sleeping() {
                    self.fail(seat, failure.clone());
                }
            }
            if let Some(seat) = self.waiters.unassign(place.id) {
                self.fail(seat, failure);
            }
            self.effects.spent.extend(self.gate.failed(error, self.now));
        }
        self.settle();
    }

    /// A connect will not be made, because the pool has ended.
    pub(crate) fn connect_dropped(&mut self, place: Place) {
        self.waiters.unassign(place.id);
        self.slots.abandon(place);
        self.settle();
    }

    /// Whether this lease is to close when it comes back, or was cut.
    pub(crate) fn is_doomed(&self, place: Place) -> bool {
        self.slots.get(place).is_none_or(|open| open.doom.is_some())
    }
}
