//! Every state of small worlds, instead of random walks through large ones.
//!
//! A breadth-first search over a pure core and all that acts on it. From each state everything is
//! done that can happen next, each choice in each way; after each transition the invariants are
//! checked, and from each new state a fair schedule must serve everybody. Breadth first, so that
//! the first fault found is one that needs the fewest steps; the steps are printed.
//!
//! `JACKPOT_STATES` is the most states of each configuration (1,500 without it, 0 for all).
//!
//! The search is our own, not the crate stateright's: that wants a state that can be hashed as it
//! is, keeps whole states where we keep 64 bits and where they came from, and checks liveness only
//! on paths without a cycle, which a clock that may always go on does not have. What is left of it
//! is the hundred lines below. It is also what runs with the oldest versions, without any
//! development dependency.

mod choices;
mod digest;
mod pool;
mod world;

use std::collections::{HashSet, VecDeque};
use std::env;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use choices::Picks;
pub(crate) use choices::{Choices, Random};
pub(crate) use digest::{Ages, Digest};

/// Fair schedules may take so many turns to serve everybody.
const MOST_FAIR: usize = 200;

/// What is explored: something pure, and all that acts on it.
pub(crate) trait World: Clone {
    /// What there is, and what may happen.
    type Config: Debug;
    type Act: Copy + Debug;

    fn new(config: &Self::Config) -> Self;

    /// Everything that may happen next.
    fn acts(&self, config: &Self::Config, acts: &mut Vec<Self::Act>);

    /// Makes a transition, carries out its effects and checks what must hold.
    fn act(&mut self, act: Self::Act, config: &Self::Config, choices: &mut Choices);

    /// What is the same for states from which the same things can happen.
    fn digest(&self, config: &Self::Config) -> u64;

    /// One turn of a fair schedule, in which the other side answers and nobody gives up: what it
    /// does joins `acts`. False once all is quiet, as it then must be.
    fn go_on(
        &mut self,
        returns_first: bool,
        config: &Self::Config,
        acts: &mut Vec<Self::Act>,
    ) -> bool;
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

type Known = HashSet<u64, BuildHasherDefault<AsItIs>>;

/// From which state, and by which act, a state was first reached; the first one by none.
type Origin<A> = (u32, Option<(A, Picks)>);

struct Search<'a, W: World> {
    config: &'a W::Config,
    from: Vec<Origin<W::Act>>,
    known: Known,
    /// From where a fair schedule is known to serve everybody; one set for each order.
    fair: [Known; 2],
    fair_acts: usize,
}

impl<W: World> Search<'_, W> {
    /// How a state was reached, and what was done then.
    fn show(&self, mut state: u32, then: &[W::Act]) {
        let mut acts = Vec::new();
        while let (before, Some(act)) = self.from[state as usize] {
            acts.push(act);
            state = before;
        }
        eprintln!("{:?}", self.config);
        let steps = acts.len();
        eprintln!("fails after {steps} steps (each with the ways that it took), and:");
        for (act, picks) in acts.iter().rev() {
            eprintln!("  {act:?} {picks:?}");
        }
        for act in then {
            eprintln!("  then {act:?}");
        }
    }

    /// If the other side answers from now on, everybody is served.
    fn serve_all(&mut self, world: &W, digest: u64, state: u32) {
        for returns_first in [false, true] {
            let mut world = world.clone();
            let (mut path, mut acts) = (Vec::new(), Vec::new());
            let mut last = digest;
            while !self.fair[usize::from(returns_first)].contains(&last) {
                path.push(last);
                let goes_on = catch_unwind(AssertUnwindSafe(|| {
                    assert!(path.len() < MOST_FAIR, "somebody is never served");
                    world.go_on(returns_first, self.config, &mut acts)
                }));
                let goes_on = goes_on.unwrap_or_else(|panic| {
                    self.show(state, &acts);
                    resume_unwind(panic);
                });
                if !goes_on {
                    break;
                }
                last = world.digest(self.config);
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

pub(crate) fn explore<W: World>(name: &str, config: &W::Config) {
    let (begun, most) = (Instant::now(), most_states());
    let first = W::new(config);
    let digest = first.digest(config);
    let mut search = Search {
        config,
        from: vec![(0, None)],
        known: Known::default(),
        fair: Default::default(),
        fair_acts: 0,
    };
    search.known.insert(digest);
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
            let mut choices = Choices::each();
            loop {
                let mut next = world.clone();
                let made = catch_unwind(AssertUnwindSafe(|| next.act(act, config, &mut choices)));
                let step = (act, choices.picks());
                made.unwrap_or_else(|panic| {
                    search.show(state, &[]);
                    eprintln!("  {step:?}");
                    resume_unwind(panic);
                });
                transitions += 1;
                let digest = next.digest(config);
                if search.known.insert(digest) {
                    let number = u32::try_from(search.from.len()).unwrap();
                    search.from.push((state, Some(step)));
                    depth = steps + 1;
                    search.serve_all(&next, digest, number);
                    queue.push_back((number, steps + 1, next));
                }
                if !choices.next() {
                    break;
                }
            }
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
