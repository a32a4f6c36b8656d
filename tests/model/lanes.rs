//! The lanes of a pipeline in random walks: callers, leaders, writers and servers that do whatever
//! they may, in any order. `JACKPOT_SEED` walks one seed, `JACKPOT_SEEDS` that many.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::Rules;
use super::world::{At, Config, World};
use crate::explore::{Choices, Random};

const STEPS: usize = 600;

#[test]
fn random_walks_of_callers_and_leaders() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match (number("JACKPOT_SEED"), number("JACKPOT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(if cfg!(miri) { 3 } else { 300 }),
    };
    for seed in seeds {
        let walk = catch_unwind(AssertUnwindSafe(|| Walk::new(seed).run()));
        if let Err(panic) = walk {
            eprintln!("to see it again: JACKPOT_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

struct Walk {
    random: Random,
    /// Calls that are too large for a lane keep others from writing for themselves.
    has_large: bool,
    choices: Choices,
    config: Config,
    world: World,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let rules = Rules {
            lanes: 1 + random.below(3),
            max_in_flight: 1 + random.below(8),
            max_bytes: 24 + random.below(200),
        };
        let clients_panic = random.below(3) == 0;
        let has_large = random.below(2) == 0;
        let config = Config {
            rules,
            callers: 2 + random.below(11),
            step: None,
            shortest: None,
            is_shared: !clients_panic,
            clients_panic,
            firsts: true,
            sizes: &[],
            cuts: true,
            parts: true,
            nonsense: true,
            recalls: true,
            refuses: true,
            ends: random.below(4) == 0,
        };
        Self {
            choices: Choices::Random(Random(!seed)),
            world: World::new(&config),
            has_large,
            random,
            config,
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            let (callers, wires) = (self.world.callers.len(), self.world.wires.len());
            match self.random.below(12) {
                0..=2 if callers < self.config.callers => self.call(),
                3 => self.pass_time(),
                4..=5 if wires > 0 => self.world.serve(self.random.below(wires)),
                6 => self.trouble(),
                _ if callers > 0 => {
                    let at = self.random.below(callers);
                    self.step(at);
                }
                _ => {}
            }
            self.world.check(&self.config);
        }
        self.choices = Choices::First;
        self.calm_down();
        // Whatever drifts is drained or replaced by who comes next.
        for _ in 0..self.config.rules.lanes {
            self.world.call(8, None, false);
            self.calm_down();
        }
        self.world.check_quiet();
    }

    /// No trouble any more: everything that waits must come to its end.
    fn calm_down(&mut self) {
        let mut idle = 0;
        while !self.world.callers.is_empty() {
            let before = self.world.callers.len();
            self.pass_time();
            for wire in 0..self.world.wires.len() {
                self.world.serve(wire);
            }
            for at in (0..before).rev() {
                self.step(at);
                self.world.check(&self.config);
            }
            idle = if self.world.callers.len() < before {
                0
            } else {
                idle + 1
            };
            assert!(idle < 200, "somebody waits for ever: {:?}", self.waiting());
        }
    }

    fn waiting(&self) -> Vec<(u32, &At)> {
        let callers = self.world.callers.iter();
        callers.map(|caller| (caller.id, &caller.at)).collect()
    }

    fn step(&mut self, at: usize) {
        if self.world.can_step(at) {
            self.world.step(at, &self.config, &mut self.choices);
        }
    }

    fn call(&mut self) {
        let most = self.config.rules.max_bytes;
        let len = if self.has_large && self.random.below(12) == 0 {
            most + 1 + self.random.below(40)
        } else {
            // Small ones, so that many are in flight, and some that fill a lane.
            let part = [1, 8][self.random.below(2)];
            8 + self.random.below((most - 8) / part)
        };
        let hurries = self.random.below(2) == 0;
        let time = Duration::from_micros(1 + self.random.below(3000) as u64);
        let is_first = self.random.below(8) == 0;
        self.world.call(len, hurries.then_some(time), is_first);
    }

    fn pass_time(&mut self) {
        let time = self.random.below(400) as u64;
        self.world.pass(Duration::from_micros(time));
    }

    fn trouble(&mut self) {
        let wires = self.world.wires.len();
        match self.random.below(8) {
            0..=1 if wires > 0 => self.world.cut(self.random.below(wires)),
            2 => self.world.refuse(),
            3 => {
                let left: Vec<_> = self.world.left().collect();
                if !left.is_empty() {
                    self.world.close_left(left[self.random.below(left.len())]);
                }
            }
            4 => {
                let closed = self.world.closed().next();
                if let Some(lane) = closed {
                    self.world.find_closed(lane);
                }
            }
            5 if self.config.ends && self.random.below(10) == 0 => self.world.end(),
            _ => {}
        }
    }
}
