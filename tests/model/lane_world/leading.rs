//! What a leader does, as `src/pipeline/leader.rs` has it.

use super::*;

impl World {
    /// What a caller does that leads no more.
    fn leave(&mut self, at: usize, leading: &Leading) -> At {
        if !leading.panics {
            return At::Asleep {
                asks_again: false,
                has_given_up: false,
            };
        }
        let message = self.message_for(&self.callers[at]);
        self.post.remove(message.expect("a call is left behind"));
        self.callers[at].outcome = Some(Outcome::Sent);
        At::Over
    }

    /// What a `Leader` does.
    pub(super) fn lead(
        &mut self,
        at: usize,
        mut leading: Leading,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        let lane = leading.lane;
        match std::mem::replace(&mut leading.step, Step::Ask) {
            Step::Begin { others, stale } => {
                self.begin(&mut leading, others, stale, config, choices);
            }
            Step::Connect { others } => return self.connect(at, leading, others, config, choices),
            Step::Ask => return self.ask(at, leading, config, choices),
            step @ (Step::Write | Step::WriteAndRead) => {
                self.write_out(at, &mut leading, step, config, choices);
            }
            Step::WriteOwn(done) => self.write_own(at, &mut leading, done, config, choices),
            Step::Read => self.read(at, &mut leading, config, choices),
            Step::TimeIsUp(then) => {
                self.time_is_up(at, true);
                leading.step = match then {
                    Then::Ask => Step::Ask,
                    Then::Break => Step::Break,
                    Then::Leave => Step::Leave { is_clean: false },
                };
            }
            Step::HandOver(mat, lead) => {
                if !self.write_last(lane, config, choices) {
                    leading.panics = true;
                    leading.step = Step::Break;
                    return At::Leading(leading);
                }
                self.tell(mat, Message::News(News::Lead(lead)));
                return self.leave(at, &leading);
            }
            Step::Drift => {
                self.with(|lanes| lanes.drift(lane));
                return self.leave(at, &leading);
            }
            Step::Break => self.break_lane(at, &mut leading),
            Step::Shut => {
                self.shut(lane);
                self.ios[lane].is_broken = true;
                return self.leave(at, &leading);
            }
            Step::Leave { is_clean } => {
                let io = &mut self.ios[lane];
                let has_half = std::mem::take(&mut io.has_half);
                if let Some(wire) = io.wire {
                    let wire = self.close(wire);
                    let is_quiet = wire.owed.is_empty()
                        && wire.answers.is_empty()
                        && wire.partial.is_empty()
                        && !has_half;
                    assert!(
                        is_quiet || !is_clean || wire.is_broken,
                        "a lease goes back with replies outstanding"
                    );
                }
                self.dropped += self.lanes.lanes[lane].flights.len() as u64;
                self.overdue[lane] = false;
                self.with(|lanes| lanes.vacate(lane));
                return self.leave(at, &leading);
            }
        }
        At::Leading(leading)
    }

    fn begin(
        &mut self,
        leading: &mut Leading,
        others: bool,
        stale: bool,
        config: &Config,
        choices: &mut Choices,
    ) {
        let lane = leading.lane;
        if let Some(left) = self.ios[lane].left.take() {
            let is_there = self.wires.iter().any(|(number, _)| *number == left);
            self.ios[lane].wire = is_there.then_some(left);
        }
        if stale {
            let wire = self.ios[lane].wire;
            let has_come = wire.is_some_and(|wire| self.wire(wire).has_come());
            if has_come {
                let mut io = std::mem::take(&mut self.ios[lane]);
                read_from(self.wire(wire.unwrap()), &mut io, config, choices);
                self.ios[lane] = io;
            } else {
                self.dropped += self.lanes.lanes[lane].flights.len() as u64;
                self.overdue[lane] = false;
                self.with(|lanes| lanes.restart(lane));
                if let Some(wire) = wire {
                    self.close(wire);
                }
            }
        }
        let io = &mut self.ios[lane];
        leading.step = match io.wire {
            None => {
                *io = Io::default();
                Step::Connect { others }
            }
            Some(_) if io.is_broken => Step::Break,
            // What the leader before could not write in its time.
            Some(_) if leading.own && !io.out.is_empty() => Step::Write,
            Some(_) => Step::Ask,
        };
    }

    fn connect(
        &mut self,
        at: usize,
        mut leading: Leading,
        others: bool,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        #[derive(Clone, Copy)]
        enum Way {
            Connected,
            Waits,
            Fails,
            Panics,
        }
        let (lane, key) = (leading.lane, self.callers[at].key);
        if self.callers[at].is_late(self.now) {
            leading.step = Step::TimeIsUp(Then::Leave);
            return At::Leading(leading);
        }
        let mut ways = Vec::new();
        if !self.has_ended {
            ways.push((6, Way::Connected));
        }
        if self.has_ended || config.refuses {
            ways.push((1, Way::Fails));
        }
        if config.refuses && !self.has_ended {
            ways.push((2, Way::Waits));
        }
        if config.clients_panic {
            ways.push((1, Way::Panics));
        }
        match choices.pick(&ways) {
            Way::Connected => {
                let wire = self.next_wire;
                self.next_wire += 1;
                self.wires.push((wire, Wire::default()));
                self.ios[lane].wire = Some(wire);
                leading.step = Step::Ask;
            }
            Way::Waits => leading.step = Step::Connect { others },
            Way::Panics => {
                leading.panics = true;
                leading.step = Step::Break;
            }
            Way::Fails if others && !self.has_ended => {
                let request = self.callers[at].request();
                if self.with(|lanes| lanes.stand_back(lane, key, &request)) {
                    return self.leave(at, &leading);
                }
                leading.step = Step::Connect { others: false };
            }
            Way::Fails => {
                let error = Arc::new(Error::Ended);
                self.with(|lanes| lanes.no_connection(lane, key, &error));
                return self.leave(at, &leading);
            }
        }
        At::Leading(leading)
    }

    fn ask(
        &mut self,
        at: usize,
        mut leading: Leading,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        let (lane, key) = (leading.lane, self.callers[at].key);
        let has_replies = self.report(lane);
        if has_replies && self.lanes.lanes[lane].flights.is_empty() {
            // Another one may have come with these.
            if config.nonsense && choices.is_hit(12) {
                let whose = self.with(|lanes| lanes.answered(lane));
                assert!(matches!(whose, Whose::Unasked));
                leading.step = Step::Break;
                return At::Leading(leading);
            }
        }
        let request = self.callers[at].request();
        let condition = Condition {
            wanted: config.recalls && choices.is_hit(12),
            shared: config.is_shared,
        };
        let own = leading.own.then_some((key, &request[..]));
        let mut out = std::mem::take(&mut self.ios[lane].out);
        let next = self.with(|lanes| lanes.next_step(lane, own, condition, &mut out));
        let io = &mut self.ios[lane];
        io.out = out;
        leading.step = match next {
            Next::Write => Step::Write,
            Next::WriteAndRead => Step::WriteAndRead,
            Next::WriteOwn => Step::WriteOwn(0),
            Next::Read => {
                assert!(io.out.is_empty(), "a leader reads before it has written");
                Step::Read
            }
            Next::HandOver(mat, lead) => Step::HandOver(mat, lead),
            Next::Pass => return self.leave(at, &leading),
            Next::Release => {
                assert!(io.out.is_empty(), "a lease goes back before all is written");
                Step::Leave {
                    is_clean: !io.has_half,
                }
            }
            Next::Discard => Step::Leave { is_clean: false },
            Next::Drift => {
                io.left = io.wire.take();
                Step::Drift
            }
        };
        At::Leading(leading)
    }

    /// What `Io::report` does; whether there were replies.
    fn report(&mut self, lane: usize) -> bool {
        let io = &mut self.ios[lane];
        let (report, replies) = (
            std::mem::take(&mut io.report),
            std::mem::take(&mut io.replies),
        );
        self.lanes.advance(self.now);
        self.lanes.report(lane, &report);
        self.overdue[lane] &= !report.heard;
        for &reply in &replies {
            self.books.replies += 1;
            match self.lanes.answered(lane) {
                Whose::Caller(mat) => self.tell(mat, Message::Reply(reply)),
                Whose::Nobody => {}
                Whose::Unasked => panic!("a reply that was not asked for"),
            }
        }
        !replies.is_empty()
    }

    fn write_out(
        &mut self,
        at: usize,
        leading: &mut Leading,
        step: Step,
        config: &Config,
        choices: &mut Choices,
    ) {
        let lane = leading.lane;
        let out = std::mem::take(&mut self.ios[lane].out);
        let reads = matches!(step, Step::WriteAndRead);
        assert!(
            reads || self.writers(lane) == 0,
            "a leader writes while another does"
        );
        leading.step = match self.write_by(at, lane, &out, !reads, config, choices) {
            Wrote::All if reads => Step::Read,
            Wrote::All => Step::Ask,
            Wrote::Part(count) => {
                self.ios[lane].out = out[count..].to_vec();
                step
            }
            Wrote::Late => {
                self.ios[lane].out = out;
                Step::TimeIsUp(Then::Ask)
            }
            Wrote::Panic => {
                leading.panics = true;
                Step::Break
            }
        };
    }

    fn write_own(
        &mut self,
        at: usize,
        leading: &mut Leading,
        done: usize,
        config: &Config,
        choices: &mut Choices,
    ) {
        let (lane, request) = (leading.lane, self.callers[at].request());
        assert_eq!(self.writers(lane), 0, "a leader writes while another does");
        leading.step = match self.write_by(at, lane, &request[done..], true, config, choices) {
            Wrote::All => Step::Ask,
            Wrote::Part(count) => Step::WriteOwn(done + count),
            Wrote::Late => Step::TimeIsUp(Then::Break),
            Wrote::Panic => {
                leading.panics = true;
                Step::Break
            }
        };
    }

    /// What `Io::write` does, by its deadline if it may block.
    fn write_by(
        &mut self,
        at: usize,
        lane: usize,
        bytes: &[u8],
        may_block: bool,
        config: &Config,
        choices: &mut Choices,
    ) -> Wrote {
        #[derive(Clone, Copy, PartialEq)]
        enum Way {
            Writes,
            IsLate,
            Panics,
        }
        let mut ways = vec![(6, Way::Writes)];
        if may_block && config.parts && self.callers[at].is_late(self.now) {
            ways.push((6, Way::IsLate));
        }
        if config.clients_panic {
            ways.push((1, Way::Panics));
        }
        let way = choices.pick(&ways);
        if way == Way::IsLate {
            return Wrote::Late;
        }
        let wrote = if way == Way::Panics {
            Err(())
        } else {
            self.write(lane, bytes, false, config, choices)
        };
        let report = &mut self.ios[lane].report;
        if let Ok(count) = wrote {
            report.bytes += count;
            report.writes += 1;
            self.books.writes += 1;
            return if count == bytes.len() {
                Wrote::All
            } else {
                Wrote::Part(count)
            };
        }
        // It may have sent a part.
        report.bytes += if config.clients_panic { bytes.len() } else { 0 };
        if way == Way::Panics {
            return Wrote::Panic;
        }
        report.writes += 1;
        report.failed = true;
        self.books.writes += 1;
        self.shut(lane);
        Wrote::All
    }

    /// What a leader does whose call is over, before it hands its lane over: it writes if that
    /// cannot block. False if that panicked.
    fn write_last(&mut self, lane: usize, config: &Config, choices: &mut Choices) -> bool {
        if self.ios[lane].out.is_empty() || config.parts && choices.is_hit(4) {
            return true;
        }
        assert_eq!(self.writers(lane), 0, "a leader writes while another does");
        let out = std::mem::take(&mut self.ios[lane].out);
        if config.clients_panic && choices.is_hit(12) {
            self.ios[lane].report.bytes += out.len();
            return false;
        }
        let wrote = self.write(lane, &out, true, config, choices);
        let report = &mut self.ios[lane].report;
        report.writes += 1;
        self.books.writes += 1;
        if wrote.is_ok() || config.clients_panic {
            report.bytes += out.len();
        }
        if wrote.is_err() {
            report.failed = true;
            self.shut(lane);
        }
        true
    }

    fn read(&mut self, at: usize, leading: &mut Leading, config: &Config, choices: &mut Choices) {
        #[derive(Clone, Copy)]
        enum Way {
            Reads,
            IsNonsense,
            FindsTheEnd,
            IsLate,
            /// It was interrupted, or its time-out was too short.
            WakesUp,
        }
        let (lane, caller) = (leading.lane, &self.callers[at]);
        let stage = self.lanes.calls[caller.key].stage;
        assert_ne!(stage, Stage::Over, "a call that is over waits for others");
        let is_late = caller.is_late(self.now);
        let mut io = std::mem::take(&mut self.ios[lane]);
        let wire = self.wire(io.wire.unwrap());
        let mut ways = Vec::new();
        if !wire.answers.is_empty() {
            ways.push((24, Way::Reads));
            if config.nonsense {
                ways.push((1, Way::IsNonsense));
            }
        } else if wire.is_broken {
            ways.push((24, Way::FindsTheEnd));
        }
        if is_late {
            ways.push((6, Way::IsLate));
        }
        ways.push((1, Way::WakesUp));
        leading.step = match choices.pick(&ways) {
            Way::Reads => {
                read_from(wire, &mut io, config, choices);
                Step::Ask
            }
            Way::IsNonsense | Way::FindsTheEnd => Step::Break,
            Way::IsLate => Step::TimeIsUp(Then::Ask),
            Way::WakesUp => Step::Ask,
        };
        self.ios[lane] = io;
    }

    /// What `Leader::break_lane` does.
    fn break_lane(&mut self, at: usize, leading: &mut Leading) {
        let (lane, key) = (leading.lane, self.callers[at].key);
        self.ios[lane].is_broken = false;
        self.report(lane);
        let error = Arc::new(io::Error::other("broken"));
        let dropped = self.lanes.lanes[lane].flights.iter();
        let dropped = dropped.filter(|flight| flight.key.is_none()).count();
        let own = leading.own.then_some(key);
        leading.step = if self.with(|lanes| lanes.broke(lane, own, &error)) {
            self.dropped += dropped as u64;
            Step::Leave { is_clean: false }
        } else {
            assert!(!leading.panics, "a call is left behind");
            Step::Shut
        };
    }
}

/// How a leader's write ends.
enum Wrote {
    /// There is nothing left to do, even if it failed.
    All,
    Part(usize),
    Late,
    Panic,
}

/// Reads what has come, or a part of it.
fn read_from(wire: &mut Wire, io: &mut Io, config: &Config, choices: &mut Choices) {
    io.report.heard = true;
    let all = wire.answers.len();
    let mut ways = vec![(2, all)];
    if all > 1 {
        ways.push((2, 1));
    }
    if config.nonsense && !io.has_half {
        ways.push((1, 0));
    }
    let count = choices.pick(&ways);
    io.has_half = count == 0;
    io.replies.extend(wire.answers.drain(..count));
}
