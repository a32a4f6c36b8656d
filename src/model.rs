//! The state machine against a naive model of it, in random walks.
//!
//! The model keeps everything in plain vectors and looks for what it needs. Each step of a walk
//! makes one transition of the table, predicts what must come of it, and compares answers, effects
//! and counts; then it checks what must hold whatever happened. `JACKPOT_SEED` walks one seed,
//! `JACKPOT_SEEDS` that many. (The table draws lifetimes and pauses by itself; the model takes
//! those from it and checks their range, so a seed repeats a walk up to them.)

use std::cell::Cell;
use std::env;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::convoy::Convoy;
use crate::error::Error;
use crate::event::{Close, Eviction, Freed};
use crate::gate::Word;
use crate::slots::{Lease, Pinged, Place};
use crate::stats::{State, Stats};
use crate::table::{self, Dead, Entry, Resting, Rules};
use crate::waiters::{Answer, Failure, Ticket};

type Table = table::Table<Value, u64, u64>;
type Effects = table::Effects<Value, u64, u64>;

const SPACING: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);
const TOLERATED: usize = 10;
const STEPS: usize = 400;

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

/// A connection, as far as the table is concerned; cannot be copied, and is missed when lost.
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
    place: Place,
    born: Instant,
    since: Instant,
    tended: Instant,
    expires: Option<Instant>,
    leases: u64,
    doom: Option<Eviction>,
    is_held: bool,
}

/// A connect under way, and who it is made for.
#[derive(Clone, Copy, Debug)]
struct Connect {
    place: Place,
    owner: Option<u64>,
    /// Whether its factory has been replaced.
    outdated: bool,
}

/// A caller with a seat.
#[derive(Clone, Debug)]
struct Caller {
    who: u64,
    seat: u32,
    number: u64,
    since: Instant,
    is_counted: bool,
    stays: bool,
    is_trying: bool,
    patient_until: Option<Instant>,
    /// What it will be told when it asks.
    pending: Option<Told>,
}

/// What a caller is told.
#[derive(Clone, Debug)]
enum Told {
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
#[derive(Clone, Copy, Debug)]
struct Comeback {
    ticket: Ticket,
    number: u64,
    is_counted: bool,
}

/// While the last connect failed: with what, and the span in which the table's own try may lie.
#[derive(Clone, Debug)]
struct Outage {
    error: Arc<Error>,
    earliest: Instant,
    latest: Instant,
    /// Whether what failed was to keep the connection.
    hangs_up: bool,
    quiet_since: Option<Instant>,
}

/// A connection that has left, as the table must report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gone {
    id: u64,
    why: usize,
    has_value: bool,
    is_cut: bool,
    is_told: bool,
}

/// What the model expects of one step.
#[derive(Default)]
struct Expected {
    answered: Vec<u64>,
    connects: usize,
    gone: Vec<Gone>,
    leftover: Option<u64>,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "a naive model keeps its facts apart"
)]
struct Walk {
    random: Random,
    table: Table,
    rules: Rules,
    now: Instant,
    /// Whether threads look at the clock some time before they get the lock.
    is_late: bool,
    failing: usize,
    /// How long the queue may grow.
    crowd: usize,
    alive: Rc<Cell<usize>>,

    limit: usize,
    has_ended: bool,
    is_topping_up: bool,
    clock: Instant,
    idle: Vec<Conn>,
    leased: Vec<Conn>,
    connecting: Vec<Connect>,
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
    settled: Instant,
    severed: usize,
    drainers: usize,
    reporting: Vec<u64>,
    late: Vec<(u64, Eviction)>,
    next_who: u64,
    next_number: u64,
    highest_id: u64,
    counts: Stats,
    evictions: [u64; Eviction::COUNT],

    leases: Vec<Lease<Value>>,
    pings: Vec<(Lease<Value>, Pinged, Option<u64>, Instant)>,
    comebacks: Vec<Comeback>,
    /// Idle connections that a sweep looks at, and how many leases they had had.
    looked_at: Vec<(Resting, u64)>,
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
        };
        let now = Instant::now() + Duration::from_secs(10);
        Self {
            table: Table::new(limit, rules.clone(), now),
            rules,
            now,
            is_late: random.chance(30),
            failing: random.pick(&[0, 10, 50, 95]),
            crowd: random.pick(&[1, 2, 4, 12]),
            alive: Rc::default(),
            limit,
            has_ended: false,
            is_topping_up: false,
            clock: now,
            idle: Vec::new(),
            leased: Vec::new(),
            connecting: Vec::new(),
            queue: Vec::new(),
            served: Vec::new(),
            outage: None,
            last_start: None,
            hang_ups: 0,
            news_since: None,
            hanging_up: 0,
            convoy: Convoy::new(),
            is_hurried: false,
            settled: now,
            severed: 0,
            drainers: 0,
            reporting: Vec::new(),
            late: Vec::new(),
            next_who: 0,
            next_number: 0,
            highest_id: 0,
            counts: Stats::default(),
            evictions: [0; Eviction::COUNT],
            leases: Vec::new(),
            pings: Vec::new(),
            comebacks: Vec::new(),
            looked_at: Vec::new(),
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
            0..12 => self.take_and_keep(),
            12..26 => self.enter(),
            26..40 => self.ask(),
            40..44 => self.retry(),
            44..47 => self.leave(),
            47..60 => self.finish_connect(),
            60..70 => self.give_back(),
            70..72 => self.withdraw(),
            72..82 => self.pass_time(),
            82..84 => self.tick(),
            84..89 => self.sweep(),
            89..91 => self.evict_one(),
            91..93 => self.ping(),
            93..95 => self.give_back_pinged(),
            95 => self.set_limit(),
            96 => self.free(),
            97 => self.drain_or_report(),
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
            if self.alive.get() == self.idle.len() && self.queue.is_empty() && self.is_quiet() {
                break;
            }
            match self.random.below(5) {
                0 => self.ask(),
                1 => self.finish_connect(),
                2 => self.give_back(),
                3 => self.give_back_pinged(),
                _ => self.leave(),
            }
        }
        self.end(Close::Soft);
        let stats = self.table.stats(0);
        assert!(self.is_quiet() && self.table.is_drained(), "{stats:?}");
        assert_eq!((stats.open, stats.waiting, self.alive.get()), (0, 0, 0));
        assert_eq!(stats.connects, stats.releases);
        assert!(self.table.has_ended());
    }

    fn is_quiet(&self) -> bool {
        self.served.is_empty()
            && self.connecting.is_empty()
            && self.leased.is_empty()
            && self.leases.is_empty()
            && self.pings.is_empty()
    }

    fn take_and_keep(&mut self) {
        let is_exact = self.random.chance(50);
        let (now, holder) = (self.at(), self.random.chance(50));
        let overtake = self.random.chance(50);
        let taken = self.table.take(
            overtake,
            is_exact.then_some(now),
            holder.then(thread::current),
        );
        let since = if is_exact { now } else { self.clock };
        let expected = self.take_newest(overtake, since);
        let Some((lease, probe)) = taken else {
            assert!(expected.is_none());
            return;
        };
        self.clock = self.clock.max(since);
        assert_eq!(expected, Some((lease.place.id, probe)));
        if let Some(conn) = find(&mut self.leased, lease.place.id) {
            conn.is_held = holder;
        }
        self.keep(lease);
        self.check(&Expected::default(), Effects::default());
    }

    fn enter(&mut self) {
        if self.queue.len() >= self.crowd {
            return self.give_back();
        }
        let now = self.looked_at_the_clock();
        let stays = self.random.chance(70);
        let comeback = if self.random.chance(50) {
            self.comebacks.pop()
        } else {
            None
        };
        let who = self.next_who;
        self.next_who += 1;
        let mut fx = Effects::default();
        let ticket = comeback.map(|comeback| comeback.ticket);
        let holder = self.random.chance(50);
        let thread = holder.then(thread::current);
        let entry = self.table.enter(ticket, &who, stays, thread, now, &mut fx);

        let mut expected = Expected::default();
        if self.has_ended {
            assert!(matches!(entry, Entry::Ended));
            return self.check(&expected, fx);
        }
        if let Some((id, probe)) = self.take_newest(stays, now) {
            let Entry::Granted { lease, probe: got } = entry else {
                panic!("there was an idle one, but {entry:?}");
            };
            assert_eq!((lease.place.id, got), (id, probe));
            if let Some(conn) = find(&mut self.leased, id) {
                conn.is_held = holder;
            }
            self.keep(lease);
            return self.check(&expected, fx);
        }
        let claims = match comeback {
            Some(back) => self.ahead_of(back.number),
            None => self.queue.len().max(self.connecting.len()),
        };
        let refusal = self.refusal(claims, now);
        if let (Some(cause), false) = (&refusal, stays) {
            let Entry::Refused(failure) = entry else {
                panic!("not refused: {entry:?}");
            };
            assert!(*cause == failure);
            return self.check(&expected, fx);
        }
        let seat = match (&entry, &refusal) {
            (Entry::Trying(seat), None) => *seat,
            (Entry::Failed(seat, failure), Some(cause)) => {
                assert!(*cause == *failure);
                *seat
            }
            _ => panic!("{entry:?}, but {refusal:?}"),
        };
        let number = comeback.map_or_else(
            || {
                self.next_number += 1;
                self.next_number
            },
            |back| back.number,
        );
        let place = self.ahead_of(number);
        let caller = Caller {
            who,
            seat,
            number,
            since: now,
            is_counted: comeback.is_some_and(|back| back.is_counted),
            stays,
            is_trying: refusal.is_none(),
            patient_until: self.patience(now),
            pending: None,
        };
        self.queue.insert(place, caller);
        if refusal.is_none() && self.outage.is_some() {
            self.start(Some(who), now, &fx, &mut expected);
        }
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    fn retry(&mut self) {
        // A thread sleeps between two tries once it has been told of the failure.
        let is_asleep = |caller: &Caller| {
            !caller.is_trying && caller.stays && !matches!(caller.pending, Some(Told::Failed(_)))
        };
        let sleepers: Vec<Caller> = self.queue.iter().chain(&self.served).cloned().collect();
        let sleepers: Vec<Caller> = sleepers.into_iter().filter(is_asleep).collect();
        if sleepers.is_empty() {
            return;
        }
        let index = self.random.below(sleepers.len());
        let sleeper = &sleepers[index];
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        let failure = self.table.retry(sleeper.seat, now, &mut fx);
        let mut expected = Expected::default();
        if sleeper.pending.is_some() {
            assert!(failure.is_none()); // the answer is there
            return self.check(&expected, fx);
        }
        let refusal = self.refusal(self.ahead_of(sleeper.number), now);
        match (&refusal, &failure) {
            (None, None) => {
                self.caller(sleeper.who).is_trying = true;
                if self.outage.is_some() {
                    self.start(Some(sleeper.who), now, &fx, &mut expected);
                }
            }
            (Some(cause), Some(failure)) => assert!(*cause == *failure),
            _ => panic!("{failure:?}, but {refusal:?}"),
        }
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    /// A caller asks for its answer, whether there is one or not.
    fn ask(&mut self) {
        let callers = self.queue.len() + self.served.len();
        if callers == 0 {
            return;
        }
        let index = self.random.below(callers);
        let caller = self.queue.iter().chain(&self.served).nth(index).unwrap();
        let Caller { who, seat, .. } = *caller;
        let holder = self.random.chance(50);
        let answer = self.table.answer(seat, holder.then(thread::current));
        self.got(who, answer, holder);
        self.check(&Expected::default(), Effects::default());
    }

    /// A caller was told this; true if its wait is over.
    fn got(&mut self, who: u64, answer: Option<(Answer<Value>, Ticket)>, holder: bool) -> bool {
        let place = self.served.iter().position(|caller| caller.who == who);
        let expected = match place {
            Some(place) => self.served[place].pending.clone(),
            None => self.caller(who).pending.take(),
        };
        match (answer, expected) {
            (None, None) => false,
            (Some((Answer::Failed(failure), _)), Some(Told::Failed(cause))) => {
                assert!(cause == failure);
                let was_its_only_try = place.is_some();
                if let Some(place) = place {
                    self.served.remove(place);
                }
                was_its_only_try
            }
            (Some((Answer::Ended, _)), Some(Told::Ended)) => {
                self.served.remove(place.unwrap());
                true
            }
            (Some((Answer::Granted { lease, probe }, ticket)), Some(Told::Granted(id, probes))) => {
                assert_eq!((lease.place.id, probe), (id, probes));
                let caller = self.served.remove(place.unwrap());
                if let Some(conn) = find(&mut self.leased, id) {
                    conn.is_held = holder;
                }
                if self.random.chance(30) {
                    self.comebacks.push(Comeback {
                        ticket,
                        number: caller.number,
                        is_counted: true,
                    });
                }
                self.keep(lease);
                true
            }
            (answer, expected) => panic!("told {answer:?}, not {expected:?}"),
        }
    }

    /// A caller gives up, as `pull` does: unless its answer came at the last moment.
    fn leave(&mut self) {
        let callers = self.queue.len() + self.served.len();
        if callers == 0 {
            return;
        }
        let index = self.random.below(callers);
        let caller = self.queue.iter().chain(&self.served).nth(index).unwrap();
        let Caller { who, seat, .. } = *caller;
        let answer = self.table.answer(seat, None);
        let mut expected = Expected::default();
        let mut fx = Effects::default();
        if !self.got(who, answer, false) {
            let now = self.looked_at_the_clock();
            let cause = self.table.cause();
            let error = self.outage.as_ref().map(|outage| Arc::clone(&outage.error));
            let wanted = if self.open() >= self.limit {
                Some(Cause::Full)
            } else {
                error.map(Cause::Connect)
            };
            match (&wanted, &cause) {
                (Some(wanted), Some(cause)) => assert!(wanted == cause),
                _ => assert!(wanted.is_none() && cause.is_none()),
            }
            self.table.leave(seat, now, &mut fx);
            let place = self.place_of(who);
            let caller = self.queue.remove(place);
            self.disown(who);
            self.count_wait(&caller, now);
            self.settle(now, &fx, &mut expected);
        }
        self.check(&expected, fx);
    }

    fn finish_connect(&mut self) {
        if self.connecting.is_empty() {
            return;
        }
        let index = self.random.below(self.connecting.len());
        let Connect {
            place,
            owner,
            outdated,
        } = self.connecting.remove(index);
        let mut fx = Effects::default();
        let mut expected = Expected::default();
        if self.has_ended && self.random.chance(50) {
            let now = self.at();
            self.table.connect_dropped(place, now, &mut fx);
            self.settle(now, &fx, &mut expected);
        } else if self.random.chance(self.failing) {
            let now = self.looked_at_the_clock();
            let error = Arc::new(Error::Connect(io::Error::other("no")));
            self.table
                .connect_failed(place, Arc::clone(&error), now, &mut fx);
            self.counts.connect_failures += 1;
            if outdated {
                self.settle(now, &fx, &mut expected);
                return self.check(&expected, fx);
            }
            self.is_topping_up = false;
            let failed = self
                .queue
                .iter()
                .position(|caller| Some(caller.who) == owner && caller.is_trying);
            if let Some(place) = failed {
                let cause = Cause::Connect(Arc::clone(&error));
                self.fail(place, cause, now, &mut expected);
            }
            self.shut(error, false, now);
            self.settle(now, &fx, &mut expected);
        } else {
            let connect = Connect {
                place,
                owner,
                outdated,
            };
            self.connected(connect, &mut fx, &mut expected);
        }
        self.check(&expected, fx);
    }

    fn connected(&mut self, connect: Connect, fx: &mut Effects, expected: &mut Expected) {
        let Connect {
            place,
            owner,
            outdated,
        } = connect;
        let now = self.looked_at_the_clock();
        let value = Value::new(place.id, &self.alive);
        self.table.connected(place, value, place.id, now, fx);
        self.counts.connects += 1;
        if !outdated {
            self.open_the_gate(now);
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
                self.grant(!is_its_own, now, expected);
            }
        }
        self.settle(now, fx, expected);
    }

    fn shut(&mut self, error: Arc<Error>, hangs_up: bool, now: Instant) {
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
    fn open_the_gate(&mut self, now: Instant) {
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
    fn tell_word(&mut self, place: Place, now: Instant, fx: &mut Effects) {
        let silence = self.random.chance(20);
        let word = if silence {
            Word::Silence
        } else if self.random.chance(self.hanging_up) {
            Word::HungUp
        } else {
            Word::Heard
        };
        let shuts = self.table.take_word(place, word, now, fx);
        self.heard_word(place, word, shuts, now);
    }

    /// Checks what a word of the other side came to.
    fn heard_word(&mut self, place: Place, word: Word, shuts: bool, now: Instant) {
        let born = find(&mut self.leased, place.id).map(|conn| conn.born);
        let is_news = born.is_some_and(|born| self.news_since.is_none_or(|at| born >= at));
        let hangs_up = self.outage.as_ref().is_some_and(|outage| outage.hangs_up);
        let mut expected = false;
        match (word, born) {
            (Word::Heard, Some(_)) => {
                self.hang_ups = 0;
                if hangs_up && is_news {
                    self.outage = None;
                }
            }
            (Word::HungUp, Some(born)) if is_news && now < born + PATIENCE => {
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
            self.shut(error, true, now);
            self.is_topping_up = false;
        }
    }

    fn give_back(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let index = self.random.below(self.leases.len());
        let Lease { place, held, .. } = self.leases.swap_remove(index);
        let verdict = self.verdict();
        let held = match verdict {
            None if self.random.chance(50) => match self.park(place, held) {
                Ok(()) => return self.check(&Expected::default(), Effects::default()),
                Err(held) => held,
            },
            _ => held,
        };
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        self.tell_word(place, now, &mut fx);
        self.table.give_back(place, held, verdict, now, &mut fx);
        let mut expected = Expected::default();
        self.came_back(place, verdict, now, &mut expected);
        if expected.leftover.is_none() {
            self.settle(now, &fx, &mut expected);
        }
        self.check(&expected, fx);
    }

    /// A lease comes back fit, and is idle at once if there is nothing else to decide.
    fn park(&mut self, place: Place, held: Value) -> Result<(), Value> {
        let is_exact = self.random.chance(50);
        let now = if is_exact { self.at() } else { self.clock };
        let word = self
            .random
            .pick(&[Word::Silence, Word::Silence, Word::Heard, Word::HungUp]);
        let says_nothing_new = match word {
            Word::Silence => true,
            Word::Heard => self.hang_ups == 0 && self.outage.is_none(),
            Word::HungUp => false,
        };
        let is_fit = find(&mut self.leased, place.id)
            .is_some_and(|conn| conn.doom.is_none() && conn.expires.is_none_or(|at| at > now));
        let is_welcome = is_fit
            && says_nothing_new
            && self.queue.is_empty()
            && !self.is_topping_up
            && self.drainers == 0
            && self.occupied() <= self.limit;
        let parked = self.table.park(place, held, word, is_exact.then_some(now));
        assert_eq!(parked.is_ok(), is_welcome);
        if is_welcome {
            self.clock = self.clock.max(now);
            self.came_back(place, None, now, &mut Expected::default());
        }
        parked
    }

    fn give_back_pinged(&mut self) {
        let Some((lease, pinged, before, since)) = self.pings.pop() else {
            return;
        };
        let Lease { place, held, .. } = lease;
        let verdict = self.verdict();
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        self.table
            .give_back_pinged(place, held, &pinged, verdict, now, &mut fx);
        let mut expected = Expected::default();
        if let Some(mut conn) = self.came_back(place, verdict, now, &mut expected) {
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
            self.settle(now, &fx, &mut expected);
        }
        self.check(&expected, fx);
    }

    /// A lease came back and is idle, last in the order, unless something speaks against it.
    fn came_back(
        &mut self,
        place: Place,
        verdict: Option<Eviction>,
        now: Instant,
        expected: &mut Expected,
    ) -> Option<Conn> {
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

    fn withdraw(&mut self) {
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
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        match held {
            Some(held) if why == Eviction::PeerClosed => self.bury(place, held, now, &mut fx),
            held => {
                self.tell_word(place, now, &mut fx);
                self.table.withdraw(place, held, why, now, &mut fx);
            }
        }
        let mut expected = Expected::default();
        if let Some(conn) = remove(&mut self.leased, id) {
            self.gone(&conn, why, returns, false, &mut expected);
        } else {
            self.severed -= 1;
            expected.leftover = returns.then_some(id);
        }
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    /// A lease proved dead on its way to its caller.
    fn bury(&mut self, place: Place, held: Value, now: Instant, fx: &mut Effects) {
        let mute = self.random.chance(self.hanging_up);
        let new = find(&mut self.leased, place.id)
            .is_some_and(|conn| conn.leases == 1 && conn.since == conn.born);
        let dead = Dead {
            place,
            held,
            why: Eviction::PeerClosed,
            mute,
        };
        let shuts = self.table.bury(dead, now, fx);
        let word = if mute && new {
            Word::HungUp
        } else {
            Word::Silence
        };
        self.heard_word(place, word, shuts, now);
        self.table.tick(now, fx);
    }

    fn pass_time(&mut self) {
        let steps = if self.is_hurried {
            [1, 1, 2, 3]
        } else {
            [2, 30, 300, 1500]
        };
        let step = self.random.pick(&steps);
        self.now += self.random.millis(step);
        // Often to the very moment that somebody waits for.
        if let Some((_, at)) = self.alarm.filter(|_| self.random.chance(50)) {
            self.now = self.now.max(at);
        }
    }

    fn tick(&mut self) {
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        self.table.tick(now, &mut fx);
        let mut expected = Expected::default();
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    /// One batch of a sweep; what it found dead is evicted some steps later.
    fn sweep(&mut self) {
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        let mut expected = Expected::default();
        if self.random.chance(40) {
            let most = 1 + self.random.below(3);
            let count = self.table.evict_stale(most, now, &mut fx);
            let min_idle = self.rules.min_idle.min(self.limit);
            let spare = self.idle.len().saturating_sub(min_idle).min(most);
            let timeout = self.rules.idle_timeout.unwrap_or(Duration::MAX);
            let is_stale = |conn: &&Conn| now.saturating_duration_since(conn.since) >= timeout;
            let stale = self.idle.iter().take_while(is_stale).count().min(spare);
            assert_eq!(count, stale);
            self.shed(stale, Eviction::IdleTimeout, &mut expected);
            if self.rules.idle_timeout.is_some() {
                self.settle(now, &fx, &mut expected);
            }
            return self.check(&expected, fx);
        }
        let slots = self.table.slots().len();
        let first = u32::try_from(self.random.below(slots as usize + 1)).unwrap();
        let (mut idle, mut overdue) = (Vec::new(), Vec::new());
        let batch = first..slots + 3;
        let closed = self
            .table
            .inspect(batch, now, &mut idle, &mut overdue, &mut fx);
        let is_inside = |conn: &Conn| conn.place.index >= first;
        let (old, kept) = self
            .idle
            .drain(..)
            .partition(|conn| is_inside(conn) && conn.expires.is_some_and(|at| at <= now));
        self.idle = kept;
        let old: Vec<Conn> = old;
        assert_eq!(closed, old.len());
        for conn in &old {
            self.gone(conn, Eviction::MaxLifetime, true, false, &mut expected);
        }
        let mut shown: Vec<u64> = idle.iter().map(|(resting, _)| resting.place.id).collect();
        let mut wanted: Vec<u64> = self.idle.iter().filter(|c| is_inside(c)).map(id).collect();
        shown.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(shown, wanted);
        assert!(
            idle.iter()
                .all(|(resting, handle)| resting.place.id == *handle)
        );
        let mut late = Vec::new();
        for conn in self.leased.iter_mut().filter(|conn| is_inside(conn)) {
            let held = now.saturating_duration_since(conn.since);
            if conn.is_held && self.rules.leak_after.is_some_and(|after| held >= after) {
                conn.is_held = false;
                late.push((conn.place.id, held));
            }
        }
        late.sort_unstable();
        let mut reported: Vec<_> = overdue.iter().map(|o| (o.id, o.held)).collect();
        reported.sort_unstable();
        assert_eq!(reported, late);
        self.reporting.extend(late.iter().map(|&(id, _)| id));
        for (resting, id) in idle {
            let conn = self.idle.iter().find(|conn| conn.place.id == id);
            self.looked_at.push((resting, conn.unwrap().leases));
        }
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    fn evict_one(&mut self) {
        let mut fx = Effects::default();
        let mut expected = Expected::default();
        if self.random.chance(20) {
            let now = self.looked_at_the_clock();
            let found = self.table.evict_oldest(now, &mut fx);
            assert_eq!(found, !self.idle.is_empty());
            self.shed(usize::from(found), Eviction::OverLimit, &mut expected);
            if found {
                self.settle(now, &fx, &mut expected);
            }
        } else if !self.looked_at.is_empty() {
            let index = self.random.below(self.looked_at.len());
            let (resting, leases) = self.looked_at.swap_remove(index);
            let now = self.looked_at_the_clock();
            let why = Eviction::Unread;
            let evicted = self.table.evict_idle(resting, why, now, &mut fx);
            let rests = |conn: &&Conn| conn.place == resting.place && conn.leases == leases;
            let is_there = self.idle.iter().any(|conn| rests(&conn));
            assert_eq!(
                evicted, is_there,
                "what was seen before a lease counts after it"
            );
            if is_there {
                let conn = remove(&mut self.idle, resting.place.id).unwrap();
                self.gone(&conn, why, true, false, &mut expected);
                self.settle(now, &fx, &mut expected);
            }
        }
        self.check(&expected, fx);
    }

    fn ping(&mut self) {
        let now = self.looked_at_the_clock();
        let every = self.random.millis(500);
        let mut from = u32::try_from(self.random.below(3)).unwrap();
        let first = from;
        let found = self.table.next_ping(&mut from, every, now);
        let is_due = |conn: &&Conn| {
            conn.place.index >= first && now.saturating_duration_since(conn.tended) >= every
        };
        let due = self.idle.iter().filter(is_due);
        let expected = due.min_by_key(|c| c.place.index).map(id);
        let expected = expected.filter(|_| !self.has_ended && self.queue.is_empty());
        assert_eq!(found.as_ref().map(|(lease, _)| lease.place.id), expected);
        if let Some((lease, pinged)) = found {
            assert!(from > lease.place.index);
            let at = self.idle.iter().position(|c| c.place == lease.place);
            let before = at.unwrap().checked_sub(1).map(|at| id(&self.idle[at]));
            let mut conn = self.idle.remove(at.unwrap());
            conn.leases += 1;
            let since = conn.since;
            self.leased.push(conn);
            self.pings.push((lease, pinged, before, since));
        }
        self.check(&Expected::default(), Effects::default());
    }

    fn set_limit(&mut self) {
        let limit = self.random.below(7);
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        self.table.set_limit(limit, now, &mut fx);
        self.limit = limit;
        assert_eq!(self.table.limit(), limit);
        let surplus = self.occupied().saturating_sub(limit);
        let mut expected = Expected::default();
        let count = surplus.min(self.idle.len());
        self.shed(count, Eviction::OverLimit, &mut expected);
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    fn free(&mut self) {
        let keep = self.random.pick(&[0, 1, 2, 5, usize::MAX]);
        let close = self.random.pick(&[Close::Soft, Close::Hard]);
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        let freed = self.table.free(keep, close, now, &mut fx);
        let open = self.open();
        let mut expected = Expected::default();
        let mut wanted = Freed::NONE;
        let mut leased = std::mem::take(&mut self.leased);
        leased.sort_unstable_by_key(|conn| conn.place.index);
        for mut conn in leased {
            if conn.doom.is_none() && wanted.kept < keep {
                wanted.kept += 1;
                self.leased.push(conn);
            } else if close == Close::Hard {
                wanted.closed += 1;
                self.gone(&conn, Eviction::Freed, false, true, &mut expected);
                self.severed += 1;
            } else {
                wanted.doomed += 1;
                conn.doom = conn.doom.or(Some(Eviction::Freed));
                self.leased.push(conn);
            }
        }
        let spared = self.idle.len().min(keep - wanted.kept);
        let surplus = self.idle.len() - spared;
        wanted.kept += spared;
        wanted.closed += surplus;
        assert_eq!(freed, wanted);
        assert_eq!(freed.kept + freed.closed + freed.doomed, open);
        self.shed(surplus, Eviction::Freed, &mut expected);
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    fn end(&mut self, close: Close) {
        let now = self.looked_at_the_clock();
        let mut fx = Effects::default();
        let first = self.table.end(close, now, &mut fx);
        assert_eq!(first, !self.has_ended);
        self.has_ended = true;
        let mut expected = Expected::default();
        self.shed(self.idle.len(), Eviction::Ended, &mut expected);
        if close == Close::Hard {
            for conn in std::mem::take(&mut self.leased) {
                self.gone(&conn, Eviction::Ended, false, true, &mut expected);
                self.severed += 1;
            }
        }
        for conn in &mut self.leased {
            conn.doom = conn.doom.or(Some(Eviction::Ended));
        }
        while !self.queue.is_empty() {
            self.serve(Told::Ended, now, &mut expected);
        }
        self.settle(now, &fx, &mut expected);
        self.check(&expected, fx);
    }

    fn drain_or_report(&mut self) {
        if self.random.chance(50) {
            let reporting = std::mem::take(&mut self.reporting);
            let told = self.table.reported(&reporting);
            let told: Vec<_> = told.iter().map(|late| (late.id, late.why)).collect();
            assert_eq!(told, std::mem::take(&mut self.late));
        } else if self.drainers > 0 {
            self.table.end_draining();
            self.drainers -= 1;
        } else {
            let waits = self.table.begin_draining();
            assert_eq!(waits, !self.is_drained());
            self.drainers += usize::from(waits);
        }
    }

    fn change_weather(&mut self) {
        self.hurry();
        self.failing = self.random.pick(&[0, 10, 50, 95]);
        self.hanging_up = self.random.pick(&[0, 0, 50, 100, 100]);
        if self.random.chance(40) {
            let now = self.looked_at_the_clock();
            let mut fx = Effects::default();
            self.table.factory_changed(now, &mut fx);
            self.outage = None;
            self.hang_ups = 0;
            self.news_since = Some(now);
            for connect in &mut self.connecting {
                connect.outdated = true;
                connect.owner = None;
            }
            let mut expected = Expected::default();
            self.settle(now, &fx, &mut expected);
            self.check(&expected, fx);
        }
    }

    /// For a while little time passes, and the table has just handed off many connections.
    fn hurry(&mut self) {
        self.is_hurried = self.random.chance(30);
        if self.is_hurried {
            let now = self.now;
            for _ in 0..100 {
                self.convoy.handed_off(now);
                self.table.convoy().handed_off(now);
            }
        }
    }

    fn rarely(&mut self) {
        if self.random.chance(95) {
            let now = self.looked_at_the_clock();
            let mut fx = Effects::default();
            self.table.top_up(now, &mut fx);
            self.is_topping_up = true;
            let mut expected = Expected::default();
            self.settle(now, &fx, &mut expected);
            self.check(&expected, fx);
        } else {
            let close = self.random.pick(&[Close::Soft, Close::Hard]);
            self.end(close);
        }
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

    fn looked_at_the_clock(&mut self) -> Instant {
        let now = self.at();
        self.clock = self.clock.max(now);
        now
    }

    fn keep(&mut self, lease: Lease<Value>) {
        assert_eq!(lease.place.id, lease.held.id);
        self.leases.push(lease);
    }

    fn open(&self) -> usize {
        self.idle.len() + self.leased.len()
    }

    fn occupied(&self) -> usize {
        self.open() + self.connecting.len()
    }

    fn is_drained(&self) -> bool {
        self.leased.len() + self.connecting.len() + self.severed == 0
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

    fn refusal(&self, claims: usize, now: Instant) -> Option<Cause> {
        let Some(outage) = &self.outage else {
            return (self.open() + claims >= self.limit).then_some(Cause::Full);
        };
        if self.open() >= self.limit {
            return Some(Cause::Full);
        }
        let is_spaced = self
            .last_start
            .is_none_or(|start| now.saturating_duration_since(start) >= SPACING);
        let may_start = self.may_try_anew() && is_spaced;
        (!may_start).then(|| Cause::Connect(Arc::clone(&outage.error)))
    }

    /// What a caller that does not wait yet may have.
    fn take_newest(&mut self, overtake: bool, since: Instant) -> Option<(u64, bool)> {
        if !overtake && !self.queue.is_empty() {
            return None;
        }
        self.lease_newest(since)
    }

    /// Until when one who joins the queue now may be overtaken.
    fn patience(&self, now: Instant) -> Option<Instant> {
        let patience = self.convoy.patience(self.queue.len(), now)?;
        (self.occupied() >= self.limit).then(|| now + patience)
    }

    /// Whether the first waiter lets others go first, so that a connection may lie idle.
    fn is_first_patient(&self, now: Instant) -> bool {
        let until = self.queue.first().and_then(|first| first.patient_until);
        self.occupied() >= self.limit && until.is_some_and(|until| now < until)
    }

    fn connecting_anew(&self) -> usize {
        self.connecting.iter().filter(|c| !c.outdated).count()
    }

    fn may_connect(&self) -> bool {
        self.occupied() < self.limit && self.connecting.len() < self.rules.max_connecting
    }

    fn may_try_anew(&self) -> bool {
        self.may_connect() && self.connecting_anew() == 0
    }

    fn lease_newest(&mut self, since: Instant) -> Option<(u64, bool)> {
        let mut conn = self.idle.pop()?;
        let probe = since.saturating_duration_since(conn.since) >= self.rules.probe_after;
        conn.since = since;
        conn.leases += 1;
        let id = conn.place.id;
        self.leased.push(conn);
        Some((id, probe))
    }

    /// The newest idle connection goes to the one who came first.
    fn grant(&mut self, used: bool, now: Instant, expected: &mut Expected) {
        let (id, probe) = self.lease_newest(now).unwrap();
        self.serve(Told::Granted(id, used && probe), now, expected);
    }

    fn serve(&mut self, told: Told, now: Instant, expected: &mut Expected) {
        self.serve_at(0, told, now, expected);
    }

    fn serve_at(&mut self, place: usize, told: Told, now: Instant, expected: &mut Expected) {
        let mut caller = self.queue.remove(place);
        self.disown(caller.who);
        self.count_wait(&caller, now);
        caller.pending = Some(told);
        caller.is_trying = false;
        expected.answered.push(caller.who);
        self.served.push(caller);
    }

    /// Connects that were made for this caller go on for nobody in particular.
    fn disown(&mut self, who: u64) {
        for connect in &mut self.connecting {
            connect.owner = connect.owner.filter(|&owner| owner != who);
        }
    }

    fn count_wait(&mut self, caller: &Caller, now: Instant) {
        let waited = now.saturating_duration_since(caller.since);
        self.counts.waits += u64::from(!caller.is_counted);
        self.counts.wait_total += waited;
        self.counts.wait_max = self.counts.wait_max.max(waited);
    }

    fn shed(&mut self, count: usize, why: Eviction, expected: &mut Expected) {
        for _ in 0..count {
            let conn = self.idle.remove(0);
            self.gone(&conn, why, true, false, expected);
        }
    }

    fn gone(
        &mut self,
        conn: &Conn,
        why: Eviction,
        has_value: bool,
        is_cut: bool,
        expected: &mut Expected,
    ) {
        let id = conn.place.id;
        self.counts.releases += 1;
        self.evictions[why as usize] += 1;
        let is_told = !self.reporting.contains(&id);
        if !is_told {
            self.late.push((id, why));
        }
        expected.gone.push(Gone {
            id,
            why: why as usize,
            has_value,
            is_cut,
            is_told,
        });
    }

    fn start(&mut self, owner: Option<u64>, now: Instant, fx: &Effects, expected: &mut Expected) {
        let reserved = fx.connects.get(expected.connects);
        let reserved = reserved.expect("a connect is wanted and was not started");
        expected.connects += 1;
        let place = reserved.place;
        assert_eq!(reserved.needed, owner.is_some());
        assert!(!self.has_ended);
        assert!(self.occupied() < self.limit, "a connect above the limit");
        assert!(place.id > self.highest_id, "an id was used twice");
        let others = self.idle.iter().chain(&self.leased).map(|c| c.place.index);
        let mut others = others.chain(self.connecting.iter().map(|c| c.place.index));
        assert!(others.all(|other| other != place.index));
        if self.outage.is_some() {
            assert_eq!(self.connecting_anew(), 0, "two connects in an outage");
            let pause = now.saturating_duration_since(self.last_start.unwrap());
            assert!(
                pause >= SPACING,
                "another connect after {pause:?} in an outage"
            );
        }
        self.highest_id = place.id;
        self.last_start = Some(now);
        self.connecting.push(Connect {
            place,
            owner,
            outdated: false,
        });
    }

    fn settle(&mut self, now: Instant, fx: &Effects, expected: &mut Expected) {
        // Patience ends by the latest time that anybody has seen, however late this thread comes.
        self.settled = self.clock;
        let min_idle = self.rules.min_idle.min(self.limit);
        self.is_topping_up &= self.idle.len() < min_idle;
        while !self.idle.is_empty() && !self.queue.is_empty() && !self.is_first_patient(self.clock)
        {
            self.convoy.handed_off(now);
            self.grant(true, now, expected);
        }
        loop {
            let spare = min_idle.saturating_sub(self.idle.len());
            let spare = if self.is_topping_up { spare } else { 0 };
            let connecting = self.connecting_anew();
            let is_wanted = connecting < self.queue.len() + spare;
            if self.has_ended || self.occupied() >= self.limit || !is_wanted {
                break;
            }
            let may = match &self.outage {
                None => self.may_connect(),
                Some(_) if !self.may_try_anew() => false,
                // In between, the table alone knows when.
                Some(outage) if now < outage.earliest => false,
                Some(outage) => now >= outage.latest || fx.connects.len() > expected.connects,
            };
            if !may {
                break;
            }
            let is_owner = |who| self.connecting.iter().any(|c| c.owner == Some(who));
            let owner = self.queue.iter().map(|c| c.who).find(|&who| !is_owner(who));
            self.start(owner, now, fx, expected);
        }
        let (hopeful, cause) = match &self.outage {
            Some(outage) => (
                self.connecting_anew(),
                Cause::Connect(Arc::clone(&outage.error)),
            ),
            None => (self.limit.saturating_sub(self.open()), Cause::Full),
        };
        let is_trying = |caller: &Caller| caller.is_trying;
        while self.queue.iter().filter(|c| is_trying(c)).count() > hopeful {
            let last = self.queue.iter().rposition(is_trying).unwrap();
            self.fail(last, cause.clone(), now, expected);
        }
    }

    /// A caller's try fails; one that has only one leaves the queue with that.
    fn fail(&mut self, place: usize, cause: Cause, now: Instant, expected: &mut Expected) {
        if self.queue[place].stays {
            let caller = &mut self.queue[place];
            caller.is_trying = false;
            caller.pending = Some(Told::Failed(cause));
            expected.answered.push(caller.who);
        } else {
            self.serve_at(place, Told::Failed(cause), now, expected);
        }
    }

    /// Compares what the table did and is with what it should have done and be.
    fn check(&mut self, expected: &Expected, fx: Effects) {
        assert_eq!(fx.connects.len(), expected.connects, "connects");
        self.check_alarm(expected, &fx);
        let mut gone: Vec<Gone> = fx
            .closed
            .iter()
            .map(|closed| {
                assert_eq!(closed.id, closed.handle);
                assert!(closed.held.as_ref().is_none_or(|v| v.id == closed.id));
                Gone {
                    id: closed.id,
                    why: closed.why as usize,
                    has_value: closed.held.is_some(),
                    is_cut: closed.cut,
                    is_told: closed.tell,
                }
            })
            .collect();
        let mut wanted = expected.gone.clone();
        gone.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(gone, wanted);
        assert_eq!(
            fx.leftover.as_ref().map(|value| value.id),
            expected.leftover
        );
        assert!(!fx.drained || self.is_drained());
        if self.is_drained() && self.drainers > 0 {
            // Whoever made it so has told those who wait for it.
            assert!(fx.drained, "nobody told those who drain");
            for _ in 0..std::mem::take(&mut self.drainers) {
                self.table.end_draining();
            }
        }
        drop(fx);
        self.check_state();
    }

    /// Everybody with news is woken, and the first waiter keeps an outage's pool trying.
    fn check_alarm(&mut self, expected: &Expected, fx: &Effects) {
        let first = self.queue.first().filter(|_| self.may_try_anew());
        let mut alarm = None;
        if let (Some(first), Some(outage)) = (first, &mut self.outage) {
            let at = self.table.alarm(first.seat);
            let at = at.expect("nobody keeps the pool trying");
            assert!(outage.earliest <= at && at <= outage.latest, "{at:?}");
            (outage.earliest, outage.latest) = (at.max(outage.earliest), at);
            alarm = Some((first.who, at));
        }
        for caller in &self.queue {
            let keeps = alarm.filter(|&(who, _)| who == caller.who);
            let looks = caller.patient_until.map(|at| at + (at - caller.since));
            let looks = looks.filter(|&at| at > self.settled);
            let wanted = keeps.map(|(_, at)| at).or(looks);
            assert_eq!(self.table.alarm(caller.seat), wanted);
        }
        for who in &expected.answered {
            assert!(fx.wake.contains(who), "{who} has an answer and sleeps");
        }
        let new_alarm = alarm.filter(|_| alarm != self.alarm);
        if let Some((who, _)) = new_alarm {
            assert!(fx.wake.contains(&who), "{who} does not know of its alarm");
        }
        let is_meant = |who: &u64| {
            expected.answered.contains(who) || new_alarm.is_some_and(|(first, _)| first == *who)
        };
        assert!(
            fx.wake.iter().all(is_meant),
            "somebody is woken for nothing"
        );
        self.alarm = alarm;
    }

    fn check_state(&mut self) {
        let callers = self.queue.len() + self.served.len();
        self.most.0 = self.most.0.max(callers);
        self.most.1 = self.most.1.max(self.occupied());
        let stats = self.table.stats(7);
        let wanted = Stats {
            limit: self.limit,
            open: self.open(),
            idle: self.idle.len(),
            leased: self.leased.len(),
            connecting: self.connecting.len(),
            waiting: self.queue.len(),
            allocations: 7,
            evictions: stats.evictions.clone(),
            ..self.counts.clone()
        };
        assert_eq!(stats, wanted);
        for why in Eviction::all() {
            assert_eq!(stats.evicted(why), self.evictions[why as usize], "{why}");
        }
        let by_age: Vec<Place> = self
            .table
            .slots()
            .by_age()
            .map(|i| self.table.slots().place(i))
            .collect();
        assert_eq!(
            by_age,
            self.idle.iter().map(|c| c.place).collect::<Vec<_>>()
        );
        self.check_occupants();

        assert_eq!(stats.connects, stats.releases + stats.open as u64);
        assert_eq!(stats.releases, self.evictions.iter().sum::<u64>());
        let occupied = stats.idle + stats.leased + stats.connecting;
        assert_eq!(self.table.slots().occupied(), occupied);
        assert!(
            stats.idle == 0 || stats.waiting == 0 || self.is_first_patient(self.settled),
            "idle beside a waiter whose patience has ended"
        );
        let first = self.queue.first().filter(|_| stats.idle > 0);
        assert!(
            first.is_none_or(|first| self.table.alarm(first.seat).is_some()),
            "idle beside a waiter who will not look"
        );
        assert!(
            stats.idle == 0 || occupied <= stats.limit,
            "idle above the limit"
        );
        if !self.has_ended && self.outage.is_none() && occupied < stats.limit {
            let is_busy = stats.connecting >= self.rules.max_connecting;
            assert!(
                is_busy || stats.connecting >= stats.waiting,
                "a waiter without a connect"
            );
        }
        assert!(!self.has_ended || stats.waiting + stats.idle == 0);
        assert_eq!(self.table.is_drained(), self.is_drained());
        assert!(self.queue.is_sorted_by_key(|caller| caller.number));
        assert!(self.is_late || self.idle.is_sorted_by_key(|conn| conn.since));
        // Each client is idle, out, or on its way to a caller: none is lost.
        let granted = |caller: &&Caller| matches!(caller.pending, Some(Told::Granted(..)));
        let on_the_way = self.served.iter().filter(granted).count();
        let out = self.leases.len() + self.pings.len();
        assert_eq!(self.alive.get(), self.idle.len() + on_the_way + out);
        // Seats and slots are used again.
        assert!(self.queue.iter().all(|c| (c.seat as usize) < self.most.0));
        assert!(self.table.slots().len() as usize <= self.most.1);
    }

    fn check_occupants(&self) {
        let mut found: Vec<_> = self
            .table
            .slots()
            .occupants()
            .map(|(id, state, born, since, leases, _)| (id, state as u8, born, since, leases))
            .collect();
        let row = |conn: &Conn, state| {
            (
                conn.place.id,
                state as u8,
                conn.born,
                conn.since,
                conn.leases,
            )
        };
        let idle = self.idle.iter().map(|conn| row(conn, State::Idle));
        let leased = self.leased.iter().map(|conn| row(conn, State::Leased));
        let mut wanted: Vec<_> = idle.chain(leased).collect();
        found.retain(|row| row.1 != State::Connecting as u8);
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        for conn in &self.leased {
            let is_doomed = self.table.is_doomed(conn.place);
            assert_eq!(is_doomed, conn.doom.is_some());
        }
    }
}

fn id(conn: &Conn) -> u64 {
    conn.place.id
}

fn find(conns: &mut [Conn], id: u64) -> Option<&mut Conn> {
    conns.iter_mut().find(|conn| conn.place.id == id)
}

fn remove(conns: &mut Vec<Conn>, id: u64) -> Option<Conn> {
    let place = conns.iter().position(|conn| conn.place.id == id)?;
    Some(conns.remove(place))
}
