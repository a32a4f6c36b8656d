//! The state machine against a naive model of it, in random walks.
//!
//! The model keeps everything in plain vectors and looks for what it needs. Each step of a walk
//! makes one transition of the core, predicts what must come of it, and compares answers, effects
//! and counts; then it checks what must hold whatever happened. `JACKPOT_SEED` walks one seed,
//! `JACKPOT_SEEDS` that many. (The core draws lifetimes and pauses by itself; the model takes
//! those from it and checks their range, so a seed repeats a walk up to them.)
//!
//! The steps stand in the rooms below, as those of the core do; here is what they share.

mod bounds;
mod callers;
mod checks;
mod leaving;
mod ready;
mod returns;
mod serving;
mod single;
mod verbs;

use std::cell::Cell;
use std::env;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::report::error::Error;
use crate::report::event::{Close, Event, Freed};
use crate::report::outcome::{Eviction, PeerSignal};
use crate::report::stats::{State, Stats};
use crate::state::barging::Convoy;
use crate::state::core::{
    self, CloseWhen, ConnectionEvent, Dead, IdlePeriod, Readiness, Rules, Turn,
};
use crate::state::queue::Failure;
use crate::state::slots::{Holder, Lease, SlotKey, Taker};

type Core = core::Core<Value, u64, u64>;
type Effects = core::Effects<Value, u64, u64>;

const SPACING: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
const TOLERATED: usize = 10;
const STEPS: usize = 400;

impl Rules {
    /// Without a bound on anything but connects.
    pub(crate) const PLAIN: Self = Self {
        min_idle: 0,
        max_connecting: 4,
        idle_timeout: None,
        max_lifetime: None,
        probe_after: Duration::ZERO,
        leak_after: None,
        max_waiting: None,
        max_uses: None,
    };
}

#[test]
fn random_walks_agree_with_the_model() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match (number("JACKPOT_SEED"), number("JACKPOT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(if cfg!(miri) { 3 } else { 400 }),
    };
    for seed in seeds {
        let walk = catch_unwind(AssertUnwindSafe(|| Walk::new(seed).run()));
        if let Err(panic) = walk {
            eprintln!("to see it again: JACKPOT_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

/// A connection, as far as the core is concerned; cannot be copied, and is missed when lost.
#[derive(Debug)]
struct Value {
    id: u64,
    alive: Rc<Cell<usize>>,
}

impl Value {
    fn new(id: u64, alive: &Rc<Cell<usize>>) -> Self {
        alive.set(alive.get() + 1);
        let alive = Rc::clone(alive);
        Self { id, alive }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

/// Sebastiano Vigna's `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn millis(&mut self, end: usize) -> Duration {
        Duration::from_millis(self.below(end) as u64)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// An open connection.
#[derive(Clone, Debug)]
struct Conn {
    key: SlotKey,
    born: Instant,
    since: Instant,
    answered: Instant,
    expires: Option<Instant>,
    leases: u64,
    pings: u64,
    doom: Option<Eviction>,
    is_held: bool,
    /// Whether its lease has a call site.
    is_taken: bool,
    /// Whether its lease's beginning was told and its end was not.
    is_told: bool,
}

/// A connection that is out for a ping.
#[derive(Debug)]
struct Ping {
    lease: Lease<Value>,
    /// Since when it had been idle.
    since: Instant,
    /// The connections that had been idle longer, by how many leases they had had.
    older: Vec<(u64, u64)>,
}

/// A connect under way, and who it is made for.
#[derive(Clone, Copy, Debug)]
struct Connect {
    key: SlotKey,
    owner: Option<u64>,
    /// Whether its factory has been replaced, or it was given up.
    outdated: bool,
    given_up: bool,
    /// Whether it has a socket.
    is_open: bool,
    began: Instant,
}

/// A caller with a seat.
#[derive(Debug)]
struct Caller {
    who: u64,
    /// As the core sees it.
    itself: core::Caller<u64>,
    number: u64,
    since: Instant,
    is_counted: bool,
    is_watched: bool,
    is_trying: bool,
    barging_until: Option<Instant>,
    /// What it will be told when it asks.
    pending: Option<Told>,
}

/// What a caller is told.
#[derive(Clone, Debug)]
enum Told {
    /// Which one, and whether to probe it.
    Granted(u64, bool),
    Failed(Cause),
    Ended,
}

#[derive(Clone, Debug)]
enum Cause {
    Full,
    Connect(Arc<Error>),
}

impl PartialEq<Failure> for Cause {
    fn eq(&self, other: &Failure) -> bool {
        match (self, other) {
            (Self::Full, Failure::Full) => true,
            (Self::Connect(mine), Failure::Connect(theirs)) => Arc::ptr_eq(mine, theirs),
            _ => false,
        }
    }
}

/// A caller whose connection proved dead, on its way back to the queue.
#[derive(Debug)]
struct Comeback {
    itself: core::Caller<u64>,
    number: u64,
    is_watched: bool,
}

/// While the last connect failed: with what, and the span in which the core's own try may lie.
#[derive(Clone, Debug)]
struct Outage {
    error: Arc<Error>,
    earliest: Instant,
    latest: Instant,
    /// Whether what failed was to keep the connection.
    hangs_up: bool,
    quiet_since: Option<Instant>,
}

/// A connection that has left, as the core must report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a naive model keeps its facts apart"
)]
struct Gone {
    id: u64,
    why: usize,
    has_value: bool,
    is_aborted: bool,
    occupies: bool,
    is_told: bool,
    /// How long the lease lasted that ended so, if it had been told.
    held: Option<Duration>,
}

/// What is to be told of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Leased,
    Overdue(Duration),
    Returned(Duration),
    Evicted(Eviction),
}

/// The connection that an event says it is of must be the one under whose number it comes.
fn said(event: &ConnectionEvent) -> (u64, Said) {
    let (id, said) = match event.1 {
        Event::Leased { id, .. } => (id, Said::Leased),
        Event::Overdue { id, held, .. } => (id, Said::Overdue(held)),
        Event::Returned { id, held } => (id, Said::Returned(held)),
        Event::Evicted { id, why, .. } => (id, Said::Evicted(why)),
        ref other => panic!("the core does not tell of {other:?}"),
    };
    assert_eq!(id, event.0);
    (id, said)
}

/// A thread that waits until so many connections are open.
struct ReadyWaiter {
    number: u64,
    count: usize,
    failures: u64,
}

/// Wakers of callers are below this, those of the threads above it.
const READIERS: u64 = 1 << 32;

/// What the model expects of one step.
#[derive(Default)]
struct Expected {
    answered: Vec<u64>,
    connects: usize,
    gone: Vec<Gone>,
    recalled: Vec<u64>,
    cut: Vec<u64>,
    released: Vec<u64>,
    aborted_value: Option<u64>,
    wakes_reaper: bool,
    warns: bool,
    /// Those who wait for connections to be open have news.
    wakes_readiers: bool,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "a naive model keeps its facts apart"
)]
struct Walk {
    random: Random,
    core: Core,
    rules: Rules,
    now: Instant,
    /// Whether threads read the clock some time before they get the lock.
    is_late: bool,
    failing: usize,
    /// How long the queue may grow.
    crowd: usize,
    alive: Rc<Cell<usize>>,

    limit: usize,
    has_ended: bool,
    is_refilling: bool,
    clock: Instant,
    idle: Vec<Conn>,
    leased: Vec<Conn>,
    connecting: Vec<Connect>,
    /// Those that somebody closes; the last ones were handed out in this step.
    closing: Vec<SlotKey>,
    handed_out: usize,
    /// Those that wait to be closed.
    left: Vec<(SlotKey, Gone)>,
    has_reaper: bool,
    /// The queue, first come first.
    queue: Vec<Caller>,
    /// Those whose wait has ended and who have not asked yet.
    served: Vec<Caller>,
    outage: Option<Outage>,
    last_start: Option<Instant>,
    /// How many connections in a row were hung up on.
    hang_ups: usize,
    /// The last failure, or the last change of the factory.
    news_since: Option<Instant>,
    /// How often, in percent, the other side hangs up.
    hanging_up: usize,
    convoy: Convoy,
    is_hurried: bool,
    /// When connections and waiters were last brought together.
    dispatched: Instant,
    aborted: usize,
    drainers: usize,
    reporting: Vec<u64>,
    unreported: Vec<(u64, Said)>,
    ready_waiters: Vec<ReadyWaiter>,
    next_who: u64,
    next_number: u64,
    highest_id: u64,
    counts: Stats,
    evictions: [u64; Eviction::COUNT],

    leases: Vec<Lease<Value>>,
    pings: Vec<Ping>,
    comebacks: Vec<Comeback>,
    /// Idle connections that a sweep probes, and how many leases they had had.
    swept: Vec<(IdlePeriod, u64)>,
    /// Who keeps the pool trying, as of the last time that all were brought together.
    keeper: Option<u64>,
    alarm: Option<(u64, Instant)>,
    /// The most callers, and the most connections, that there were at once.
    most: (usize, usize),
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limit = 1 + random.below(5);
        let rules = Rules {
            min_idle: if random.chance(40) {
                random.below(limit + 1)
            } else {
                0
            },
            max_connecting: 1 + random.below(4),
            idle_timeout: random.chance(70).then_some(Duration::from_millis(300)),
            max_lifetime: random.chance(70).then_some(Duration::from_secs(5)),
            probe_after: Duration::from_millis(random.pick(&[0, 0, 50])),
            leak_after: random.chance(50).then_some(Duration::from_millis(500)),
            max_waiting: random.chance(40).then(|| random.below(4)),
            max_uses: random.chance(30).then(|| 1 + random.below(4) as u64),
        };
        let now = Instant::now() + Duration::from_secs(10);
        let mut core = Core::new(limit, rules.clone(), Backoff::new(), now);
        let has_reaper = random.chance(60);
        if has_reaper {
            core.set_has_reaper();
        }
        Self {
            core,
            rules,
            now,
            is_late: random.chance(30),
            failing: random.pick(&[0, 10, 50, 95]),
            crowd: random.pick(&[1, 2, 4, 12]),
            alive: Rc::default(),
            limit,
            has_ended: false,
            is_refilling: false,
            clock: now,
            idle: Vec::new(),
            leased: Vec::new(),
            connecting: Vec::new(),
            closing: Vec::new(),
            handed_out: 0,
            left: Vec::new(),
            has_reaper,
            queue: Vec::new(),
            served: Vec::new(),
            outage: None,
            last_start: None,
            hang_ups: 0,
            news_since: None,
            hanging_up: 0,
            convoy: Convoy::default(),
            is_hurried: false,
            dispatched: now,
            aborted: 0,
            drainers: 0,
            reporting: Vec::new(),
            unreported: Vec::new(),
            ready_waiters: Vec::new(),
            next_who: 0,
            next_number: 0,
            highest_id: 0,
            counts: Stats::default(),
            evictions: [0; Eviction::COUNT],
            leases: Vec::new(),
            pings: Vec::new(),
            comebacks: Vec::new(),
            swept: Vec::new(),
            keeper: None,
            alarm: None,
            most: (0, 0),
            random,
        }
    }

    fn run(mut self) {
        self.hurry();
        for _ in 0..STEPS {
            self.step();
        }
        self.wind_down();
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..9 => self.take_and_keep(),
            9 => self.get_ready(),
            10..12 => self.tell_of_a_lease(),
            12..26 => self.enter(),
            26..40 => self.ask(),
            40..44 => self.retry(),
            44..47 => self.leave(),
            47..51 => self.open_connect(),
            51..60 => self.finish_connect(),
            60..70 => self.give_back(),
            70..72 => self.withdraw(),
            72..82 => self.pass_time(),
            82..86 => self.vacate(),
            86..89 => self.sweep(),
            89..91 => self.evict_one(),
            91..93 => self.ping(),
            93..95 => self.give_back_pinged(),
            95 => self.set_limit(),
            96 => self.free(),
            97 => self.drain_or_tell(),
            98 => self.change_weather(),
            _ => self.rarely(),
        }
    }

    /// What ends a program: everybody comes home, then the pool ends, or the other way round.
    fn wind_down(&mut self) {
        if self.random.chance(50) {
            self.end(Close::Soft);
        }
        self.failing = 50;
        for _ in 0..100_000 {
            if self.alive.get() == self.idle.len() + self.left.len()
                && self.queue.is_empty()
                && self.is_quiet()
            {
                break;
            }
            match self.random.below(6) {
                5 => self.vacate(),
                0 => self.ask(),
                1 => self.finish_connect(),
                2 => self.give_back(),
                3 => self.give_back_pinged(),
                _ => self.leave(),
            }
        }
        self.end(Close::Soft);
        while !self.closing.is_empty() {
            self.vacate();
        }
        let stats = self.core.stats(0);
        assert!(self.is_quiet() && self.core.is_drained(), "{stats:?}");
        assert_eq!((stats.open, stats.waiting, self.alive.get()), (0, 0, 0));
        assert_eq!(self.core.slots().occupied(), 0);
        assert_eq!(stats.connects, stats.releases);
        assert!(self.core.has_ended());
    }

    fn is_quiet(&self) -> bool {
        self.served.is_empty()
            && self.connecting.is_empty()
            && self.leased.is_empty()
            && self.leases.is_empty()
            && self.pings.is_empty()
    }

    fn verdict(&mut self) -> Option<Eviction> {
        let all = [None, None, None, Some(Eviction::Broken)];
        self.random.pick(&all)
    }

    /// What the clock shows to the thread that makes this step.
    fn at(&mut self) -> Instant {
        let ago = self.random.millis(if self.is_late { 4 } else { 1 });
        self.now.checked_sub(ago).unwrap()
    }

    /// A thread has read the clock, perhaps some time before it got the lock.
    fn read_the_clock(&mut self) -> Instant {
        let now = self.at();
        self.core.advance(now);
        self.clock = self.clock.max(now);
        self.clock
    }

    fn keep(&mut self, lease: Lease<Value>) {
        assert_eq!(lease.key.id, lease.client.id);
        self.leases.push(lease);
    }

    fn open(&self) -> usize {
        self.idle.len() + self.leased.len()
    }

    fn in_use(&self) -> usize {
        self.open() + self.connecting.len()
    }

    fn occupied(&self) -> usize {
        self.in_use() + self.closing.len() + self.left.len()
    }

    /// Whether there is a place for a connect, once it has closed what it may.
    fn has_place(&self) -> bool {
        self.occupied() - self.handed_out - self.left.len() < self.limit
    }

    fn is_drained(&self) -> bool {
        self.leased.len() + self.connecting.len() + self.aborted == 0
    }

    fn ahead_of(&self, number: u64) -> usize {
        let is_ahead = |caller: &&Caller| caller.number < number;
        self.queue.iter().filter(is_ahead).count()
    }

    fn place_of(&self, who: u64) -> usize {
        self.queue.iter().position(|c| c.who == who).unwrap()
    }

    fn caller(&mut self, who: u64) -> &mut Caller {
        let place = self.place_of(who);
        &mut self.queue[place]
    }
}

fn id(conn: &Conn) -> u64 {
    conn.key.id
}

fn find(conns: &mut [Conn], id: u64) -> Option<&mut Conn> {
    conns.iter_mut().find(|conn| conn.key.id == id)
}

fn remove(conns: &mut Vec<Conn>, id: u64) -> Option<Conn> {
    let place = conns.iter().position(|conn| conn.key.id == id)?;
    Some(conns.remove(place))
}
