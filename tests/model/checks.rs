//! What must hold after each step.

use super::*;

impl Walk {
    /// Compares what the core did and is with what it should have done and be.
    pub(super) fn check(&mut self, expected: &Expected) {
        let mut fx = self.core.take_effects();
        self.check_ready_waiters(expected, &mut fx);
        assert_eq!(fx.connects.len(), expected.connects, "connects");
        self.check_alarm(expected, &fx);
        let mut gone: Vec<Gone> = fx
            .close
            .iter()
            .map(|closed| {
                let id = closed.key.id;
                assert_eq!(id, closed.handle);
                assert!(closed.client.as_ref().is_none_or(|v| v.id == id));
                Gone {
                    id,
                    why: closed.why as usize,
                    has_value: closed.client.is_some(),
                    is_aborted: closed.is_aborted,
                    occupies: closed.occupies,
                    is_told: closed.tell,
                    held: closed.held,
                }
            })
            .collect();
        self.handed_out = 0;
        let mut wanted = expected.gone.clone();
        gone.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(gone, wanted);
        assert_eq!(
            fx.aborted.as_ref().map(|value| value.id),
            expected.aborted_value
        );
        let (mut recalled, mut wanted) = (fx.recall.clone(), expected.recalled.clone());
        recalled.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(recalled, wanted);
        let (mut cut, mut wanted) = (fx.cut.clone(), expected.cut.clone());
        cut.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(cut, wanted);
        assert_eq!(fx.released, expected.released);
        assert_eq!(fx.wake_reaper, expected.wakes_reaper);
        assert_eq!(fx.warn_of_hang_ups, expected.warns);
        assert!(!fx.drained || self.is_drained());
        if self.is_drained() && self.drainers > 0 {
            // Whoever made it so has told those who wait for it.
            assert!(fx.drained, "nobody told those who drain");
            for _ in 0..std::mem::take(&mut self.drainers) {
                self.core.end_draining();
            }
        }
        drop(fx);
        self.check_state();
    }

    /// Those who wait for connections to be open are woken when one is, or none will be.
    fn check_ready_waiters(&self, expected: &Expected, fx: &mut Effects) {
        let (ready_waiters, others) = std::mem::take(&mut fx.wake)
            .into_iter()
            .partition(|&who| who >= READIERS);
        fx.wake = others;
        let mut woken: Vec<u64> = ready_waiters;
        woken.dedup();
        let all = self.ready_waiters.iter().map(|r| READIERS + r.count as u64);
        let wanted: Vec<u64> = all.filter(|_| expected.wakes_readiers).collect();
        assert_eq!(woken, wanted);
    }

    /// Everybody with news is woken, and the first waiter keeps an outage's pool trying.
    pub(super) fn check_alarm(&mut self, expected: &Expected, fx: &Effects) {
        let first = self
            .queue
            .first()
            .filter(|first| Some(first.who) == self.keeper);
        let mut alarm = None;
        if let (Some(first), Some(outage)) = (first, &mut self.outage) {
            let at = self.core.poll_at(first.itself.seat.unwrap());
            let at = at.expect("nobody keeps the pool trying");
            assert!(outage.earliest <= at && at <= outage.latest, "{at:?}");
            (outage.earliest, outage.latest) = (at.max(outage.earliest), at);
            alarm = Some((first.who, at));
        }
        for caller in &self.queue {
            let keeps = alarm.filter(|&(who, _)| who == caller.who);
            let wakes = caller.barging_until.map(|at| at + (at - caller.since));
            let wakes = wakes.filter(|&at| at > self.dispatched);
            let wanted = keeps.map(|(_, at)| at).or(wakes);
            assert_eq!(self.core.poll_at(caller.itself.seat.unwrap()), wanted);
        }
        for who in &expected.answered {
            assert!(fx.wake.contains(who), "{who} has an answer and sleeps");
        }
        let new_alarm = alarm.filter(|_| alarm != self.alarm);
        if let Some((who, _)) = new_alarm {
            assert!(fx.wake.contains(&who), "{who} does not know of its alarm");
        }
        let is_meant = |who: &u64| {
            expected.answered.contains(who) || new_alarm.is_some_and(|(first, _)| first == *who)
        };
        assert!(
            fx.wake.iter().all(is_meant),
            "somebody is woken for nothing"
        );
        self.alarm = alarm;
    }

    pub(super) fn check_state(&mut self) {
        let callers = self.queue.len() + self.served.len();
        self.most.0 = self.most.0.max(callers);
        self.most.1 = self.most.1.max(self.occupied());
        let stats = self.core.stats(7);
        let wanted = Stats {
            limit: self.limit,
            open: self.open(),
            idle: self.idle.len(),
            leased: self.leased.len(),
            connecting: self.connecting.len(),
            waiting: self.queue.len(),
            allocations: 7,
            evictions: stats.evictions.clone(),
            ..self.counts.clone()
        };
        assert_eq!(stats, wanted);
        for why in Eviction::all() {
            assert_eq!(stats.evicted(why), self.evictions[why as usize], "{why}");
        }
        let by_age: Vec<SlotKey> = self
            .core
            .slots()
            .by_age()
            .map(|i| self.core.slots().key(i))
            .collect();
        assert_eq!(by_age, self.idle.iter().map(|c| c.key).collect::<Vec<_>>());
        self.check_occupants();

        assert_eq!(stats.connects, stats.releases + stats.open as u64);
        assert_eq!(stats.releases, self.evictions.iter().sum::<u64>());
        let in_use = stats.idle + stats.leased + stats.connecting;
        let closing = self.closing.len() + self.left.len();
        assert_eq!(self.core.slots().in_use(), in_use);
        assert_eq!(self.core.slots().occupied(), in_use + closing);
        assert_eq!(self.core.slots().left(), self.left.len());
        let is_short = stats.waiting > self.connecting_current() || in_use > stats.limit;
        assert_eq!(self.core.wants_leases_back(), is_short);
        assert!(
            stats.idle == 0 || stats.waiting == 0 || self.may_overtake_first(self.dispatched),
            "idle beside a waiter whom nobody may overtake"
        );
        let first = self.queue.first().filter(|_| stats.idle > 0);
        assert!(
            first.is_none_or(|first| self.core.poll_at(first.itself.seat.unwrap()).is_some()),
            "idle beside a waiter that will not wake up"
        );
        assert!(
            stats.idle == 0 || in_use <= stats.limit,
            "idle above the limit"
        );
        if !self.has_ended && self.outage.is_none() && self.has_place() {
            let connecting = self.connecting_current();
            let is_busy = connecting >= self.rules.max_connecting;
            assert!(
                is_busy || connecting >= stats.waiting,
                "a waiter without a connect"
            );
        }
        assert!(!self.has_ended || stats.waiting + stats.idle == 0);
        assert_eq!(self.core.is_drained(), self.is_drained());
        assert!(self.queue.is_sorted_by_key(|caller| caller.number));
        assert!(self.idle.is_sorted_by_key(|conn| conn.since));
        // Each client is idle, out, or on its way to a caller: none is lost.
        let granted = |caller: &&Caller| matches!(caller.pending, Some(Told::Granted(..)));
        let on_the_way = self.served.iter().filter(granted).count();
        let out = self.leases.len() + self.pings.len();
        let kept = self.idle.len() + self.left.len();
        assert_eq!(self.alive.get(), kept + on_the_way + out);
        // Seats and slots are used again.
        assert!(
            self.queue
                .iter()
                .all(|c| (c.itself.seat.unwrap().0 as usize) < self.most.0)
        );
        assert!(self.core.slots().len() as usize <= self.most.1);
    }

    pub(super) fn check_occupants(&self) {
        let now = self.core.now();
        let shown = self.core.slots().connections(now).into_iter();
        let mut found: Vec<_> = shown
            .map(|(info, handle)| {
                let is_open = info.state != State::Connecting;
                assert_eq!(handle, is_open.then_some(info.id));
                let taken = info.taken_at.is_some();
                let state = info.state as u8;
                (info.id, state, info.age, info.in_state, info.leases, taken)
            })
            .collect();
        let row = |conn: &Conn, state| {
            (
                conn.key.id,
                state as u8,
                now - conn.born,
                now - conn.since,
                conn.leases,
                conn.is_taken,
            )
        };
        let idle = self.idle.iter().map(|conn| row(conn, State::Idle));
        let leased = self.leased.iter().map(|conn| row(conn, State::Leased));
        let mut wanted: Vec<_> = idle.chain(leased).collect();
        found.retain(|row| row.1 != State::Connecting as u8);
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        for conn in &self.leased {
            let is_doomed = self.core.is_doomed(conn.key);
            assert_eq!(is_doomed, conn.doom.is_some());
        }
    }
}
