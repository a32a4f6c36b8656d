//! How a connection comes to the core, from a connect or from a lease, and leaves it.

use std::sync::Arc;

use super::{Core, Failure};
use crate::report::error::Error;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::state::slots::{Ending, Lease, Open, SlotKey};

/// A connection that was found dead on its way to a caller.
#[derive(Debug)]
pub(crate) struct Dead<L> {
    pub(crate) lease: Lease<L>,
    pub(crate) why: Eviction,
    /// Whether the other side ended it without having sent a byte.
    pub(crate) silent: bool,
}

/// Who closes a connection that was found dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhoCloses {
    /// Who found it.
    Finder,
    /// Whoever wants its place, else the reaper if there is one, and if it is called for this.
    ///
    /// To close a socket takes far longer than to find it dead, and after a restart of the server
    /// the caller that comes first finds one after the other.
    Others,
}

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    /// Why this connection may not stay in the pool, if it may not, whoever brings it.
    pub(super) fn reason_to_close(
        &self,
        open: &Open<L, H>,
        verdict: Option<Eviction>,
    ) -> Option<Eviction> {
        // In steps and not as a chain: all of them are passed each time that a lease comes back.
        if let Some(why) = open.doom().or(verdict) {
            return Some(why);
        }
        if self.ended {
            return Some(Eviction::Ended);
        }
        if self.is_over_limit() {
            return Some(Eviction::OverLimit);
        }
        if open.has_expired(self.now) {
            return Some(Eviction::MaxLifetime);
        }
        self.is_used_up(open).then_some(Eviction::MaxUses)
    }

    fn is_used_up(&self, open: &Open<L, H>) -> bool {
        match self.rules.max_uses {
            None => false,
            Some(most) => open.uses() >= most,
        }
    }

    /// A fit lease is over, and becomes idle where there is nothing else to decide.
    ///
    /// That is what happens nearly always, and it does not read the clock. Where there is more
    /// to it, the client comes out again, for [`give_back`](Self::give_back).
    #[inline]
    pub(crate) fn make_idle(
        &mut self,
        key: SlotKey,
        client: L,
        signal: PeerSignal,
    ) -> Result<(), L> {
        let says_nothing_new = match signal {
            PeerSignal::Silence => true,
            PeerSignal::Heard => self.breaker.is_untroubled(),
            PeerSignal::HungUp => false,
        };
        let stays = says_nothing_new
            && self.wants_nothing()
            && self
                .slots
                .get(key)
                .is_some_and(|open| self.reason_to_close(open, None).is_none());
        if !stays {
            return Err(client);
        }
        self.slots.make_idle(key, client, self.now);
        Ok(())
    }

    /// A lease is over, of a caller or of a ping; it goes back unless there is a reason to close it.
    pub(crate) fn give_back(
        &mut self,
        key: SlotKey,
        client: L,
        verdict: Option<Eviction>,
        signal: PeerSignal,
    ) {
        self.hear(key, signal);
        let open = self.slots.get(key);
        match open.map(|open| self.reason_to_close(open, verdict)) {
            None => self.end_aborted(Some(client)),
            Some(Some(why)) => self.close(key, why, Some(client)),
            Some(None) => self.slots.make_idle(key, client, self.now),
        }
        self.dispatch();
    }

    /// The holder of a lease closes it.
    pub(crate) fn discard(&mut self, key: SlotKey, client: L, signal: PeerSignal) {
        self.hear(key, signal);
        if self.slots.get(key).is_none() {
            self.end_aborted(Some(client));
        } else {
            self.close(key, Eviction::Discarded, Some(client));
        }
        self.dispatch();
    }

    /// The holder of a lease keeps the client for good; the place is free at once.
    pub(crate) fn detach(&mut self, key: SlotKey, signal: PeerSignal) {
        self.hear(key, signal);
        if self.slots.get(key).is_none() {
            self.end_aborted(None);
        } else {
            let mut closed = self.depart(key, Eviction::Detached, None, Ending::Detach);
            closed.occupies = false;
            self.effects.close.push(closed);
            self.slots.vacate(key);
        }
        self.dispatch();
    }

    /// A connection was found dead by a caller that is not in the queue.
    pub(crate) fn found_dead(&mut self, dead: Dead<L>, who_closes: WhoCloses) {
        self.remove_dead(dead, who_closes);
        self.dispatch();
    }

    pub(super) fn remove_dead(&mut self, dead: Dead<L>, who_closes: WhoCloses) {
        let Dead { lease, why, silent } = dead;
        let key = lease.key;
        let is_first = |open: &Open<L, H>| open.leases == 1;
        let was_of_no_use = silent && self.slots.get(key).is_some_and(is_first);
        self.died(key, was_of_no_use);
        // Unread bytes say nothing of the other connections.
        let calls_reaper = why != Eviction::Unread;
        self.effects.wake_reaper |= calls_reaper;
        if self.slots.get(key).is_none() {
            return self.end_aborted(Some(lease.client));
        }
        let closed = self.depart(key, why, Some(lease.client), Ending::Close);
        if who_closes == WhoCloses::Others && calls_reaper && self.has_reaper {
            self.slots.leave(closed);
        } else {
            self.effects.close.push(closed);
        }
    }

    /// A connection died idle. If nobody ever had it and the other side never sent a byte, then the
    /// other side hung up on it: else a pool that keeps `min_idle` would connect again and again.
    pub(super) fn died(&mut self, key: SlotKey, was_of_no_use: bool) {
        if was_of_no_use {
            self.hear(key, PeerSignal::HungUp);
        }
    }

    /// The holder of a lease waits for nothing on it any more. It may come back for it, unless
    /// somebody has wanted the place meanwhile.
    pub(crate) fn abandon(&mut self, key: SlotKey, client: L) {
        let open = self.slots.get(key);
        match open.map(|open| self.reason_to_close(open, None)) {
            None => self.end_aborted(Some(client)),
            Some(Some(why)) => self.close(key, why, Some(client)),
            Some(None) => self.abandoned.push((key, client)),
        }
        self.dispatch();
    }

    /// The holder of an abandoned lease comes back for it; none if it has been closed.
    pub(crate) fn take_abandoned(&mut self, key: SlotKey) -> Option<L> {
        let place = self.abandoned.iter().position(|(other, _)| *other == key)?;
        Some(self.abandoned.swap_remove(place).1)
    }

    pub(super) fn is_abandoned(&self, key: SlotKey) -> bool {
        self.abandoned.iter().any(|(other, _)| *other == key)
    }

    /// Closes one that its holder has abandoned; false if there is none.
    pub(super) fn close_abandoned(&mut self, why: Eviction) -> bool {
        let Some((key, client)) = self.abandoned.pop() else {
            return false;
        };
        self.close(key, why, Some(client));
        true
    }

    fn end_aborted(&mut self, client: Option<L>) {
        self.aborted -= 1;
        self.effects.aborted = client;
    }

    /// A lease that is about to end tells of the other side. Of an aborted one it tells nothing: it
    /// was ended by us.
    fn hear(&mut self, key: SlotKey, signal: PeerSignal) {
        let Some(born) = self.slots.get(key).map(|open| open.born) else {
            return;
        };
        match signal {
            PeerSignal::Silence => {}
            PeerSignal::Heard => self.breaker.heard(born),
            PeerSignal::HungUp => {
                if self.breaker.hung_up(born, self.now) {
                    self.refilling = false;
                    self.effects.warn_of_hang_ups = true;
                }
            }
        }
    }

    /// The socket of a connect is there; false if the connect was given up.
    pub(crate) fn opened(&mut self, key: SlotKey, handle: H) -> bool {
        self.slots.set_connect_handle(key, handle)
    }

    /// A connect succeeded.
    ///
    /// One of a factory that has been replaced, or that was given up, comes too late.
    pub(crate) fn connected(&mut self, key: SlotKey, client: L, handle: H) {
        self.counts.connects += 1;
        if let Some(began) = self.slots.connect_began(key) {
            let took = self.now.saturating_duration_since(began);
            self.counts.connect_times.record(took);
        }
        let is_late = self.slots.is_outdated(key);
        if !is_late {
            self.breaker.connected(self.now);
        }
        let owner = self.waiters.unassign(key.id);
        self.slots.fill(key, handle, self.now);
        let open = self.slots.get(key);
        let late = is_late.then_some(Eviction::Freed);
        if let Some(why) = open.and_then(|open| self.reason_to_close(open, late)) {
            self.close(key, why, Some(client));
        } else {
            let lifetime = self.rules.max_lifetime;
            let lifetime = lifetime.map(|most| self.random.between(most / 10 * 9, most));
            if let Some(open) = self.slots.get_mut(key) {
                open.expires = lifetime.and_then(|lifetime| self.now.checked_add(lifetime));
            }
            self.slots.make_idle(key, client, self.now);
            self.serve_first(key.index, owner);
        }
        self.wake_ready_waiters();
        self.dispatch();
    }

    /// A connect failed.
    pub(crate) fn connect_failed(&mut self, key: SlotKey, error: Arc<Error>) {
        self.counts.connect_failures += 1;
        let outdated = self.slots.is_outdated(key);
        self.effects.released.extend(self.slots.abandon(key));
        if !outdated {
            self.refilling = false;
            let failure = Failure::Connect(Arc::clone(&error));
            if error.is_permanent() && self.slots.open() == 0 {
                // Those who sleep hear of it too: what they wait for does not come. Their waits end
                // with this, so each of them is told once.
                for seat in self.waiters.sleeping() {
                    self.fail(seat, failure.clone());
                }
            }
            if let Some(seat) = self.waiters.unassign(key.id) {
                self.fail(seat, failure);
            }
            self.breaker.failed(error, self.now);
        }
        self.wake_ready_waiters();
        self.dispatch();
    }

    /// A connect will not be made, because the pool has ended.
    pub(crate) fn connect_dropped(&mut self, key: SlotKey) {
        self.waiters.unassign(key.id);
        self.effects.released.extend(self.slots.abandon(key));
        self.dispatch();
    }

    /// Whether this lease is to close when it comes back, or was aborted.
    pub(crate) fn is_doomed(&self, key: SlotKey) -> bool {
        self.slots.get(key).is_none_or(|open| open.doom().is_some())
    }

    /// Whether the connection of this lease had been made before it; so, too, if it was aborted.
    pub(crate) fn is_reused(&self, key: SlotKey) -> bool {
        let is_first = |open: &Open<L, H>| open.leases == 1 && open.since == open.born;
        self.slots.get(key).is_none_or(|open| !is_first(open))
    }
}
