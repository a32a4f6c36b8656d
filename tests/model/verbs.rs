//! Time, sweeps, pings and the pool's own verbs.

use super::*;

impl Walk {
    pub(super) fn pass_time(&mut self) {
        let steps = if self.is_hurried {
            [1, 1, 2, 3]
        } else {
            [2, 30, 300, 1500]
        };
        let step = self.random.pick(&steps);
        self.now += self.random.millis(step);
        // Often to the very moment that somebody waits for.
        if let Some((_, at)) = self.alarm.filter(|_| self.random.chance(50)) {
            self.now = self.now.max(at);
        }
    }

    /// One batch of a sweep; what it found dead is evicted some steps later.
    pub(super) fn sweep(&mut self) {
        let now = self.read_the_clock();
        let mut expected = Expected::default();
        if self.random.chance(40) {
            let most = 1 + self.random.below(3);
            let count = self.core.evict_stale(most);
            let min_idle = self.rules.min_idle.min(self.limit);
            let spare = self.idle.len().saturating_sub(min_idle).min(most);
            let timeout = self.rules.idle_timeout.unwrap_or(Duration::MAX);
            let is_stale = |conn: &&Conn| now.saturating_duration_since(conn.since) >= timeout;
            let stale = self.idle.iter().take_while(is_stale).count().min(spare);
            assert_eq!(count, stale);
            self.shed(stale, Eviction::IdleTimeout, &mut expected);
            if self.rules.idle_timeout.is_some() {
                self.dispatch(&mut expected);
            }
            return self.check(&expected);
        }
        let slots = self.core.slots().len();
        let first = u32::try_from(self.random.below(slots as usize + 1)).unwrap();
        let (mut idle, mut overdue) = (Vec::new(), Vec::new());
        let batch = first..slots + 3;
        let closed = self.core.inspect(batch, &mut idle, &mut overdue);
        let is_inside = |conn: &Conn| conn.key.index >= first;
        let (old, kept) = self
            .idle
            .drain(..)
            .partition(|conn| is_inside(conn) && conn.expires.is_some_and(|at| at <= now));
        self.idle = kept;
        let old: Vec<Conn> = old;
        assert_eq!(closed, old.len());
        for conn in &old {
            self.close(conn, Eviction::MaxLifetime, &mut expected);
        }
        let mut shown: Vec<u64> = idle.iter().map(|(period, _)| period.key.id).collect();
        let mut wanted: Vec<u64> = self.idle.iter().filter(|c| is_inside(c)).map(id).collect();
        shown.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(shown, wanted);
        assert!(idle.iter().all(|(period, handle)| period.key.id == *handle));
        let mut late = Vec::new();
        self.leased.sort_unstable_by_key(|conn| conn.key.index);
        let mut overtime = Vec::new();
        for conn in self.leased.iter_mut().filter(|conn| is_inside(conn)) {
            if conn.expires.is_some_and(|at| at <= now) {
                expected.recalled.push(conn.key.id);
            }
            let held = now.saturating_duration_since(conn.since);
            if conn.is_held && self.rules.leak_after.is_some_and(|after| held >= after) {
                conn.is_held = false;
                overtime.push((conn.key.id, Said::Overdue(held)));
            }
        }
        for (id, said) in overtime {
            late.extend(self.begin_reporting(id, said));
        }
        let told: Vec<(u64, Said)> = overdue.iter().map(said).collect();
        assert_eq!(told, late);
        for (period, id) in idle {
            let conn = self.idle.iter().find(|conn| conn.key.id == id);
            self.swept.push((period, conn.unwrap().leases));
        }
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    pub(super) fn evict_one(&mut self) {
        let mut expected = Expected::default();
        if self.random.chance(20) {
            self.read_the_clock();
            let found = self.core.evict_oldest();
            assert_eq!(found, !self.idle.is_empty());
            self.shed(usize::from(found), Eviction::OverLimit, &mut expected);
            if found {
                self.dispatch(&mut expected);
            }
        } else if !self.swept.is_empty() {
            let index = self.random.below(self.swept.len());
            let (period, leases) = self.swept.swap_remove(index);
            self.read_the_clock();
            let why = Eviction::Unread;
            let silent = self.random.chance(self.hanging_up);
            let evicted = self.core.evict_idle(period, why, silent);
            let rests = |conn: &&Conn| conn.key == period.key && conn.leases == leases;
            let is_there = self.idle.iter().any(|conn| rests(&conn));
            assert_eq!(
                evicted, is_there,
                "what was seen before a lease counts after it"
            );
            if is_there {
                if silent && leases == 0 {
                    self.hear(period.key, PeerSignal::HungUp, &mut expected);
                    self.heard(&expected);
                }
                let conn = remove(&mut self.idle, period.key.id).unwrap();
                self.close(&conn, why, &mut expected);
                self.dispatch(&mut expected);
            }
        }
        self.check(&expected);
    }

    pub(super) fn ping(&mut self) {
        let now = self.read_the_clock();
        let every = self.random.millis(500);
        let first = u32::try_from(self.random.below(3)).unwrap();
        let mut from = Some(first);
        let found = self.core.next_ping(&mut from, every);
        let is_due = |conn: &&Conn| {
            conn.key.index >= first && now.saturating_duration_since(conn.answered) >= every
        };
        let due = self.idle.iter().filter(is_due);
        let expected = due.min_by_key(|c| c.key.index).map(id);
        let expected = expected.filter(|_| !self.has_ended && self.queue.is_empty());
        let is_out = |ping: &Ping| self.leased.iter().any(|c| c.key == ping.lease.key);
        let is_pinging = self.pings.iter().any(is_out);
        let expected = expected.filter(|_| !is_pinging);
        assert_eq!(found.as_ref().map(|lease| lease.key.id), expected);
        if let Some(lease) = found {
            assert_eq!(from, Some(lease.key.index + 1));
            let at = self.idle.iter().position(|c| c.key == lease.key);
            let periods = self.idle.iter().map(|c| (c.key.id, c.leases));
            let older = periods.take(at.unwrap()).collect();
            let mut conn = self.idle.remove(at.unwrap());
            conn.leases += 1;
            conn.pings += 1;
            (conn.is_taken, conn.is_told) = (false, false);
            let since = std::mem::replace(&mut conn.since, now);
            conn.is_held = self.rules.leak_after.is_some();
            self.leased.push(conn);
            self.pings.push(Ping {
                lease,
                since,
                older,
            });
        }
        self.check(&Expected::default());
    }

    pub(super) fn set_limit(&mut self) {
        let limit = self.random.below(7);
        self.read_the_clock();
        self.core.set_limit(limit);
        self.limit = limit;
        assert_eq!(self.core.limit(), limit);
        let surplus = self.in_use().saturating_sub(limit);
        let mut expected = Expected {
            wakes_readiers: true,
            ..Expected::default()
        };
        let count = surplus.min(self.idle.len());
        self.shed(count, Eviction::OverLimit, &mut expected);
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    pub(super) fn free(&mut self) {
        let keep = self.random.pick(&[0, 1, 2, 5, usize::MAX]);
        let close = self.random.pick(&[Close::Soft, Close::Hard]);
        self.read_the_clock();
        let freed = self.core.free(keep, close);
        let open = self.open();
        let mut expected = Expected::default();
        self.close_left(&mut expected);
        let mut wanted = Freed {
            kept: 0,
            closed: 0,
            doomed: 0,
        };
        let mut leased = std::mem::take(&mut self.leased);
        leased.sort_unstable_by_key(|conn| conn.key.index);
        for mut conn in leased {
            if conn.doom.is_none() && wanted.kept < keep {
                wanted.kept += 1;
                self.leased.push(conn);
            } else if close == Close::Hard {
                wanted.closed += 1;
                self.abort(&conn, Eviction::Freed, &mut expected);
            } else {
                wanted.doomed += 1;
                if conn.doom.is_none() {
                    conn.doom = Some(Eviction::Freed);
                    expected.recalled.push(conn.key.id);
                }
                self.leased.push(conn);
            }
        }
        let spared = self.idle.len().min(keep - wanted.kept);
        let surplus = self.idle.len() - spared;
        wanted.kept += spared;
        wanted.closed += surplus;
        assert_eq!(freed, wanted);
        assert_eq!(freed.kept + freed.closed + freed.doomed, open);
        self.shed(surplus, Eviction::Freed, &mut expected);
        if close == Close::Hard {
            self.give_up_connects(keep - wanted.kept, &mut expected);
        }
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    /// The connects under way are given up, but for so many of those that somebody counts on.
    fn give_up_connects(&mut self, mut keep: usize, expected: &mut Expected) {
        self.connecting
            .sort_unstable_by_key(|connect| connect.key.index);
        for connect in &mut self.connecting {
            if keep > 0 && !connect.outdated {
                keep -= 1;
                continue;
            }
            if connect.is_open && !connect.given_up {
                expected.cut.push(connect.key.id);
            }
            (connect.outdated, connect.given_up, connect.owner) = (true, true, None);
        }
        // A connect that was given up during an outage has no result; the next one keeps its distance.
        if let Some((outage, start)) = self.outage.as_mut().zip(self.last_start) {
            outage.earliest = outage.earliest.max(start + SPACING);
            outage.latest = outage.latest.max(start + SPACING);
        }
    }

    fn close_left(&mut self, expected: &mut Expected) {
        while let Some((key, gone)) = self.left.pop() {
            self.hand_out(key, gone, expected);
        }
    }

    pub(super) fn end(&mut self, close: Close) {
        self.read_the_clock();
        let first = self.core.end(close);
        assert_eq!(first, !self.has_ended);
        self.has_ended = true;
        self.has_reaper = false;
        let mut expected = Expected {
            wakes_readiers: true,
            ..Expected::default()
        };
        self.close_left(&mut expected);
        self.shed(self.idle.len(), Eviction::Ended, &mut expected);
        if close == Close::Hard {
            for conn in std::mem::take(&mut self.leased) {
                self.abort(&conn, Eviction::Ended, &mut expected);
            }
        }
        for conn in &mut self.leased {
            if conn.doom.is_none() {
                conn.doom = Some(Eviction::Ended);
                expected.recalled.push(conn.key.id);
            }
        }
        if close == Close::Hard {
            self.give_up_connects(0, &mut expected);
        }
        while !self.queue.is_empty() {
            self.serve(Told::Ended, &mut expected);
        }
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    pub(super) fn drain_or_tell(&mut self) {
        if self.random.chance(50) {
            while !self.reporting.is_empty() && self.random.chance(80) {
                self.tell_what_is_next();
            }
        } else if self.drainers > 0 {
            self.core.end_draining();
            self.drainers -= 1;
        } else {
            let waits = self.core.begin_draining();
            assert_eq!(waits, !self.is_drained());
            self.drainers += usize::from(waits);
        }
    }

    pub(super) fn change_weather(&mut self) {
        self.hurry();
        self.failing = self.random.pick(&[0, 10, 50, 95]);
        self.hanging_up = self.random.pick(&[0, 0, 50, 100, 100]);
        if self.random.chance(40) {
            let now = self.read_the_clock();
            self.core.factory_changed();
            self.outage = None;
            self.hang_ups = 0;
            self.news_since = Some(now);
            for connect in &mut self.connecting {
                connect.outdated = true;
                connect.owner = None;
            }
            let mut expected = Expected::default();
            self.dispatch(&mut expected);
            self.check(&expected);
        }
    }

    /// For a while little time passes, and the core has just handed off many connections.
    pub(super) fn hurry(&mut self) {
        self.is_hurried = self.random.chance(30);
        if self.is_hurried {
            let now = self.now;
            for _ in 0..100 {
                self.convoy.handed_off(now);
                self.core.convoy().handed_off(now);
            }
        }
    }

    pub(super) fn rarely(&mut self) {
        if self.random.chance(95) {
            self.read_the_clock();
            self.core.refill();
            self.is_refilling = true;
            let mut expected = Expected::default();
            self.dispatch(&mut expected);
            self.check(&expected);
        } else {
            let close = self.random.pick(&[Close::Soft, Close::Hard]);
            self.end(close);
        }
    }
}
