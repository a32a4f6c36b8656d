//! Who is served next, and when connects start.

use super::*;

impl Walk {
    pub(super) fn refusal(&self, claims: usize) -> Option<Cause> {
        let now = self.clock;
        let Some(outage) = &self.outage else {
            return (self.open() + claims >= self.limit).then_some(Cause::Full);
        };
        if self.open() >= self.limit {
            return Some(Cause::Full);
        }
        let is_spaced = self
            .last_start
            .is_none_or(|start| now.saturating_duration_since(start) >= SPACING);
        let may_start = self.may_try_connect() && is_spaced;
        (!may_start).then(|| Cause::Connect(Arc::clone(&outage.error)))
    }

    /// What a caller that does not wait yet may have.
    pub(super) fn take_newest(&mut self, barge: bool) -> Option<(u64, bool)> {
        let may_take = self.queue.is_empty() || (barge && self.may_overtake_first(self.clock));
        if !may_take {
            return None;
        }
        self.lease_newest()
    }

    /// Until when one who joins the queue now may be bargen.
    pub(super) fn barging_window(&self) -> Option<Instant> {
        let now = self.clock;
        let window = self.convoy.window(self.queue.len(), now)?;
        (!self.has_place()).then(|| now + window)
    }

    /// Whether the first waiter lets others go first, so that a connection may lie idle.
    pub(super) fn may_overtake_first(&self, now: Instant) -> bool {
        let until = self.queue.first().and_then(|first| first.barging_until);
        !self.has_place() && until.is_some_and(|until| now < until)
    }

    pub(super) fn connecting_current(&self) -> usize {
        self.connecting.iter().filter(|c| !c.outdated).count()
    }

    fn may_connect(&self) -> bool {
        self.has_place() && self.connecting_current() < self.rules.max_connecting
    }

    pub(super) fn may_try_connect(&self) -> bool {
        self.may_connect() && self.connecting_current() == 0
    }

    /// Which one, and whether to probe it.
    fn lease_newest(&mut self) -> Option<(u64, bool)> {
        let mut conn = self.idle.pop()?;
        let probe = self.clock.saturating_duration_since(conn.since) >= self.rules.probe_after;
        conn.since = self.clock;
        conn.leases += 1;
        (conn.is_taken, conn.is_told) = (false, false);
        let id = conn.key.id;
        self.leased.push(conn);
        Some((id, probe))
    }

    /// The newest idle connection goes to the one who came first.
    pub(super) fn grant(&mut self, may_be_dead: bool, expected: &mut Expected) {
        let (id, probe) = self.lease_newest().unwrap();
        self.serve(Told::Granted(id, probe && may_be_dead), expected);
    }

    pub(super) fn serve(&mut self, told: Told, expected: &mut Expected) {
        self.serve_at(0, told, expected);
    }

    fn serve_at(&mut self, place: usize, told: Told, expected: &mut Expected) {
        let mut caller = self.queue.remove(place);
        self.disown(caller.who);
        self.count_wait(&caller);
        caller.pending = Some(told);
        caller.is_trying = false;
        expected.answered.push(caller.who);
        self.served.push(caller);
    }

    /// Connects that were made for this caller go on for nobody in particular.
    pub(super) fn disown(&mut self, who: u64) {
        for connect in &mut self.connecting {
            connect.owner = connect.owner.filter(|&owner| owner != who);
        }
    }

    pub(super) fn count_wait(&mut self, caller: &Caller) {
        let now = self.clock;
        let waited = now.saturating_duration_since(caller.since);
        self.counts.waits += u64::from(!caller.is_counted);
        self.counts.wait_total += waited;
        self.counts.wait_max = self.counts.wait_max.max(waited);
        self.counts.wait_times.record(waited);
    }

    /// A connect closes first what occupies the place that it needs.
    fn make_place(&mut self, expected: &mut Expected) {
        while self.occupied() >= self.limit {
            if self.handed_out == 0 {
                let (key, gone) = self.left.pop().expect("a connect above the limit");
                self.hand_out(key, gone, expected);
            }
            let key = self.closing.pop().unwrap();
            self.handed_out -= 1;
            let gone = expected.gone.iter_mut().find(|gone| gone.id == key.id);
            gone.unwrap().occupies = false;
        }
    }

    pub(super) fn start(&mut self, owner: Option<u64>, expected: &mut Expected) {
        let now = self.clock;
        self.make_place(expected);
        let reserved = self.core.effects().connects.get(expected.connects);
        let reserved = reserved.copied();
        let reserved = reserved.expect("a connect is wanted and was not started");
        expected.connects += 1;
        let key = reserved.key;
        assert_eq!(reserved.needed, owner.is_some());
        assert!(!self.has_ended);
        assert!(self.occupied() < self.limit, "a connect above the limit");
        assert!(key.id > self.highest_id, "an id was used twice");
        let others = self.idle.iter().chain(&self.leased).map(|c| c.key.index);
        let others = others.chain(self.connecting.iter().map(|c| c.key.index));
        let others = others.chain(self.closing.iter().map(|key| key.index));
        let mut others = others.chain(self.left.iter().map(|(key, _)| key.index));
        assert!(others.all(|other| other != key.index));
        if self.outage.is_some() {
            assert_eq!(self.connecting_current(), 0, "two connects in an outage");
            let pause = now.saturating_duration_since(self.last_start.unwrap());
            assert!(
                pause >= SPACING,
                "another connect after {pause:?} in an outage"
            );
        }
        self.highest_id = key.id;
        self.last_start = Some(now);
        self.connecting.push(Connect {
            key,
            owner,
            outdated: false,
            given_up: false,
            is_open: false,
            began: now,
        });
    }

    pub(super) fn dispatch(&mut self, expected: &mut Expected) {
        let now = self.clock;
        // Barging ends by the latest time that anybody has seen, however late this thread comes.
        self.dispatched = self.clock;
        let min_idle = self.rules.min_idle.min(self.limit);
        self.is_refilling &= self.idle.len() < min_idle;
        while !self.idle.is_empty()
            && !self.queue.is_empty()
            && !self.may_overtake_first(self.clock)
        {
            self.convoy.handed_off(now);
            self.grant(true, expected);
        }
        loop {
            let spare = min_idle.saturating_sub(self.idle.len());
            let spare = if self.is_refilling { spare } else { 0 };
            let connecting = self.connecting_current();
            let unopened = self.wanted_open().saturating_sub(self.open());
            let is_wanted = connecting < (self.queue.len() + spare).max(unopened);
            if self.has_ended || !self.has_place() || !is_wanted {
                break;
            }
            let may = match &self.outage {
                None => self.may_connect(),
                Some(_) if !self.may_try_connect() => false,
                // In between, the core alone knows when.
                Some(outage) if now < outage.earliest => false,
                Some(outage) => {
                    now >= outage.latest || self.core.effects().connects.len() > expected.connects
                }
            };
            if !may {
                break;
            }
            let is_owner = |who| self.connecting.iter().any(|c| c.owner == Some(who));
            let owner = self.queue.iter().map(|c| c.who).find(|&who| !is_owner(who));
            self.start(owner, expected);
        }
        let (hopeful, cause) = match &self.outage {
            Some(outage) => (
                self.connecting_current(),
                Cause::Connect(Arc::clone(&outage.error)),
            ),
            None => (self.limit.saturating_sub(self.open()), Cause::Full),
        };
        let is_trying = |caller: &Caller| caller.is_trying;
        while self.queue.iter().filter(|c| is_trying(c)).count() > hopeful {
            let last = self.queue.iter().rposition(is_trying).unwrap();
            self.fail(last, cause.clone(), expected);
        }
        let first = self.queue.first().filter(|_| self.may_try_connect());
        self.keeper = first.map(|first| first.who);
    }

    fn wanted_open(&self) -> usize {
        let counts = self.ready_waiters.iter().map(|waiter| waiter.count);
        counts.max().unwrap_or(0).min(self.limit)
    }

    /// A caller's try fails; one that has only one leaves the queue with that.
    pub(super) fn fail(&mut self, place: usize, cause: Cause, expected: &mut Expected) {
        if self.queue[place].itself.stays {
            let caller = &mut self.queue[place];
            caller.is_trying = false;
            caller.pending = Some(Told::Failed(cause));
            expected.answered.push(caller.who);
        } else {
            self.serve_at(place, Told::Failed(cause), expected);
        }
    }
}
