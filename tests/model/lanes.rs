//! The lanes of a pipeline in random walks: callers, leaders, writers and servers that do whatever
//! they may, in any order.
//!
//! Each walk plays what the files of `src/pipeline` do, in single steps, against a
//! server that keeps books: which requests had a byte of theirs written, and in which order they
//! were answered. `JACKPOT_SEED` walks one seed, `JACKPOT_SEEDS` that many.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::env;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Condition, Entry, Failure, Lanes, Lead, News, Report, Rules, Seat, Stage, Step as Next, Whose,
};
use crate::report::error::Error;

const STEPS: usize = 600;

#[test]
fn random_walks_of_callers_and_leaders() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match (number("JACKPOT_SEED"), number("JACKPOT_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(if cfg!(miri) { 3 } else { 600 }),
    };
    for seed in seeds {
        let walk = catch_unwind(AssertUnwindSafe(|| Walk::new(seed).run()));
        if let Err(panic) = walk {
            eprintln!("to see it again: JACKPOT_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[derive(Debug)]
enum Message {
    Reply(u32),
    News(News),
}

#[derive(Clone, Debug)]
struct Mat(Rc<RefCell<Option<Message>>>);

impl Seat for Mat {
    fn new() -> Self {
        Self(Rc::default())
    }

    fn is_free(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

impl Mat {
    #[track_caller]
    fn tell(&self, message: Message) {
        let old = self.0.borrow_mut().replace(message);
        assert!(old.is_none(), "two messages on one seat");
    }
}

/// What the leaders of a lane work with.
#[derive(Debug, Default)]
struct Io {
    wire: Option<usize>,
    out: Vec<u8>,
    report: Report,
    replies: Vec<u32>,
    /// The connection is of no use any more.
    broken: bool,
}

/// A connection and the server behind it.
#[derive(Default)]
struct Wire {
    /// Bytes of a request that is not complete.
    partial: Vec<u8>,
    owed: VecDeque<u32>,
    answers: VecDeque<u32>,
    broken: bool,
    writers: usize,
}

/// What a caller's thread is at.
enum At {
    Asleep {
        is_told: bool,
    },
    Writing {
        lane: usize,
        bytes: Vec<u8>,
        done: usize,
    },
    Leading(Leading),
    Over,
}

struct Leading {
    lane: usize,
    own: bool,
    step: Step,
}

enum Step {
    Connect { others: bool },
    Look,
    Write { own: bool, done: usize },
    Read,
    HandOver(Mat, Lead),
    Pass,
    Leave,
    Drift,
    Break,
}

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Replied,
    Unsent,
    Sent,
}

struct Caller {
    id: u32,
    request: Vec<u8>,
    deadline: Option<Instant>,
    key: usize,
    seat: Mat,
    at: At,
    outcome: Option<Outcome>,
}

type Machine = Lanes<Mat>;

struct Walk {
    random: Random,
    rules: Rules,
    now: Instant,
    lanes: Machine,
    callers: Vec<Caller>,
    wires: Vec<Wire>,
    /// Of each lane.
    ios: Vec<Io>,
    /// Requests of which a byte was written, and those that were executed.
    touched: BTreeSet<u32>,
    executed: BTreeSet<u32>,
    /// Who leads which lane.
    leaders: BTreeMap<usize, u32>,
    next: u32,
    /// So many callers at once: few, so that leaders wait in reads, or many.
    most: usize,
    /// Calls that are too large for a lane keep others from writing for themselves.
    has_large: bool,
    /// Of each lane, at the last check: whether a reply was overdue, and the bytes taken on.
    overdue: Vec<(bool, u64)>,
    /// No trouble any more: everything that waits must come to its end.
    calm: bool,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let rules = Rules {
            lanes: 1 + random.below(3),
            max_in_flight: 1 + random.below(8),
            max_bytes: 24 + random.below(200),
        };
        let now = Instant::now();
        let most = 2 + random.below(11);
        let has_large = random.below(2) == 0;
        Self {
            random,
            rules,
            now,
            lanes: Lanes::new(rules, now),
            callers: Vec::new(),
            wires: Vec::new(),
            ios: (0..rules.lanes).map(|_| Io::default()).collect(),
            touched: BTreeSet::new(),
            executed: BTreeSet::new(),
            leaders: BTreeMap::new(),
            next: 0,
            most,
            has_large,
            overdue: vec![(false, 0); rules.lanes],
            calm: false,
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.below(12) {
                0..=2 if self.alive() < self.most => self.call(),
                3 => self.pass_time(),
                4..=5 => self.serve(),
                6 if self.random.below(4) == 0 => self.cut(),
                _ => self.move_somebody(),
            }
            self.check();
        }
        self.calm = true;
        let mut idle = 0;
        while self.alive() > 0 {
            self.pass_time();
            self.serve();
            let before = self.alive();
            for at in 0..self.callers.len() {
                self.make_step(at);
                self.check();
            }
            idle = if self.alive() < before { 0 } else { idle + 1 };
            assert!(idle < 200, "somebody waits for ever: {:?}", self.waiting());
        }
        // Whatever drifts is drained or replaced by who comes next.
        for _ in 0..self.rules.lanes {
            self.call();
            while self.alive() > 0 {
                self.serve();
                self.make_step(0);
            }
        }
        let stats = self.lanes.stats();
        assert_eq!(
            (stats.queued, stats.in_flight, stats.lanes),
            (0, 0, 0),
            "{stats}"
        );
    }

    fn alive(&self) -> usize {
        self.callers.len()
    }

    fn waiting(&self) -> Vec<(u32, &'static str)> {
        let what = |caller: &Caller| match &caller.at {
            At::Asleep { .. } => "asleep",
            At::Writing { .. } => "writing",
            At::Leading(_) => "leading",
            At::Over => "over",
        };
        self.callers
            .iter()
            .map(|caller| (caller.id, what(caller)))
            .collect()
    }

    fn with<T>(&mut self, decide: impl FnOnce(&mut Machine) -> T) -> T {
        self.lanes.advance(self.now);
        let decided = decide(&mut self.lanes);
        for (seat, news) in self.lanes.take_news() {
            seat.tell(Message::News(news));
        }
        decided
    }

    fn call(&mut self) {
        let id = self.next;
        self.next += 1;
        let len = if self.has_large && self.random.below(12) == 0 {
            self.rules.max_bytes + 1 + self.random.below(40)
        } else {
            // Small ones, so that many are in flight, and some that fill a lane.
            let part = [1, 8][self.random.below(2)];
            8 + self.random.below((self.rules.max_bytes - 8) / part)
        };
        let mut request = vec![0; len];
        request[..4].copy_from_slice(&id.to_le_bytes());
        request[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        let hurries = !self.calm && self.random.below(2) == 0;
        let time = Duration::from_micros(1 + self.random.below(3000) as u64);
        let deadline = hurries.then(|| self.now + time);
        let first = self.random.below(8) == 0;
        let (key, seat, entry) = self.with(|lanes| lanes.enter(&request, deadline, first));
        assert!(
            self.callers.iter().all(|other| other.key != key),
            "two calls with one place"
        );
        let mut at = self.begin(id, entry);
        if matches!(at, At::Asleep { .. }) && self.random.below(2) == 0 {
            // Those who lead read for long.
            let entry = self.with(|lanes| lanes.again(key));
            at = self.begin(id, entry);
        }
        self.callers.push(Caller {
            id,
            request,
            deadline,
            key,
            seat,
            at,
            outcome: None,
        });
    }

    fn begin(&mut self, id: u32, entry: Entry) -> At {
        match entry {
            Entry::Lead(lead) => At::Leading(self.begin_to_lead(id, lead)),
            Entry::Send { lane, bytes } => {
                let wire = &mut self.wires[self.ios[lane].wire.unwrap()];
                wire.writers += 1;
                assert_eq!(wire.writers, 1, "two write on one connection");
                At::Writing {
                    lane,
                    bytes,
                    done: 0,
                }
            }
            Entry::Wait(_) => At::Asleep { is_told: false },
        }
    }

    fn begin_to_lead(&mut self, id: u32, lead: Lead) -> Leading {
        let lane = lead.lane;
        let old = self.leaders.insert(lane, id);
        assert_eq!(old, None, "lane {lane} has two leaders");
        if let Some(wire) = self.ios[lane].wire.filter(|_| lead.stale) {
            if self.wires[wire].answers.is_empty() {
                self.with(|lanes| lanes.restart(lane));
                self.close(lane);
            } else {
                self.ios[lane].report.heard = true;
            }
        }
        let step = match &self.ios[lane] {
            Io { broken: true, .. } => Step::Break,
            Io { wire: None, .. } => Step::Connect {
                others: lead.others,
            },
            Io { out, .. } if lead.own && !out.is_empty() => Step::Write {
                own: false,
                done: 0,
            },
            _ => Step::Look,
        };
        Leading {
            lane,
            own: lead.own,
            step,
        }
    }

    fn close(&mut self, lane: usize) {
        if let Some(wire) = std::mem::take(&mut self.ios[lane]).wire {
            self.wires[wire].broken = true;
            assert_eq!(self.wires[wire].writers, 0);
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_micros(self.random.below(400) as u64);
    }

    fn serve(&mut self) {
        if self.wires.is_empty() {
            return;
        }
        let wires = self.wires.len();
        let all = if self.calm {
            0..wires
        } else {
            let at = self.random.below(wires);
            at..at + 1
        };
        for at in all {
            let wire = &mut self.wires[at];
            if let Some(id) = wire.owed.pop_front() {
                wire.answers.push_back(id);
            }
        }
    }

    fn cut(&mut self) {
        if !self.wires.is_empty() {
            let at = self.random.below(self.wires.len());
            self.wires[at].broken = true;
        }
    }

    fn move_somebody(&mut self) {
        if !self.callers.is_empty() {
            let at = self.random.below(self.callers.len());
            self.make_step(at);
        }
    }

    /// Writes on a connection; how much of it, or that it failed.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<usize, ()> {
        if self.wires[at].broken {
            return Err(());
        }
        let count = if self.calm || self.random.below(2) == 0 {
            bytes.len()
        } else {
            1 + self.random.below(bytes.len())
        };
        let wire = &mut self.wires[at];
        for &byte in &bytes[..count] {
            wire.partial.push(byte);
            let head = |at: usize| {
                wire.partial
                    .get(at..at + 4)
                    .map(|four| u32::from_le_bytes(four.try_into().unwrap()))
            };
            let Some(id) = head(0) else { continue };
            self.touched.insert(id);
            if head(4).is_some_and(|len| len as usize == wire.partial.len()) {
                assert!(self.executed.insert(id), "request {id} was executed twice");
                wire.owed.push_back(id);
                wire.partial.clear();
            }
        }
        Ok(count)
    }

    fn make_step(&mut self, at: usize) {
        let Some(caller) = self.callers.get_mut(at) else {
            return;
        };
        let (id, key) = (caller.id, caller.key);
        let place = std::mem::replace(&mut caller.at, At::Over);
        let next = match place {
            At::Over => unreachable!(),
            At::Asleep { is_told } => self.sleep(at, id, key, is_told),
            At::Writing {
                lane,
                bytes,
                mut done,
            } => {
                let wire = self.ios[lane].wire.unwrap();
                let wrote = self.write(wire, &bytes[done..]);
                done += wrote.unwrap_or(0);
                if wrote.is_ok() && done < bytes.len() {
                    At::Writing { lane, bytes, done }
                } else {
                    if wrote.is_err() {
                        self.wires[wire].broken = true;
                    }
                    self.wires[wire].writers -= 1;
                    let report = Report {
                        bytes: done,
                        writes: 1,
                        failed: wrote.is_err(),
                        heard: false,
                    };
                    let entry = self.with(|lanes| lanes.sent(key, lane, bytes, &report));
                    self.begin(id, entry)
                }
            }
            At::Leading(leading) => self.lead(at, leading),
        };
        let is_over = matches!(next, At::Over);
        self.callers[at].at = next;
        if is_over {
            let caller = self.callers.swap_remove(at);
            let outcome = caller.outcome.expect("a call ends with an outcome");
            match outcome {
                Outcome::Unsent => assert!(!self.touched.contains(&id), "{id} was sent"),
                Outcome::Replied => assert!(self.executed.contains(&id), "{id} was not executed"),
                Outcome::Sent => {}
            }
            assert!(
                caller.seat.0.borrow().is_none(),
                "a message for a call that is over"
            );
        }
    }

    fn is_late(&self, at: usize) -> bool {
        self.callers[at]
            .deadline
            .is_some_and(|deadline| deadline <= self.now)
    }

    fn sleep(&mut self, at: usize, id: u32, key: usize, is_told: bool) -> At {
        let message = self.callers[at].seat.0.borrow_mut().take();
        let outcome = match message {
            Some(Message::Reply(reply)) => {
                assert_eq!(reply, id, "the reply of another call");
                Outcome::Replied
            }
            Some(Message::News(News::Failed(failure))) => match failure {
                Failure::Lost(_) | Failure::TimedOut { sent: true } => Outcome::Sent,
                Failure::Unsent(_)
                | Failure::NoConnection(_)
                | Failure::TimedOut { sent: false } => Outcome::Unsent,
            },
            Some(Message::News(News::Lead(lead))) => return self.begin(id, Entry::Lead(lead)),
            None if !is_told && self.is_late(at) => {
                self.with(|lanes| lanes.time_is_up(key, false));
                return At::Asleep { is_told: true };
            }
            None if self.random.below(2) == 0 => {
                let entry = self.with(|lanes| lanes.again(key));
                return self.begin(id, entry);
            }
            None => return At::Asleep { is_told },
        };
        self.callers[at].outcome = Some(outcome);
        At::Over
    }

    /// What a leader does that has left its lane.
    fn left(&mut self, lane: usize) -> At {
        self.leaders.remove(&lane);
        At::Asleep { is_told: false }
    }

    fn lead(&mut self, at: usize, leading: Leading) -> At {
        let (lane, own) = (leading.lane, leading.own);
        let own_key = own.then_some(self.callers[at].key);
        let step = match leading.step {
            Step::Connect { others } => match self.connect(at, lane, others) {
                Some(step) => step,
                None => return self.left(lane),
            },
            Step::Look => self.look(at, lane, own),
            Step::Write { own, done } => self.write_as_leader(at, lane, own, done),
            Step::Read => self.read(at, lane),
            Step::HandOver(seat, lead) => {
                let left = self.left(lane);
                seat.tell(Message::News(News::Lead(lead)));
                return left;
            }
            Step::Pass => return self.left(lane),
            Step::Leave => {
                self.close(lane);
                let left = self.left(lane);
                self.with(|lanes| lanes.vacate(lane));
                return left;
            }
            Step::Drift => {
                let left = self.left(lane);
                self.with(|lanes| lanes.drift(lane));
                return left;
            }
            Step::Break => {
                self.report(lane);
                let error = Arc::new(io::Error::other("broken"));
                if self.with(|lanes| lanes.broke(lane, own_key, &error)) {
                    Step::Leave
                } else {
                    self.ios[lane].broken = true;
                    let wire = self.ios[lane].wire.unwrap();
                    self.wires[wire].broken = true;
                    return self.left(lane);
                }
            }
        };
        At::Leading(Leading { lane, own, step })
    }

    /// What `Io::report` does.
    fn report(&mut self, lane: usize) {
        let io = &mut self.ios[lane];
        self.lanes.advance(self.now);
        self.lanes.report(lane, &std::mem::take(&mut io.report));
        for reply in io.replies.drain(..) {
            match self.lanes.answered(lane) {
                Whose::Caller(seat) => seat.tell(Message::Reply(reply)),
                Whose::Nobody => {}
                Whose::Unasked => panic!("a reply that was not asked for"),
            }
        }
    }

    fn time_is_up(&mut self, at: usize) {
        let key = self.callers[at].key;
        self.with(|lanes| lanes.time_is_up(key, true));
    }

    fn is_over(&self, at: usize) -> bool {
        self.lanes.calls[self.callers[at].key].stage == Stage::Over
    }

    fn read(&mut self, at: usize, lane: usize) -> Step {
        assert!(!self.is_over(at), "a call that is over waits for others");
        let is_late = self.is_late(at);
        let io = &mut self.ios[lane];
        let wire = &mut self.wires[io.wire.unwrap()];
        if !wire.answers.is_empty() {
            let count = 1 + self.random.below(wire.answers.len());
            io.replies.extend(wire.answers.drain(..count));
            io.report.heard = true;
            Step::Look
        } else if wire.broken {
            Step::Break
        } else if is_late {
            self.time_is_up(at);
            Step::Look
        } else if !self.calm && self.random.below(25) == 0 {
            Step::Look
        } else {
            Step::Read
        }
    }

    fn connect(&mut self, at: usize, lane: usize, others: bool) -> Option<Step> {
        let key = self.callers[at].key;
        if self.is_late(at) {
            self.time_is_up(at);
            self.with(|lanes| lanes.vacate(lane));
            return None;
        }
        match if self.calm { 9 } else { self.random.below(10) } {
            0..=2 => Some(Step::Connect { others }),
            3 if others => {
                let request = self.callers[at].request.clone();
                let stands_back = self.with(|lanes| lanes.stand_back(lane, key, &request));
                (!stands_back).then_some(Step::Connect { others: false })
            }
            4 if self.random.below(4) == 0 => {
                let error = Arc::new(Error::Ended);
                self.with(|lanes| lanes.no_connection(lane, key, &error));
                None
            }
            _ => {
                self.wires.push(Wire::default());
                self.ios[lane].wire = Some(self.wires.len() - 1);
                Some(Step::Look)
            }
        }
    }

    fn look(&mut self, at: usize, lane: usize, own: bool) -> Step {
        self.report(lane);
        let call = (self.callers[at].key, &self.callers[at].request[..]);
        let own = own.then_some(call);
        let condition = Condition {
            wanted: self.random.below(12) == 0,
            shared: true,
        };
        let io = &mut self.ios[lane];
        let step = self.lanes.next_step(lane, own, condition, &mut io.out);
        // What it decided is told.
        self.with(|_| ());
        let wire = self.ios[lane].wire.unwrap();
        match step {
            Next::Write => Step::Write {
                own: false,
                done: 0,
            },
            Next::WriteOwn => Step::Write { own: true, done: 0 },
            Next::Read => Step::Read,
            Next::HandOver(seat, lead) => {
                if self.random.below(4) > 0 {
                    let out = std::mem::take(&mut self.ios[lane].out);
                    let mut done = 0;
                    while done < out.len() {
                        let Ok(count) = self.write_reported(lane, &out[done..]) else {
                            break;
                        };
                        done += count;
                    }
                }
                Step::HandOver(seat, lead)
            }
            Next::Pass => Step::Pass,
            Next::Release => {
                let quiet = self.wires[wire].owed.is_empty() && self.wires[wire].answers.is_empty();
                assert!(quiet, "a lease goes back with replies outstanding");
                assert_eq!(
                    self.wires[wire].writers, 0,
                    "a lease goes back while somebody writes"
                );
                Step::Leave
            }
            Next::Discard => Step::Leave,
            Next::Drift => Step::Drift,
        }
    }

    /// A leader writes.
    fn write_reported(&mut self, lane: usize, bytes: &[u8]) -> Result<usize, ()> {
        let wire = self.ios[lane].wire.unwrap();
        assert_eq!(
            self.wires[wire].writers, 0,
            "a leader writes while another does"
        );
        let wrote = self.write(wire, bytes);
        let report = &mut self.ios[lane].report;
        match wrote {
            Ok(count) => report.bytes += count,
            Err(()) => report.failed = true,
        }
        wrote
    }

    fn write_as_leader(&mut self, at: usize, lane: usize, own: bool, mut done: usize) -> Step {
        let bytes = if own {
            self.callers[at].request.clone()
        } else {
            self.ios[lane].out.clone()
        };
        if self.is_late(at) && self.random.below(2) == 0 {
            // Its time is up while the buffers are full.
            self.time_is_up(at);
            if own {
                return Step::Break;
            }
            self.ios[lane].out.drain(..done);
            return Step::Look;
        }
        done += self
            .write_reported(lane, &bytes[done..])
            .unwrap_or(bytes.len());
        if done < bytes.len() {
            return Step::Write { own, done };
        }
        self.ios[lane].out.clear();
        Step::Look
    }

    fn check(&mut self) {
        for (lane, before) in self.lanes.lanes.iter().zip(&mut self.overdue) {
            let now = (lane.overdue, lane.booked);
            let old = std::mem::replace(before, now);
            let behind = old.0 && now.0 && now.1 > old.1;
            assert!(!behind, "something new behind an overdue reply");
            let count = lane.flights.len();
            assert!(count <= self.rules.max_in_flight.max(1));
            let bytes: usize = lane.flights.iter().map(|flight| flight.len).sum();
            assert_eq!(bytes, lane.outstanding);
            assert!(
                bytes <= self.rules.max_bytes || count == 1,
                "{bytes} bytes in {count}"
            );
            assert!(lane.written <= lane.booked);
        }
        let live = usize::from(self.lanes.first_waiting().is_some());
        let used = self
            .lanes
            .lanes
            .iter()
            .any(|lane| lane.phase != super::Phase::Vacant);
        assert!(live == 0 || used, "{live} wait, and nobody leads");
        for call in &self.lanes.calls {
            let queues = [&self.lanes.queue, &self.lanes.large];
            let places = queues.iter().flat_map(|queue| queue.iter());
            let places =
                places.filter(|key| std::ptr::eq(&raw const self.lanes.calls[**key], call));
            let is_queued = call.stage == Stage::Queued;
            assert_eq!(places.count(), usize::from(is_queued), "{call:?}");
        }
    }
}

/// Sebastiano Vigna's `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap()
    }
}
