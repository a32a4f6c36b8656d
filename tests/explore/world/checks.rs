//! What holds in every state.

use super::*;

impl World {
    /// All is quiet: nobody waits, and whoever drains has been told.
    pub(super) fn check_quiet(&self) {
        assert!(self.core.is_drained(), "something is outstanding for ever");
        assert!(!self.drains, "somebody drains for ever");
        assert_eq!(self.core.aborted(), 0);
    }

    /// Who waited longer is served before.
    pub(super) fn check_order(&self, before: &Before, came: Option<u64>) {
        let first = self.waiting().map(|guest| guest.number).min();
        let queue = self.core.queue();
        let is_granted = |guest: &&Guest| {
            let seat = guest.seat();
            seat.is_some_and(|seat| matches!(queue.pending(seat), Some(Answer::Granted(_))))
        };
        let granted = self
            .guests
            .iter()
            .filter(is_granted)
            .map(|guest| guest.number);
        let last = granted
            .chain(came)
            .filter(|number| before.waiting.contains(number))
            .max();
        if let (Some(first), Some(last)) = (first, last) {
            assert!(last < first, "a later one was served before an earlier one");
        }
    }

    pub(super) fn check(&self, config: &Config) {
        let core = &self.core;
        let (slots, stats) = (core.slots(), core.stats(0));
        let counted = [
            slots.idle(),
            slots.leased(),
            slots.connecting(),
            slots.occupied() - slots.in_use(),
        ];
        assert_eq!(
            slots.counted(),
            counted,
            "idle, leased, connecting, closing"
        );
        assert_eq!(counted.iter().sum::<usize>(), slots.occupied());
        assert_eq!(slots.connecting(), self.connects.len(), "connects");
        assert_eq!(counted[3], self.closing.len() + slots.left(), "closing");
        assert_eq!(stats.connects, stats.releases + stats.open as u64);
        assert!(
            slots.idle() == 0 || slots.in_use() <= core.limit(),
            "idle above the limit"
        );
        self.check_clients(config);
        self.check_waiters(config);
        if let Some(ready) = self.ready.as_ref().filter(|ready| !ready.is_woken) {
            let waits = slots.open() < ready.count && ready.count <= core.limit();
            assert!(waits && !core.has_ended(), "it is over, and nobody woke it");
        }
        assert!(!core.has_ended() || slots.idle() + stats.waiting == 0);
        assert!(
            !(self.drains && core.is_drained()),
            "nobody told those who drain"
        );
    }

    /// Each client is in one place.
    fn check_clients(&self, config: &Config) {
        let slots = self.core.slots();
        for index in slots.by_age() {
            assert_eq!(*slots.idle_client(index), slots.key(index).id);
            let uses = slots.get(slots.key(index)).map(|open| open.leases);
            let is_used_up = config.rules.max_uses.is_some_and(|most| uses >= Some(most));
            assert!(!is_used_up, "idle, and used too often");
        }
        let queue = self.core.queue();
        let pending = self.guests.iter().filter_map(|guest| {
            match guest.seat().and_then(|seat| queue.pending(seat)) {
                Some(Answer::Granted(lease)) => Some(lease),
                _ => guest.probes.as_ref(),
            }
        });
        let is_left = |lease: &&Lease<u64>| {
            let mut left = self.core.abandoned().iter();
            left.any(|(key, client)| *key == lease.key && *client == key.id)
        };
        let left = self.abandoned.iter().filter(is_left);
        assert_eq!(left.clone().count(), self.core.abandoned().len());
        let out = pending
            .chain(&self.leases)
            .chain(self.ping.as_ref())
            .chain(left);
        let (mut leased, mut aborted, mut mask) = (0, 0, 0_u64);
        for lease in out {
            assert_eq!(lease.key.id, lease.client);
            if slots.get(lease.key).is_some() {
                let bit = 1 << lease.key.index;
                assert_eq!(mask & bit, 0, "a connection was handed out twice");
                mask |= bit;
                leased += 1;
            } else {
                aborted += 1;
            }
        }
        assert_eq!(leased, slots.leased(), "a lease is lost");
        assert_eq!(aborted, self.core.aborted(), "an aborted lease is lost");
    }

    /// Nobody sleeps over what it may use.
    fn check_waiters(&self, config: &Config) {
        let core = &self.core;
        let (slots, queue, now) = (core.slots(), core.queue(), core.now());
        for guest in &self.guests {
            let Some(seat) = guest.seat() else { continue };
            if guest.is_woken || guest.is_permanent {
                continue;
            }
            assert!(queue.pending(seat).is_none(), "an answer and no wake-up");
            if let Some(at) = core.poll_at(seat).filter(|_| queue.seat(seat).waits) {
                let knows = guest.poll_at.is_some_and(|poll_at| poll_at <= at);
                assert!(knows, "somebody does not know when to wake up");
            }
        }
        let Some(first) = self.waiting().next() else {
            return;
        };
        let wakes_within = |most: Duration| {
            first.is_woken || first.is_permanent || first.poll_at.is_some_and(|at| at <= now + most)
        };
        if slots.idle() > 0 {
            assert!(config.has_convoy, "idle beside a waiter");
            assert!(wakes_within(2 * LONGEST_WINDOW), "idle beside a sleeper");
        }
        let waiting = self.waiting().count();
        let connecting = slots.connecting_current();
        if let Some(most) = config.rules.max_waiting {
            assert!(waiting <= most + core.limit(), "the line is too long");
        }
        if slots.occupied() - slots.left() >= core.limit() && waiting > connecting {
            let left = core.abandoned().len();
            assert_eq!(left, 0, "somebody waits for a lease that nobody needs");
        }
        if core.has_ended() || slots.occupied() - slots.left() >= core.limit() {
            return;
        }
        if core.breaker().error().is_none() {
            assert!(
                connecting >= waiting.min(config.rules.max_connecting),
                "a waiter beside a free place"
            );
        } else if connecting == 0 {
            assert!(wakes_within(LONGEST), "nobody keeps the pool trying");
        }
    }
}
