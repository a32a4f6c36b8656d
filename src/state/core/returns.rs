//! How a connection comes to the core, from a connect or from a lease, and leaves it.

use std::sync::Arc;

use super::{Core, Failure};
use crate::report::error::Error;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::state::slots::{Lease, Open, SlotKey};

/// A connection that was found dead on its way to a caller.
#[derive(Debug)]
pub(crate) struct Dead<L> {
    pub(crate) lease: Lease<L>,
    pub(crate) why: Eviction,
    /// Whether the other side ended it without having sent a byte.
    pub(crate) silent: bool,
}

/// When a connection that a caller found dead is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseWhen {
    /// At once, by the caller that found it.
    Now,
    /// When its place is wanted, by whoever wants it, or else by the reaper's next sweep.
    ///
    /// After a restart of the server all idle connections are dead, and the first caller finds them
    /// one after the other. To close a socket takes far longer than to find it dead, so this caller
    /// is spared that. Without a reaper, or where it is not woken, it closes them all the same.
    Later,
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
        match self.rules.max_uses {
            Some(most) if open.leases - open.pings >= most => Some(Eviction::MaxUses),
            _ => None,
        }
    }

    /// A fit lease is over, and becomes idle where there is nothing else to decide.
    ///
    /// That is what happens nearly always, and it does not read the clock. Where there is something
    /// to decide, the client comes out again, for [`give_back`](Self::give_back).
    #[inline]
    pub(crate) fn make_idle(
        &mut self,
        key: SlotKey,
        client: L,
        signal: PeerSignal,
    ) -> Result<(), L> {
        let is_no_news = match signal {
            PeerSignal::Silence => true,
            PeerSignal::Heard => self.breaker.is_untroubled(),
            PeerSignal::HungUp => false,
        };
        let stays = is_no_news
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
        self.note_signal(key, signal);
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
        self.note_signal(key, signal);
        if self.slots.get(key).is_none() {
            self.end_aborted(Some(client));
        } else {
            self.close(key, Eviction::Discarded, Some(client));
        }
        self.dispatch();
    }

    /// The holder of a lease keeps the client for good; the place is free at once.
    pub(crate) fn detach(&mut self, key: SlotKey, signal: PeerSignal) {
        self.note_signal(key, signal);
        if self.slots.get(key).is_none() {
            self.end_aborted(None);
        } else {
            let mut closed = self.depart(key, Eviction::Detached, None);
            closed.occupies = false;
            self.effects.close.push(closed);
            self.slots.vacate(key);
        }
        self.dispatch();
    }

    /// A caller that is not in the queue found its connection dead.
    pub(crate) fn found_dead(&mut self, dead: Dead<L>, close_when: CloseWhen) {
        self.remove_dead(dead, close_when);
        self.dispatch();
    }

    pub(super) fn remove_dead(&mut self, dead: Dead<L>, close_when: CloseWhen) {
        let Dead { lease, why, silent } = dead;
        let key = lease.key;
        let is_first_lease = self.slots.get(key).is_some_and(|open| open.leases == 1);
        self.note_death(key, silent && is_first_lease);
        // Where one is dead others are, so the reaper comes; but unread bytes say nothing of others.
        let wakes_reaper = why != Eviction::Unread;
        self.effects.wake_reaper |= wakes_reaper;
        if self.slots.get(key).is_none() {
            return self.end_aborted(Some(lease.client));
        }
        let closed = self.depart(key, why, Some(lease.client));
        if close_when == CloseWhen::Later && wakes_reaper && self.has_reaper {
            self.slots.leave(closed);
        } else {
            self.effects.close.push(closed);
        }
    }

    /// A connection died while no caller had it.
    ///
    /// Where no caller ever had it and the other side never sent a byte, this counts as hanging up,
    /// which the breaker limits: else a pool that keeps `min_idle` would connect again and again to
    /// a server that closes each connection at once.
    pub(super) fn note_death(&mut self, key: SlotKey, was_unused: bool) {
        if was_unused {
            self.note_signal(key, PeerSignal::HungUp);
        }
    }

    /// The holder of a lease needs it no longer and leaves it here. It may take it back, unless the
    /// connection was closed meanwhile because somebody wanted its place.
    pub(crate) fn abandon(&mut self, key: SlotKey, client: L) {
        let open = self.slots.get(key);
        match open.map(|open| self.reason_to_close(open, None)) {
            None => self.end_aborted(Some(client)),
            Some(Some(why)) => self.close(key, why, Some(client)),
            Some(None) => self.abandoned.push((key, client)),
        }
        self.dispatch();
    }

    /// The holder of an abandoned lease takes it back; `None` if it has been closed.
    pub(crate) fn take_abandoned(&mut self, key: SlotKey) -> Option<L> {
        let place = self.abandoned.iter().position(|(other, _)| *other == key)?;
        Some(self.abandoned.swap_remove(place).1)
    }

    /// Closes one abandoned lease; false if there is none.
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

    /// The breaker hears what a lease that is about to end has shown of the other side. An aborted
    /// lease shows nothing: the pool itself ended the connection.
    fn note_signal(&mut self, key: SlotKey, signal: PeerSignal) {
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
        if let Some(connect) = self.slots.connect(key) {
            let took = self.now.saturating_duration_since(connect.since);
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
            if let Some(first) = self.waiters.first() {
                // The others were not there when it was made, and it may have died meanwhile.
                self.grant(key.index, first, owner != Some(first));
            }
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

    /// Whether the connection of this lease was idle or in another lease before, as opposed to made
    /// for it. If the lease was aborted, that is not known any more, and counts as yes.
    pub(crate) fn is_reused(&self, key: SlotKey) -> bool {
        let is_new = |open: &Open<L, H>| open.leases == 1 && open.since == open.born;
        self.slots.get(key).is_none_or(|open| !is_new(open))
    }
}
