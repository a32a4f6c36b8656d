//! Every state of small pools, instead of random walks through large ones.
//!
//! A breadth-first search over the core and all that acts on it: two or three places, two or three
//! callers, a clock that stands still or moves by one of a few steps. From each state everything
//! is done that can happen next; after each transition the invariants are checked, and from each
//! new state a fair schedule must serve everybody. Breadth first, so that the first fault found is
//! one that needs the fewest steps; the steps are printed.
//!
//! What the core draws is pinned to the least or the greatest, and whether there is a convoy is given:
//! its counter is checked by itself. Times are compared up to the threshold that asks for them. Not
//! in it: `wait_ready`, `max_uses`, `max_waiting`, leases abandoned by a pipeline, overdue leases.
//! Those have the random walks of `model`.
//!
//! `JACKPOT_STATES` is the most states of each configuration (1,500 without it, 0 for all).
//!
//! The search is our own, not the crate stateright's: that wants a state that can be hashed as it
//! is, keeps whole states where we keep 64 bits and where they came from, and checks liveness only
//! on paths without a cycle, which a clock that may always tick does not have. What is left of it
//! is the hundred lines below. It is also what runs with the oldest versions, without any
//! development dependency.

mod digest;
mod world;

use std::collections::{HashMap, HashSet, VecDeque};
use std::env;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

pub(crate) use digest::{Ages, Digest};
use world::{Act, World};

use crate::state::core::Rules;

const SPACING: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_millis(4);
/// So many steps are enough to serve everybody.
const MOST_FAIR: usize = 200;

/// What there is, and what may happen.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
struct Config {
    limit: usize,
    /// Those to which it may be set.
    limits: &'static [usize],
    callers: usize,
    rules: Rules,
    /// By how many microseconds the clock may move at once.
    steps: &'static [u64],
    ages: Ages,
    /// How long a connection does not answer before it is pinged.
    pings: Option<Duration>,
    has_reaper: bool,
    has_convoy: bool,
    draws_greatest: bool,
    allocates: bool,
    detaches: bool,
    fails_permanently: bool,
    sweeps: bool,
    /// Free, end and drain.
    frees: bool,
    changes_factory: bool,
}

impl Config {
    fn new(limit: usize, callers: usize) -> Self {
        Self {
            limit,
            limits: &[],
            callers,
            rules: Rules {
                max_connecting: 2,
                ..Rules::PLAIN
            },
            steps: &[],
            ages: Ages::default(),
            pings: None,
            has_reaper: false,
            has_convoy: false,
            draws_greatest: false,
            allocates: false,
            detaches: false,
            fails_permanently: false,
            sweeps: false,
            frees: false,
            changes_factory: false,
        }
    }

    fn most_leases(&self) -> usize {
        self.limits
            .iter()
            .copied()
            .max()
            .unwrap_or(0)
            .max(self.limit)
            + 1
    }
}

/// The digest is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Numbered = HashMap<u64, u32, BuildHasherDefault<AsItIs>>;
type Known = HashSet<u64, BuildHasherDefault<AsItIs>>;

struct Search<'a> {
    config: &'a Config,
    numbers: Numbered,
    /// By which act from which state each was first reached.
    from: Vec<(u32, Act)>,
    /// From where a fair schedule is known to serve everybody; one set for each order.
    fair: [Known; 2],
    fair_acts: usize,
}

impl Search<'_> {
    fn act(&self, world: &mut World, act: Act, state: u32, then: &[Act]) {
        let made = catch_unwind(AssertUnwindSafe(|| world.act(act, self.config)));
        made.unwrap_or_else(|panic| {
            self.show(state, then);
            eprintln!("  {act:?}");
            resume_unwind(panic);
        });
    }

    /// How a state was reached.
    fn show(&self, mut state: u32, then: &[Act]) {
        let mut acts = Vec::new();
        while state != 0 {
            let (before, act) = self.from[state as usize];
            acts.push(act);
            state = before;
        }
        acts.reverse();
        let steps = acts.len() + 1;
        eprintln!("{:?}", self.config);
        eprintln!(
            "fails after {steps} steps, and {} of a fair schedule:",
            then.len()
        );
        for act in acts.iter().chain(then) {
            eprintln!("  {act:?}");
        }
    }

    /// If the other side answers from now on, everybody is served.
    fn serve_all(&mut self, world: &World, digest: u64, state: u32) {
        for returns_first in [false, true] {
            let mut world = world.clone();
            let (mut path, mut acts) = (vec![digest], Vec::new());
            loop {
                let last = path[path.len() - 1];
                if self.fair[usize::from(returns_first)].contains(&last) {
                    break;
                }
                let next = catch_unwind(AssertUnwindSafe(|| {
                    assert!(acts.len() < MOST_FAIR, "somebody is never served");
                    let next = world.next_fair(returns_first);
                    if next.is_none() {
                        world.check_quiet();
                    }
                    next
                }));
                let next = next.unwrap_or_else(|panic| {
                    self.show(state, &acts);
                    resume_unwind(panic);
                });
                let Some(act) = next else { break };
                self.act(&mut world, act, state, &acts);
                acts.push(act);
                path.push(world.digest(self.config));
            }
            self.fair_acts += acts.len();
            self.fair[usize::from(returns_first)].extend(path);
        }
    }
}

fn most_states() -> usize {
    let most = env::var("JACKPOT_STATES").map(|text| text.parse().unwrap());
    match most.unwrap_or(if cfg!(miri) { 50 } else { 1_500 }) {
        0 => usize::MAX,
        most => most,
    }
}

fn explore(name: &str, config: &Config) {
    let (begun, most) = (Instant::now(), most_states());
    let first = World::new(config);
    let digest = first.digest(config);
    let mut search = Search {
        config,
        numbers: Numbered::default(),
        from: vec![(0, Act::Jump)],
        fair: Default::default(),
        fair_acts: 0,
    };
    search.numbers.insert(digest, 0);
    search.serve_all(&first, digest, 0);
    let mut queue = VecDeque::from([(0, 0, first)]);
    let mut acts = Vec::new();
    let (mut transitions, mut depth, mut whole) = (0_u64, 0, 0);
    while let Some((state, steps, world)) = queue.pop_front() {
        if search.from.len() >= most {
            queue.push_front((state, steps, world));
            break;
        }
        whole = steps;
        world.acts(config, &mut acts);
        for &act in &acts {
            let mut next = world.clone();
            search.act(&mut next, act, state, &[]);
            transitions += 1;
            let digest = next.digest(config);
            let number = u32::try_from(search.from.len()).unwrap();
            if search.numbers.contains_key(&digest) {
                continue;
            }
            search.numbers.insert(digest, number);
            search.from.push((state, act));
            depth = steps + 1;
            search.serve_all(&next, digest, number);
            queue.push_back((number, steps + 1, next));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let states = search.from.len();
    let extent = if queue.is_empty() {
        format!("all, {depth} deep")
    } else {
        format!("all up to {whole} deep")
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    let rate = states as f64 / seconds;
    eprintln!(
        "{name}: {states} states, {extent}; {transitions} transitions, {} more of fair schedules; \
         {seconds:.1} s, {rate:.0} states/s",
        search.fair_acts
    );
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn callers_connects_and_returns() {
    let config = Config {
        allocates: true,
        has_reaper: true,
        ..Config::new(2, 2)
    };
    explore("callers, connects, returns", &config);
}

#[test]
fn three_callers_in_a_convoy() {
    let config = Config {
        has_convoy: true,
        steps: &[64, 128],
        ..Config::new(1, 3)
    };
    explore("convoy", &config);
}

fn outage(draws_greatest: bool) -> Config {
    Config {
        allocates: true,
        fails_permanently: true,
        draws_greatest,
        steps: &[100_000, 1_000_000],
        ..Config::new(2, 2)
    }
}

#[test]
fn an_outage_with_the_shortest_pauses() {
    explore("outage, shortest", &outage(false));
}

#[test]
fn an_outage_with_the_longest_pauses() {
    explore("outage, longest", &outage(true));
}

#[test]
fn limits_and_factories_that_change() {
    let config = Config {
        limits: &[0, 1, 2],
        changes_factory: true,
        ..Config::new(2, 2)
    };
    explore("limits, factories", &config);
}

#[test]
fn free_end_and_drain() {
    let config = Config {
        frees: true,
        detaches: true,
        ..Config::new(2, 2)
    };
    explore("free, end, drain", &config);
}

#[test]
fn sweeps_and_pings() {
    let rules = Rules {
        min_idle: 1,
        idle_timeout: Some(millis(300)),
        max_lifetime: Some(millis(600)),
        ..Config::new(2, 2).rules
    };
    let config = Config {
        rules,
        sweeps: true,
        has_reaper: true,
        pings: Some(millis(300)),
        steps: &[300_000],
        ages: Ages {
            idle: millis(900),
            silence: millis(300),
            hang_ups: false,
        },
        ..Config::new(2, 1)
    };
    explore("sweeps, pings", &config);
}

#[test]
fn a_server_that_hangs_up() {
    let config = Config {
        steps: &[100_000, 1_000_000],
        ages: Ages {
            hang_ups: true,
            ..Ages::default()
        },
        ..Config::new(1, 2)
    };
    explore("hang-ups", &config);
}
