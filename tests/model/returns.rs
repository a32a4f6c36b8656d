//! Steps of connects and leases that come back.

use super::*;

impl Walk {
    pub(super) fn finish_connect(&mut self) {
        if self.connecting.is_empty() {
            return;
        }
        let index = self.random.below(self.connecting.len());
        let Connect {
            place,
            owner,
            outdated,
        } = self.connecting.remove(index);
        let mut expected = Expected::default();
        if self.has_ended && self.random.chance(50) {
            self.look_at_the_clock();
            self.table.connect_dropped(place);
            self.settle(&mut expected);
        } else if self.random.chance(self.failing) {
            self.look_at_the_clock();
            let error = Arc::new(Error::Connect(io::Error::other("no")));
            self.table.connect_failed(place, Arc::clone(&error));
            self.counts.connect_failures += 1;
            if outdated {
                self.settle(&mut expected);
                return self.check(&expected);
            }
            self.is_topping_up = false;
            let failed = self
                .queue
                .iter()
                .position(|caller| Some(caller.who) == owner && caller.is_trying);
            if let Some(place) = failed {
                let cause = Cause::Connect(Arc::clone(&error));
                self.fail(place, cause, &mut expected);
            }
            self.shut(error, false);
            self.settle(&mut expected);
        } else {
            let connect = Connect {
                place,
                owner,
                outdated,
            };
            self.connected(connect, &mut expected);
        }
        self.check(&expected);
    }

    pub(super) fn connected(&mut self, connect: Connect, expected: &mut Expected) {
        let Connect {
            place,
            owner,
            outdated,
        } = connect;
        let now = self.look_at_the_clock();
        let value = Value::new(place.id, &self.alive);
        self.table.connected(place, value, place.id);
        self.counts.connects += 1;
        if !outdated {
            self.open_the_gate();
        }
        let open = self.table.slots().get(place);
        let expires = open.and_then(|open| open.expires);
        let conn = Conn {
            place,
            born: now,
            since: now,
            tended: now,
            expires,
            leases: 0,
            doom: None,
            is_held: false,
        };
        if self.has_ended || self.occupied() + 1 > self.limit {
            let why = if self.has_ended {
                Eviction::Ended
            } else {
                Eviction::OverLimit
            };
            self.gone(&conn, why, true, false, expected);
        } else {
            assert_eq!(expires.is_some(), self.rules.max_lifetime.is_some());
            if let (Some(expires), Some(lifetime)) = (expires, self.rules.max_lifetime) {
                assert!(now + lifetime * 9 / 10 <= expires && expires <= now + lifetime);
            }
            self.idle.push(conn);
            if let Some(first) = self.queue.first() {
                let is_its_own = first.is_trying && owner == Some(first.who);
                self.grant(!is_its_own, expected);
            }
        }
        self.settle(expected);
    }

    pub(super) fn shut(&mut self, error: Arc<Error>, hangs_up: bool) {
        let now = self.clock;
        let start = self.last_start.unwrap();
        self.news_since = Some(now);
        self.outage = Some(Outage {
            error,
            earliest: start + SPACING,
            latest: start + PATIENCE,
            hangs_up,
            quiet_since: None,
        });
    }

    /// A connect succeeded; that is not enough where the other side has been hanging up.
    pub(super) fn open_the_gate(&mut self) {
        let now = self.clock;
        if let Some(outage) = self.outage.as_mut().filter(|outage| outage.hangs_up) {
            let since = *outage.quiet_since.get_or_insert(now);
            if now < since + PATIENCE {
                let at = self.last_start.unwrap() + SPACING;
                (outage.earliest, outage.latest) = (at, at);
                return;
            }
        }
        self.outage = None;
    }

    /// A lease that is about to end tells of the other side.
    pub(super) fn tell_word(&mut self, place: Place) {
        let silence = self.random.chance(20);
        let word = if silence {
            PeerSignal::Silence
        } else if self.random.chance(self.hanging_up) {
            PeerSignal::HungUp
        } else {
            PeerSignal::Heard
        };
        let shuts = self.table.take_word(place, word);
        self.heard_word(place, word, shuts);
    }

    /// Checks what a word of the other side came to.
    pub(super) fn heard_word(&mut self, place: Place, word: PeerSignal, shuts: bool) {
        let now = self.clock;
        let born = find(&mut self.leased, place.id).map(|conn| conn.born);
        let is_news = born.is_some_and(|born| self.news_since.is_none_or(|at| born >= at));
        let hangs_up = self.outage.as_ref().is_some_and(|outage| outage.hangs_up);
        let mut expected = false;
        match (word, born) {
            (PeerSignal::Heard, Some(_)) => {
                self.hang_ups = 0;
                if hangs_up && is_news {
                    self.outage = None;
                }
            }
            (PeerSignal::HungUp, Some(born)) if is_news && now < born + PATIENCE => {
                self.hang_ups += 1;
                expected = self.hang_ups > TOLERATED;
            }
            _ => {}
        }
        assert_eq!(shuts, expected);
        let counted = self.table.gate().hang_ups() as usize;
        assert_eq!(counted, self.hang_ups.min(TOLERATED));
        if shuts {
            let error = Arc::clone(self.table.gate().shut().unwrap());
            self.shut(error, true);
            self.is_topping_up = false;
        }
    }

    pub(super) fn give_back(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.random.below(self.leases.len());
        let Lease { place, held, .. } = self.leases.swap_remove(index);
        let verdict = self.verdict();
        let held = match verdict {
            None if self.random.chance(50) => match self.park(place, held) {
                Ok(()) => return self.check(&Expected::default()),
                Err(held) => held,
            },
            _ => held,
        };
        self.look_at_the_clock();
        self.tell_word(place);
        self.table.give_back(place, held, verdict);
        let mut expected = Expected::default();
        self.came_back(place, verdict, &mut expected);
        if expected.leftover.is_none() {
            self.settle(&mut expected);
        }
        self.check(&expected);
    }

    /// A lease comes back fit, and is idle at once if there is nothing else to decide.
    pub(super) fn park(&mut self, place: Place, held: Value) -> Result<(), Value> {
        let is_exact = self.random.chance(50);
        let now = if is_exact {
            self.look_at_the_clock()
        } else {
            self.clock
        };
        let word = self.random.pick(&[
            PeerSignal::Silence,
            PeerSignal::Silence,
            PeerSignal::Heard,
            PeerSignal::HungUp,
        ]);
        let says_nothing_new = match word {
            PeerSignal::Silence => true,
            PeerSignal::Heard => self.hang_ups == 0 && self.outage.is_none(),
            PeerSignal::HungUp => false,
        };
        let is_fit = find(&mut self.leased, place.id)
            .is_some_and(|conn| conn.doom.is_none() && conn.expires.is_none_or(|at| at > now));
        let is_welcome = is_fit
            && says_nothing_new
            && self.queue.is_empty()
            && !self.is_topping_up
            && self.drainers == 0
            && self.occupied() <= self.limit;
        let parked = self.table.park(place, held, word);
        assert_eq!(parked.is_ok(), is_welcome);
        if is_welcome {
            self.came_back(place, None, &mut Expected::default());
        }
        parked
    }

    pub(super) fn give_back_pinged(&mut self) {
        let Some((lease, pinged, before, since)) = self.pings.pop() else {
            return;
        };
        let Lease { place, held, .. } = lease;
        let verdict = self.verdict();
        self.look_at_the_clock();
        self.table.give_back_pinged(place, held, &pinged, verdict);
        let mut expected = Expected::default();
        if let Some(mut conn) = self.came_back(place, verdict, &mut expected) {
            // As idle as before: behind those that were idle longer.
            conn.since = since;
            self.idle.pop();
            let neighbour = self
                .idle
                .iter()
                .position(|other| Some(other.place.id) == before && other.since <= since);
            let mut place = neighbour.map_or(0, |place| place + 1);
            while self.idle.get(place).is_some_and(|c| c.since < since) {
                place += 1;
            }
            self.idle.insert(place, conn);
        }
        if expected.leftover.is_none() {
            self.settle(&mut expected);
        }
        self.check(&expected);
    }

    /// A lease came back and is idle, last in the order, unless something speaks against it.
    pub(super) fn came_back(
        &mut self,
        place: Place,
        verdict: Option<Eviction>,
        expected: &mut Expected,
    ) -> Option<Conn> {
        let now = self.clock;
        let is_over = self.occupied() > self.limit;
        let Some(mut conn) = remove(&mut self.leased, place.id) else {
            self.severed -= 1;
            expected.leftover = Some(place.id);
            return None;
        };
        let is_too_old = conn.expires.is_some_and(|at| at <= now);
        let why = conn
            .doom
            .or(verdict)
            .or(is_over.then_some(Eviction::OverLimit))
            .or(is_too_old.then_some(Eviction::MaxLifetime));
        if let Some(why) = why {
            self.gone(&conn, why, true, false, expected);
            return None;
        }
        conn.since = now;
        conn.tended = now;
        conn.is_held = false;
        self.idle.push(conn.clone());
        Some(conn)
    }

    pub(super) fn withdraw(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.random.below(self.leases.len());
        let Lease { place, held, .. } = self.leases.swap_remove(index);
        let why = self.random.pick(&[
            Eviction::PeerClosed,
            Eviction::Discarded,
            Eviction::Detached,
        ]);
        let held = (why != Eviction::Detached).then_some(held);
        let (returns, id) = (held.is_some(), place.id);
        self.look_at_the_clock();
        match held {
            Some(held) if why == Eviction::PeerClosed => self.bury(place, held),
            held => {
                self.tell_word(place);
                self.table.withdraw(place, held, why);
            }
        }
        let mut expected = Expected::default();
        if let Some(conn) = remove(&mut self.leased, id) {
            self.gone(&conn, why, returns, false, &mut expected);
        } else {
            self.severed -= 1;
            expected.leftover = returns.then_some(id);
        }
        self.settle(&mut expected);
        self.check(&expected);
    }

    /// A lease proved dead on its way to its caller.
    pub(super) fn bury(&mut self, place: Place, held: Value) {
        let mute = self.random.chance(self.hanging_up);
        let new = find(&mut self.leased, place.id)
            .is_some_and(|conn| conn.leases == 1 && conn.since == conn.born);
        let dead = Dead {
            place,
            held,
            why: Eviction::PeerClosed,
            mute,
        };
        let shuts = self.table.bury(dead);
        let word = if mute && new {
            PeerSignal::HungUp
        } else {
            PeerSignal::Silence
        };
        self.heard_word(place, word, shuts);
        self.table.tick();
    }
}
