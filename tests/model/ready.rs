//! Steps of those who wait for connections to be open, and what is told of connections.

use super::*;

impl Walk {
    /// Somebody begins to wait for connections to be open, asks, or gives up.
    pub(super) fn get_ready(&mut self) {
        let mut expected = Expected::default();
        let choice = self.random.below(4);
        if choice == 0 && self.ready_waiters.len() < 2 {
            // No two with the same, by which the model tells them apart.
            let count = self.random.below(7);
            if self.ready_waiters.iter().any(|r| r.count == count) {
                return;
            }
            let number = self.core.begin_ready(count, READIERS + count as u64);
            let failures = self.counts.connect_failures;
            self.ready_waiters.push(ReadyWaiter {
                number,
                count,
                failures,
            });
        } else if self.ready_waiters.is_empty() {
            return;
        } else if choice == 1 {
            let gone = self.ready_waiters.remove(0);
            self.core.end_ready(gone.number);
        } else {
            self.read_the_clock();
            let index = self.random.below(self.ready_waiters.len());
            self.poll_ready(index, &mut expected);
        }
        self.check(&expected);
    }

    fn poll_ready(&mut self, index: usize, expected: &mut Expected) {
        let ReadyWaiter {
            number,
            count,
            failures,
        } = self.ready_waiters[index];
        let readiness = self.core.poll_ready(number);
        let has_failed = self.counts.connect_failures > failures;
        let outage = self.outage.as_ref().map(|outage| Arc::clone(&outage.error));
        let permanent = outage.filter(|error| has_failed && error.is_permanent());
        match readiness {
            Readiness::Ended => assert!(self.has_ended),
            _ if self.has_ended => panic!("{readiness:?} of a pool that has ended"),
            Readiness::AboveLimit(limit) => assert!(limit == self.limit && count > limit),
            _ if count > self.limit => panic!("{readiness:?} above the limit"),
            Readiness::Ready => assert!(self.open() >= count),
            _ if self.open() >= count => panic!("{readiness:?}, but it is ready"),
            Readiness::Permanent(error) => assert!(Arc::ptr_eq(&error, &permanent.unwrap())),
            Readiness::Waits(poll_at) => {
                assert!(permanent.is_none());
                self.dispatch(expected);
                assert!(poll_at.is_none_or(|at| at > self.clock), "a busy loop");
                // Else a connect is under way, or begins when a place falls free.
                let may = self.may_try_connect() && self.outage.is_some();
                assert!(poll_at.is_some() || !may, "nobody will try again");
            }
        }
    }

    /// A lease begins or ends that is told, or something else is told after that.
    pub(super) fn tell_of_a_lease(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        self.read_the_clock();
        let now = self.clock;
        let index = self.random.below(self.leases.len());
        let key = self.leases[index].key;
        let (begins, is_watched) = (self.random.chance(70), self.random.chance(50));
        let said = find(&mut self.leased, key.id).and_then(|conn| {
            if begins {
                (conn.is_told, conn.is_taken, conn.is_held) = (true, true, is_watched);
                return Some(Said::Leased);
            }
            let held = now.saturating_duration_since(conn.since);
            let was_told = std::mem::take(&mut conn.is_told);
            conn.is_held &= !was_told;
            was_told.then_some(Said::Returned(held))
        });
        let event = if begins {
            self.core
                .lease_begins(key, Duration::ZERO, callers::taker(is_watched))
        } else {
            self.core.lease_ends(key)
        };
        if let Some(Said::Returned(held)) = said {
            self.counts.lease_times.record(held);
        }
        let wanted = said.and_then(|said| self.begin_reporting(key.id, said));
        assert_eq!(event.as_ref().map(super::said), wanted);
        self.check(&Expected::default());
    }

    pub(super) fn tell_what_is_next(&mut self) {
        let id = self.random.pick(&self.reporting);
        let next = self.core.next_event(id);
        let wanted = self.unreported.iter().position(|&(of, _)| of == id);
        let wanted = wanted.map(|at| self.unreported.remove(at));
        if wanted.is_none() {
            self.reporting.retain(|&other| other != id);
        }
        assert_eq!(next.as_ref().map(super::said), wanted);
    }
}
