//! Steps of connects and leases that come back.

use super::*;

impl Walk {
    pub(super) fn finish_connect(&mut self) {
        if self.connecting.is_empty() {
            return;
        }
        let index = self.random.below(self.connecting.len());
        let connect = self.connecting.remove(index);
        let Connect {
            key,
            owner,
            outdated,
            ..
        } = connect;
        let mut expected = Expected::default();
        if self.has_ended && self.random.chance(50) {
            self.read_the_clock();
            self.core.connect_dropped(key);
            expected.released.extend(connect.is_open.then_some(key.id));
            self.dispatch(&mut expected);
        } else if self.random.chance(self.failing) {
            self.read_the_clock();
            let kind = self
                .random
                .pick(&[io::ErrorKind::Other, io::ErrorKind::InvalidInput]);
            let error = Arc::new(Error::Connect(kind.into()));
            self.core.connect_failed(key, Arc::clone(&error));
            expected.released.extend(connect.is_open.then_some(key.id));
            self.counts.connect_failures += 1;
            expected.wakes_readiers = true;
            if outdated {
                self.dispatch(&mut expected);
                return self.check(&expected);
            }
            self.is_refilling = false;
            if error.is_permanent() && self.open() == 0 {
                let sleeping = |caller: &Caller| !caller.is_trying;
                let sleeping: Vec<u64> = self
                    .queue
                    .iter()
                    .filter(|c| sleeping(c))
                    .map(|c| c.who)
                    .collect();
                for who in sleeping {
                    let cause = Cause::Connect(Arc::clone(&error));
                    self.fail(self.place_of(who), cause, &mut expected);
                }
            }
            let failed = self
                .queue
                .iter()
                .position(|caller| Some(caller.who) == owner && caller.is_trying);
            if let Some(place) = failed {
                let cause = Cause::Connect(Arc::clone(&error));
                self.fail(place, cause, &mut expected);
            }
            self.open_breaker(error, false);
            self.dispatch(&mut expected);
        } else {
            self.connected(connect, &mut expected);
        }
        self.check(&expected);
    }

    /// A connect gets its socket.
    pub(super) fn open_connect(&mut self) {
        if self.connecting.is_empty() {
            return;
        }
        let index = self.random.below(self.connecting.len());
        if self.connecting[index].is_open {
            return;
        }
        self.read_the_clock();
        let connect = &mut self.connecting[index];
        let goes_on = self.core.opened(connect.key, connect.key.id);
        assert_eq!(goes_on, !connect.given_up);
        connect.is_open = goes_on;
        self.check(&Expected::default());
    }

    pub(super) fn connected(&mut self, connect: Connect, expected: &mut Expected) {
        let Connect {
            key,
            owner,
            outdated,
            ..
        } = connect;
        let now = self.read_the_clock();
        let value = Value::new(key.id, &self.alive);
        self.core.connected(key, value, key.id);
        self.counts.connects += 1;
        let took = now.saturating_duration_since(connect.began);
        self.counts.connect_times.record(took);
        expected.wakes_readiers = true;
        if !outdated {
            self.close_breaker();
        }
        let open = self.core.slots().get(key);
        let expires = open.and_then(|open| open.expires);
        let conn = Conn {
            key,
            born: now,
            since: now,
            answered: now,
            expires,
            leases: 0,
            pings: 0,
            doom: None,
            is_held: false,
            is_taken: false,
            is_told: false,
        };
        if outdated || self.has_ended || self.in_use() + 1 > self.limit {
            let why = if outdated {
                Eviction::Freed
            } else if self.has_ended {
                Eviction::Ended
            } else {
                Eviction::OverLimit
            };
            self.close(&conn, why, expected);
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
        self.dispatch(expected);
    }

    pub(super) fn open_breaker(&mut self, error: Arc<Error>, hangs_up: bool) {
        let now = self.clock;
        let start = self.last_start.unwrap();
        self.news_since = Some(now);
        self.outage = Some(Outage {
            error,
            earliest: start + SPACING,
            latest: start + LONGEST,
            hangs_up,
            quiet_since: None,
        });
    }

    /// A connect succeeded; that is not enough where the other side has been hanging up.
    pub(super) fn close_breaker(&mut self) {
        let now = self.clock;
        if let Some(outage) = self.outage.as_mut().filter(|outage| outage.hangs_up) {
            let since = *outage.quiet_since.get_or_insert(now);
            if now < since + LONGEST {
                let at = self.last_start.unwrap() + SPACING;
                (outage.earliest, outage.latest) = (at, at);
                return;
            }
        }
        self.outage = None;
    }

    /// What a lease that is about to end tells of the other side.
    fn signal(&mut self) -> PeerSignal {
        if self.random.chance(20) {
            PeerSignal::Silence
        } else if self.random.chance(self.hanging_up) {
            PeerSignal::HungUp
        } else {
            PeerSignal::Heard
        }
    }

    /// The breaker hears what a lease tells; whether that opens it shows in the end.
    pub(super) fn hear(&mut self, key: SlotKey, signal: PeerSignal, expected: &mut Expected) {
        let now = self.clock;
        let mut open = self.leased.iter().chain(&self.idle);
        let born = open.find(|conn| conn.key == key).map(|conn| conn.born);
        let is_news = born.is_some_and(|born| self.news_since.is_none_or(|at| born >= at));
        let hangs_up = self.outage.as_ref().is_some_and(|outage| outage.hangs_up);
        match (signal, born) {
            (PeerSignal::Heard, Some(_)) => {
                self.hang_ups = 0;
                if hangs_up && is_news {
                    self.outage = None;
                }
            }
            (PeerSignal::HungUp, Some(born)) if is_news && now < born + LONGEST => {
                self.hang_ups += 1;
                expected.warns = self.hang_ups > TOLERATED;
            }
            _ => {}
        }
    }

    /// Takes over the error that the core made, and checks the count.
    pub(super) fn heard(&mut self, expected: &Expected) {
        let counted = self.core.breaker().hang_ups() as usize;
        assert_eq!(counted, self.hang_ups.min(TOLERATED));
        if expected.warns {
            let error = Arc::clone(self.core.breaker().error().unwrap());
            self.open_breaker(error, true);
            self.is_refilling = false;
        }
    }

    pub(super) fn give_back(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.random.below(self.leases.len());
        let Lease { key, client, .. } = self.leases.swap_remove(index);
        let verdict = self.verdict();
        let client = match verdict {
            None if self.random.chance(50) => match self.make_idle(key, client) {
                Ok(()) => return self.check(&Expected::default()),
                Err(client) => client,
            },
            _ => client,
        };
        self.read_the_clock();
        let mut expected = Expected::default();
        let signal = self.signal();
        self.hear(key, signal, &mut expected);
        self.core.give_back(key, client, verdict, signal);
        self.heard(&expected);
        self.came_back(key, verdict, &mut expected);
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    /// A lease comes back fit, and is idle at once if there is nothing else to decide.
    fn make_idle(&mut self, key: SlotKey, client: Value) -> Result<(), Value> {
        if self.random.chance(50) {
            self.read_the_clock();
        }
        let now = self.clock;
        let signal = self.random.pick(&[
            PeerSignal::Silence,
            PeerSignal::Silence,
            PeerSignal::Heard,
            PeerSignal::HungUp,
        ]);
        let says_nothing_new = match signal {
            PeerSignal::Silence => true,
            PeerSignal::Heard => self.hang_ups == 0 && self.outage.is_none(),
            PeerSignal::HungUp => false,
        };
        let is_fit = find(&mut self.leased, key.id)
            .is_some_and(|conn| conn.doom.is_none() && conn.expires.is_none_or(|at| at > now));
        let is_used_up =
            find(&mut self.leased, key.id).is_some_and(|conn| is_used_up(conn, &self.rules));
        let stays = is_fit
            && !is_used_up
            && says_nothing_new
            && self.queue.is_empty()
            && !self.is_refilling
            && self.drainers == 0
            && self.in_use() <= self.limit;
        let made = self.core.make_idle(key, client, signal);
        assert_eq!(made.is_ok(), stays);
        if stays {
            self.came_back(key, None, &mut Expected::default());
        }
        made
    }

    pub(super) fn give_back_pinged(&mut self) {
        let Some(ping) = self.pings.pop() else {
            return;
        };
        let Lease { key, client, .. } = ping.lease;
        let verdict = self.verdict();
        self.read_the_clock();
        let silence = PeerSignal::Silence;
        self.core.give_back(key, client, verdict, silence);
        let mut expected = Expected::default();
        if let Some(mut conn) = self.came_back(key, verdict, &mut expected) {
            // As idle as before: behind those that were idle longer, and are still.
            conn.since = ping.since;
            self.idle.pop();
            let is_older = |other: &Conn| ping.older.contains(&(other.key.id, other.leases));
            let neighbour = self.idle.iter().rposition(is_older);
            let place = neighbour.map_or(0, |place| place + 1);
            self.idle.insert(place, conn);
        }
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    /// A lease came back and is idle, last in the order, unless something speaks against it.
    fn came_back(
        &mut self,
        key: SlotKey,
        verdict: Option<Eviction>,
        expected: &mut Expected,
    ) -> Option<Conn> {
        let now = self.clock;
        let is_over = self.in_use() > self.limit;
        let Some(mut conn) = remove(&mut self.leased, key.id) else {
            self.aborted -= 1;
            expected.aborted_value = Some(key.id);
            return None;
        };
        let is_too_old = conn.expires.is_some_and(|at| at <= now);
        let why = conn
            .doom
            .or(verdict)
            .or(is_over.then_some(Eviction::OverLimit))
            .or(is_too_old.then_some(Eviction::MaxLifetime))
            .or(is_used_up(&conn, &self.rules).then_some(Eviction::MaxUses));
        if let Some(why) = why {
            self.close(&conn, why, expected);
            return None;
        }
        conn.since = now;
        conn.answered = now;
        (conn.is_held, conn.is_taken, conn.is_told) = (false, false, false);
        self.idle.push(conn.clone());
        Some(conn)
    }

    /// A lease ends without coming back.
    pub(super) fn withdraw(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        self.read_the_clock();
        let mut expected = Expected::default();
        match self.random.below(3) {
            0 => {
                let close_when = self.random.pick(&[CloseWhen::Now, CloseWhen::Later]);
                let dead = self.dead();
                self.remove_dead(&dead, close_when, &mut expected);
                self.core.found_dead(dead, close_when);
            }
            1 => {
                let (key, client, signal) = self.end_lease(&mut expected);
                if let Some(conn) = remove(&mut self.leased, key.id) {
                    self.close(&conn, Eviction::Discarded, &mut expected);
                } else {
                    self.aborted -= 1;
                    expected.aborted_value = Some(key.id);
                }
                self.core.discard(key, client, signal);
            }
            _ => {
                let (key, _, signal) = self.end_lease(&mut expected);
                match remove(&mut self.leased, key.id) {
                    Some(conn) => {
                        let gone = self.depart(&conn, Eviction::Detached);
                        expected.gone.push(Gone {
                            has_value: false,
                            occupies: false,
                            ..gone
                        });
                    }
                    None => self.aborted -= 1,
                }
                self.core.detach(key, signal);
            }
        }
        self.heard(&expected);
        self.dispatch(&mut expected);
        self.check(&expected);
    }

    fn end_lease(&mut self, expected: &mut Expected) -> (SlotKey, Value, PeerSignal) {
        let index = self.random.below(self.leases.len());
        let Lease { key, client, .. } = self.leases.swap_remove(index);
        let signal = self.signal();
        self.hear(key, signal, expected);
        (key, client, signal)
    }

    /// A lease that proved dead on its way to its caller.
    pub(super) fn dead(&mut self) -> Dead<Value> {
        let index = self.random.below(self.leases.len());
        let lease = self.leases.swap_remove(index);
        Dead {
            lease,
            why: self.random.pick(&[Eviction::PeerClosed, Eviction::Unread]),
            silent: self.random.chance(self.hanging_up),
        }
    }

    pub(super) fn remove_dead(
        &mut self,
        dead: &Dead<Value>,
        close_when: CloseWhen,
        expected: &mut Expected,
    ) {
        let key = dead.lease.key;
        let first = find(&mut self.leased, key.id).is_some_and(|conn| conn.leases == 1);
        if dead.silent && first {
            self.hear(key, PeerSignal::HungUp, expected);
        }
        let calls_reaper = dead.why != Eviction::Unread;
        expected.wakes_reaper |= calls_reaper;
        let Some(conn) = remove(&mut self.leased, key.id) else {
            self.aborted -= 1;
            expected.aborted_value = Some(key.id);
            return;
        };
        let gone = self.depart(&conn, dead.why);
        if close_when == CloseWhen::Later && calls_reaper && self.has_reaper {
            self.left.push((key, gone));
        } else {
            self.hand_out(key, gone, expected);
        }
    }

    /// Some of what somebody closes is closed.
    pub(super) fn vacate(&mut self) {
        self.read_the_clock();
        let mut expected = Expected::default();
        if self.random.chance(20) {
            let most = self.random.below(3);
            let count = self.core.close_left(most);
            assert_eq!(count, most.min(self.left.len()));
            for _ in 0..count {
                let (key, gone) = self.left.pop().unwrap();
                self.hand_out(key, gone, &mut expected);
            }
            return self.check(&expected);
        }
        if self.closing.is_empty() {
            return;
        }
        let count = 1 + self.random.below(self.closing.len());
        let keys: Vec<SlotKey> = (0..count)
            .map(|_| {
                let index = self.random.below(self.closing.len());
                self.closing.swap_remove(index)
            })
            .collect();
        self.core.vacate(&keys);
        self.dispatch(&mut expected);
        self.check(&expected);
    }
}

/// Whether callers have had it as often as they may.
fn is_used_up(conn: &Conn, rules: &Rules) -> bool {
    let uses = conn.leases - conn.pings;
    rules.max_uses.is_some_and(|most| uses >= most)
}
