//! Every state of small pipelines: one or two lanes, two or three callers.
//!
//! The callers, leaders and writers are those of the random walks (`model/lane_world.rs`), in the
//! same steps; here each choice is taken each way. The clock stands still or moves by one step,
//! which is half of the longest time that anything asks for, so that each time is over now or is
//! not. The shortest round trip is given: near, far or unknown.

use std::time::Duration;

use super::world::{At, Caller, Config, Io, Leading, Message, Step, Then, World};
use super::{Call, Failure, Flight, Lane, Lanes, Lead, News, Phase, Report, Rules, Stage};
use crate::explore::{Ages, Choices, Digest, explore};

/// Half of the time for which no further lane is started.
const HALF: Duration = Duration::from_millis(50);
/// So long are small calls: no shorter than their numbers and their lengths.
const SMALL: usize = 8;
/// What is outstanding on a lane at most; what is longer goes out alone.
const MOST: usize = 3 * SMALL;
const LARGE: usize = MOST + 1;

/// One transition. The numbers are places in the lists of [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Call {
        len: usize,
        hurries: bool,
        is_first: bool,
    },
    Step(usize),
    Serve(usize),
    Cut(usize),
    /// The pool closes a connection on which nobody waits.
    Close(u32),
    /// Statistics are asked for, and that connection's lane is vacant then.
    FindClosed(usize),
    Pass,
    End,
}

impl crate::explore::World for World {
    type Config = Config;
    type Act = Act;

    fn new(config: &Config) -> Self {
        let mut world = Self::new(config);
        world.pin(config);
        world
    }

    fn acts(&self, config: &Config, acts: &mut Vec<Act>) {
        acts.clear();
        if self.callers.len() < config.callers {
            calls(config, acts);
        }
        let callers = 0..self.callers.len();
        acts.extend(callers.filter(|&at| self.can_step(at)).map(Act::Step));
        for (at, (_, wire)) in self.wires.iter().enumerate() {
            if !wire.is_broken && !wire.owed.is_empty() {
                acts.push(Act::Serve(at));
            }
            if config.cuts && !wire.is_broken {
                acts.push(Act::Cut(at));
            }
        }
        if config.recalls {
            acts.extend(self.left().map(Act::Close));
            acts.extend(self.closed().map(Act::FindClosed));
        }
        acts.extend(config.step.map(|_| Act::Pass));
        if config.ends && !self.has_ended {
            acts.push(Act::End);
        }
    }

    fn act(&mut self, act: Act, config: &Config, choices: &mut Choices) {
        match act {
            Act::Call {
                len,
                hurries,
                is_first,
            } => self.call(len, config.step.filter(|_| hurries), is_first),
            Act::Step(at) => self.step(at, config, choices),
            Act::Serve(at) => self.serve(at),
            Act::Cut(at) => self.cut(at),
            Act::Close(wire) => self.close_left(wire),
            Act::FindClosed(lane) => self.find_closed(lane),
            Act::Pass => self.pass(config.step.unwrap()),
            Act::End => self.end(),
        }
        self.pin(config);
        self.check(config);
    }

    fn digest(&self, config: &Config) -> u64 {
        Digester::new(self, config).all()
    }

    /// Everybody takes a step, and each server answers. Only if that changes nothing do those who
    /// sleep ask again by themselves; only if that changes nothing does time go by.
    fn go_on(&mut self, returns_first: bool, config: &Config, acts: &mut Vec<Act>) -> bool {
        if self.callers.is_empty() {
            // Whatever drifts is drained or replaced by who comes next.
            let drifts = |lane: &Lane| lane.phase == Phase::Drifting;
            if !self.lanes.lanes.iter().any(drifts) {
                self.check_quiet();
                return false;
            }
            let (len, hurries, is_first) = (SMALL, false, false);
            let next = Act::Call {
                len,
                hurries,
                is_first,
            };
            self.fair(next, config, acts);
            return true;
        }
        let before = self.digest(config);
        for round in 0..4 {
            if round > 1 && config.step.is_some() {
                self.fair(Act::Pass, config, acts);
            }
            let many = self.callers.len();
            for i in 0..many {
                // From the last one on, so that who leaves does not move the others.
                let at = if returns_first { many - 1 - i } else { i };
                if at < self.callers.len() && self.is_awake(at, round > 0) {
                    self.fair(Act::Step(at), config, acts);
                }
            }
            for at in 0..self.wires.len() {
                if !self.wires[at].1.owed.is_empty() {
                    self.fair(Act::Serve(at), config, acts);
                }
            }
            if self.digest(config) != before {
                return true;
            }
        }
        panic!("somebody waits for ever");
    }
}

impl World {
    fn fair(&mut self, act: Act, config: &Config, acts: &mut Vec<Act>) {
        acts.push(act);
        crate::explore::World::act(self, act, config, &mut Choices::First);
    }

    fn pin(&mut self, config: &Config) {
        if let Some(shortest) = config.shortest {
            self.lanes.shortest = shortest;
        }
    }

    /// Whether a caller has something to do, where no read wakes up without a byte.
    fn is_awake(&self, at: usize, asks_by_itself: bool) -> bool {
        let caller = &self.callers[at];
        match &caller.at {
            At::Asleep { .. } if !asks_by_itself => self.message_for(caller).is_some(),
            At::Leading(Leading {
                lane,
                step: Step::Read,
                ..
            }) => {
                let (io, mut wires) = (&self.ios[*lane], self.wires.iter());
                let (_, wire) = wires.find(|(number, _)| Some(*number) == io.wire).unwrap();
                wire.is_broken || !wire.answers.is_empty() || caller.is_late(self.now)
            }
            _ => self.can_step(at),
        }
    }
}

/// Each kind of call that there is.
fn calls(config: &Config, acts: &mut Vec<Act>) {
    for is_first in [false, true] {
        for hurries in [false, true] {
            let may = (config.firsts || !is_first) && (config.step.is_some() || !hurries);
            let call = |&len| Act::Call {
                len,
                hurries,
                is_first,
            };
            acts.extend(config.sizes.iter().filter(|_| may).map(call));
        }
    }
}

/// What a state is told apart by. Whatever has a counter counts from where it matters; a caller, or
/// the place of one that has gone, is a number given in the order in which they come up.
struct Digester<'a> {
    world: &'a World,
    config: &'a Config,
    digest: Digest,
}

impl<'a> Digester<'a> {
    fn new(world: &'a World, config: &'a Config) -> Self {
        Self {
            world,
            config,
            digest: Digest::new(world.now, Ages::default()),
        }
    }

    fn all(mut self) -> u64 {
        let world = self.world;
        let mut callers: Vec<(u64, &Caller)> = world
            .callers
            .iter()
            .map(|caller| (self.alone(caller), caller))
            .collect();
        callers.sort_by_key(|(alone, caller)| (*alone, caller.id));
        for (alone, caller) in callers {
            self.digest.put(alone);
            self.digest.id(u64::from(caller.id));
            match &caller.at {
                At::Leading(leading) => {
                    if let Step::HandOver(mat, lead) = &leading.step {
                        let next = world.callers.iter().find(|other| other.mat.is(mat));
                        self.digest.id(next.map_or(0, |next| u64::from(next.id)));
                        self.lead(lead);
                    }
                }
                At::Writing { bytes, report, .. } => {
                    self.bytes(bytes);
                    self.report(report);
                }
                At::Asleep { .. } | At::Over => {}
            }
            if let Some(message) = world.message_for(caller) {
                self.message(&world.post[message].1);
            }
        }
        self.digest.put(u64::from(world.has_ended));
        self.lanes(&world.lanes);
        self.digest.finish()
    }

    /// What can be said of a caller without another one: callers are in the order of that.
    fn alone(&self, caller: &Caller) -> u64 {
        let Caller {
            id: _,
            len,
            deadline,
            key,
            mat: _,
            at,
            outcome,
            was_touched,
            was_executed,
        } = caller;
        let lanes = &self.world.lanes;
        let mut digest = Digest::new(self.world.now, Ages::default());
        digest.put(*len as u64);
        digest.due(*deadline);
        digest.put(outcome.map_or(0, |outcome| 1 + outcome as u64));
        for flag in [was_touched, was_executed] {
            digest.put(u64::from(*flag));
        }
        let Call {
            seat: _,
            stage,
            leads,
            request: _,
            deadline: _,
        } = &lanes.calls[*key];
        digest.put(u64::from(*leads) + 2 * u64::from(lanes.watcher == Some(*key)));
        match *stage {
            Stage::Queued => {
                let mut places = lanes.queue.iter().chain(&lanes.large);
                digest.put(1);
                digest.put(places.position(|other| other == key).unwrap() as u64);
            }
            Stage::Own => digest.put(2),
            Stage::Sent(at, number) => {
                digest.put(3 + at as u64);
                digest.put(number - lanes.lanes[at].first);
            }
            Stage::Over => digest.put(0),
        }
        match at {
            At::Asleep {
                asks_again,
                has_given_up,
            } => {
                digest.put(1 + u64::from(*asks_again) + 2 * u64::from(*has_given_up));
            }
            At::Writing { lane, .. } => digest.put(10 + *lane as u64),
            At::Leading(leading) => {
                digest.put(20 + leading.lane as u64);
                digest.put(u64::from(leading.own) + 2 * u64::from(leading.panics));
                let (step, more) = match leading.step {
                    Step::Begin { others, stale } => (0, u64::from(others) + 2 * u64::from(stale)),
                    Step::Connect { others } => (1, u64::from(others)),
                    Step::Ask => (2, 0),
                    Step::Write => (3, 0),
                    Step::WriteAndRead => (13, 0),
                    Step::WriteOwn(done) => (4, done as u64),
                    Step::Read => (5, 0),
                    Step::TimeIsUp(then) => (
                        6,
                        match then {
                            Then::Ask => 0,
                            Then::Break => 1,
                            Then::Leave => 2,
                        },
                    ),
                    Step::HandOver(..) => (7, 0),
                    Step::Drift => (9, 0),
                    Step::Shut => (10, 0),
                    Step::Break => (11, 0),
                    Step::Leave { is_clean } => (12, u64::from(is_clean)),
                };
                digest.put(step);
                digest.put(more);
            }
            At::Over => digest.put(0),
        }
        digest.finish()
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::Reply(id) => {
                self.digest.put(1);
                self.digest.id(u64::from(*id));
            }
            Message::News(News::Failed(failure)) => self.digest.put(match failure {
                Failure::Lost(_) => 2,
                Failure::Unsent(_) => 3,
                Failure::NoConnection(_) => 4,
                Failure::TimedOut { sent } => 6 + u64::from(*sent),
            }),
            Message::News(News::Watch) => self.digest.put(8),
            Message::News(News::Lead(lead)) => {
                self.digest.put(5);
                self.lead(lead);
            }
        }
    }

    fn lead(&mut self, lead: &Lead) {
        let Lead {
            lane,
            own,
            others,
            stale,
        } = lead;
        self.digest.put(*lane as u64);
        for flag in [own, others, stale] {
            self.digest.put(u64::from(*flag));
        }
    }

    fn report(&mut self, report: &Report) {
        let Report {
            bytes,
            writes: _,
            failed,
            heard,
        } = report;
        self.digest.put(*bytes as u64);
        self.digest.put(u64::from(*failed) + 2 * u64::from(*heard));
    }

    fn io(&mut self, io: &Io) {
        let Io {
            wire,
            left,
            out,
            report,
            has_half,
            replies,
            is_broken,
        } = io;
        for flag in [*has_half, *is_broken, left.is_some()] {
            self.digest.put(u64::from(flag));
        }
        self.report(report);
        self.bytes(out);
        self.ids(replies.iter());
        let number = wire.or(*left);
        let mut wires = self.world.wires.iter();
        let wire = wires.find(|(other, _)| Some(*other) == number);
        let Some((_, wire)) = wire else {
            return self.digest.put(0);
        };
        self.digest.put(1 + u64::from(wire.is_broken));
        self.bytes(&wire.partial);
        self.ids(wire.owed.iter());
        self.ids(wire.answers.iter());
    }

    fn ids<'b>(&mut self, ids: impl ExactSizeIterator<Item = &'b u32>) {
        self.digest.put(ids.len() as u64);
        for id in ids {
            self.digest.id(u64::from(*id));
        }
    }

    /// Requests, or parts of them: each has its number somewhere else too.
    fn bytes(&mut self, bytes: &[u8]) {
        self.digest.put(bytes.len() as u64);
    }

    /// The caller of a call, or the place of one that has gone.
    fn call(&mut self, key: usize) {
        let caller = self.world.callers.iter().find(|caller| caller.key == key);
        let id = caller.map_or(1 << 40 | key as u64, |caller| u64::from(caller.id));
        self.digest.id(id);
    }

    fn lanes(&mut self, lanes: &super::world::Machine) {
        let Lanes {
            rules: _,
            now: _,
            calls,
            over,
            queue,
            large,
            watcher: _,
            lanes,
            grow_at,
            shortest: _,
            stats: _,
            ended: _,
            news: _,
        } = lanes;
        for (lane, io) in lanes.iter().zip(&self.world.ios) {
            self.lane(lane);
            self.io(io);
        }
        if lanes.len() > 1 {
            self.digest.due(Some(*grow_at));
        }
        for queue in [queue, large] {
            self.digest.put(queue.len() as u64);
            for &key in queue {
                self.call(key);
            }
        }
        for &key in over {
            self.call(key);
            self.digest
                .put(u64::from(super::Seat::is_free(&calls[key].seat)));
        }
    }

    fn lane(&mut self, lane: &Lane) {
        let Lane {
            phase,
            shared,
            writing,
            buffer: _,
            rounds,
            reading,
            own_first,
            overdue,
            wanted,
            failing,
            flights,
            first: _,
            outstanding: _,
            booked,
            written,
        } = lane;
        self.digest.put(*phase as u64);
        for flag in [shared, writing, own_first, overdue, wanted, failing] {
            self.digest.put(u64::from(*flag));
        }
        self.digest.age(*reading, super::flow::LONG);
        // They count while somebody writes who does not lead.
        self.digest.put(if *writing { *rounds as u64 } else { 0 });
        self.digest.put(booked - written);
        self.digest.put(flights.len() as u64);
        for flight in flights {
            let Flight {
                key,
                len,
                start,
                sent,
                alone: _,
            } = flight;
            match key {
                None => self.digest.put(0),
                Some(key) => self.call(*key),
            }
            self.digest.put(*len as u64);
            self.digest.put(u64::from(start < written));
            if self
                .config
                .shortest
                .flatten()
                .is_some_and(|far| !far.is_zero())
            {
                self.digest.age(Some(*sent), 2 * HALF);
            }
        }
    }
}

fn config(lanes: usize, callers: usize) -> Config {
    Config {
        rules: Rules {
            lanes,
            max_in_flight: 2,
            max_bytes: MOST,
        },
        callers,
        step: None,
        shortest: Some(None),
        is_shared: true,
        clients_panic: false,
        firsts: false,
        sizes: &[SMALL],
        cuts: false,
        parts: false,
        nonsense: false,
        recalls: false,
        refuses: false,
        ends: false,
    }
}

/// With everything that may happen to a plain stream while the clock stands still.
fn stream(lanes: usize) -> Config {
    Config {
        sizes: &[SMALL, LARGE],
        cuts: true,
        parts: true,
        nonsense: true,
        recalls: true,
        refuses: true,
        ends: true,
        ..config(lanes, 2)
    }
}

#[test]
fn one_lane() {
    let config = Config {
        firsts: true,
        ..stream(1)
    };
    explore::<World>("one lane", &config);
}

#[test]
fn one_lane_of_clients_that_panic() {
    let config = Config {
        is_shared: false,
        clients_panic: true,
        ..stream(1)
    };
    explore::<World>("one lane, clients that panic", &config);
}

#[test]
fn one_lane_and_time_that_is_up() {
    let config = Config {
        step: Some(HALF),
        cuts: true,
        parts: true,
        recalls: true,
        ..config(1, 2)
    };
    explore::<World>("one lane, time", &config);
}

#[test]
fn one_lane_to_a_server_far_away() {
    let config = Config {
        step: Some(HALF),
        shortest: Some(Some(HALF)),
        cuts: true,
        ..config(1, 2)
    };
    explore::<World>("one lane, far away", &config);
}

#[test]
fn one_lane_of_three_callers() {
    let config = Config {
        sizes: &[SMALL, LARGE],
        cuts: true,
        recalls: true,
        ..config(1, 3)
    };
    explore::<World>("one lane, three callers", &config);
}

/// One that fills a lane waits behind one that does not, and for one that was given up.
#[test]
fn one_lane_of_three_callers_and_time_that_is_up() {
    let config = Config {
        step: Some(HALF),
        sizes: &[SMALL, MOST],
        ..config(1, 3)
    };
    explore::<World>("one lane, three callers, time", &config);
}

#[test]
fn two_lanes() {
    explore::<World>("two lanes", &stream(2));
}

#[test]
fn two_lanes_and_time_that_is_up() {
    let config = Config {
        step: Some(HALF),
        refuses: true,
        ..config(2, 2)
    };
    explore::<World>("two lanes, time", &config);
}

#[test]
fn two_lanes_of_three_callers() {
    let config = Config {
        cuts: true,
        recalls: true,
        ..config(2, 3)
    };
    explore::<World>("two lanes, three callers", &config);
}
