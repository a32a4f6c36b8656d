//! Every state of small pipelines: one or two lanes, two or three callers.
//!
//! The callers, leaders and writers are those of the random walks (`model/lane_world.rs`), in the
//! same steps; here each choice is taken each way. The clock stands still or moves by one step,
//! which is half of the longest time that anything asks for, so that each time is over now or is
//! not. The shortest round trip is given: near, far or unknown.

#[path = "lanes/digester.rs"]
mod digester;

use std::time::Duration;

use super::world::{At, Caller, Config, Io, Leading, Message, Step, Then, World};
use super::{Call, Failure, Flight, Lane, Lanes, Lead, News, Phase, Report, Rules, Stage};
use crate::explore::{Ages, Choices, Digest, explore};
use digester::Digester;

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
