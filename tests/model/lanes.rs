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

use super::{Entry, Fate, GaveUp, Lanes, Lead, Look, Rules, Seat, Stage, Whose};
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
    Fate(Fate),
    Lead(Lead<Kit>),
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

/// Writes on this connection.
#[derive(Debug)]
struct Pen(usize, Vec<u8>);

impl super::Pen for Pen {
    fn ink(&mut self) -> &mut Vec<u8> {
        &mut self.1
    }
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "as in the real one")]
struct Kit {
    wire: Option<usize>,
    fresh: bool,
    out: Vec<u8>,
    wrote: usize,
    is_writing: bool,
    failed: bool,
    heard: bool,
    replies: Vec<u32>,
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
    Asleep { settled: bool },
    Writing { lane: usize, pen: Pen, done: usize },
    Leading(Leading),
    Over,
}

struct Leading {
    lane: usize,
    kit: Kit,
    own: Mine,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mine {
    Unsent,
    InFlight,
    Over,
}

enum Step {
    Connect { others: bool },
    Look,
    Write { own: bool, done: usize },
    Read,
    Pass(Mat, Lead<Kit>),
    Leave { wire: usize },
    Drift,
    Wait,
    Break,
}

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Replied,
    Unsent,
    Sent,
    /// A request that was written in part by a leader whose time was up.
    Torn,
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

type Machine = Lanes<Mat, Kit, Pen>;

struct Walk {
    random: Random,
    rules: Rules,
    now: Instant,
    lanes: Machine,
    callers: Vec<Caller>,
    wires: Vec<Wire>,
    /// Requests of which a byte was written, and those that were executed.
    touched: BTreeSet<u32>,
    executed: BTreeSet<u32>,
    /// Who leads which lane.
    leaders: BTreeMap<usize, u32>,
    next: u32,
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
        Self {
            random,
            rules,
            now,
            lanes: Lanes::new(rules, now),
            callers: Vec::new(),
            wires: Vec::new(),
            touched: BTreeSet::new(),
            executed: BTreeSet::new(),
            leaders: BTreeMap::new(),
            next: 0,
            overdue: vec![(false, 0); rules.lanes],
            calm: false,
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.below(12) {
                0..=2 if self.alive() < 12 => self.call(),
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
        if let Some(effects) = self.lanes.take_effects() {
            for (seat, fate) in effects.fates {
                seat.tell(Message::Fate(fate));
            }
            if let Some((seat, lead)) = effects.lead {
                seat.tell(Message::Lead(lead));
            }
        }
        decided
    }

    fn call(&mut self) {
        let id = self.next;
        self.next += 1;
        let len = if self.random.below(12) == 0 {
            self.rules.max_bytes + 1 + self.random.below(40)
        } else {
            8 + self.random.below(self.rules.max_bytes - 8)
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
        let at = match entry {
            Entry::Lead(lead) => At::Leading(self.begin_to_lead(id, lead)),
            Entry::Send { lane, pen } => self.begin_to_write(lane, pen),
            Entry::Wait(_) => At::Asleep { settled: false },
        };
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

    fn begin_to_lead(&mut self, id: u32, lead: Lead<Kit>) -> Leading {
        let Lead {
            lane,
            kit,
            others,
            stale,
        } = lead;
        let old = self.leaders.insert(lane, id);
        assert_eq!(old, None, "lane {lane} has two leaders");
        let mut kit = kit.unwrap_or_default();
        if let Some(wire) = kit.wire.filter(|_| stale) {
            if self.wires[wire].answers.is_empty() {
                let pen = self.with(|lanes| lanes.restart(lane));
                drop(pen);
                self.wires[wire].broken = true;
                kit = Kit::default();
            } else {
                kit.heard = true;
            }
        }
        let caller = self.callers.iter().find(|caller| caller.id == id);
        let own = match caller.map(|caller| self.lanes.calls[caller.key].stage) {
            None | Some(Stage::Own) => Mine::Unsent,
            Some(_) => Mine::InFlight,
        };
        let step = match kit.wire {
            None => Step::Connect { others },
            Some(_) => Step::Look,
        };
        Leading {
            lane,
            kit,
            own,
            step,
        }
    }

    fn begin_to_write(&mut self, lane: usize, pen: Pen) -> At {
        self.wires[pen.0].writers += 1;
        assert_eq!(self.wires[pen.0].writers, 1, "two write on one connection");
        At::Writing { lane, pen, done: 0 }
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
        let count = if self.calm {
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
            At::Asleep { settled } => self.sleep(at, id, key, settled),
            At::Writing {
                lane,
                mut pen,
                mut done,
            } => {
                let wrote = self.write(pen.0, &pen.1[done..]);
                done += wrote.unwrap_or(0);
                if wrote.is_ok() && done < pen.1.len() {
                    At::Writing { lane, pen, done }
                } else {
                    if wrote.is_err() {
                        self.wires[pen.0].broken = true;
                    }
                    self.wires[pen.0].writers -= 1;
                    pen.1.clear();
                    match self.with(|lanes| lanes.sent(lane, pen, (done, 1), wrote.is_err())) {
                        Some((lane, pen)) => self.begin_to_write(lane, pen),
                        None => At::Asleep { settled: false },
                    }
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
                Outcome::Sent | Outcome::Torn => {}
            }
            assert!(
                caller.seat.0.borrow().is_none(),
                "a message for a call that is over"
            );
        }
    }

    fn end(&mut self, at: usize, outcome: Outcome) {
        self.callers[at].outcome.get_or_insert(outcome);
    }

    fn fate(&mut self, at: usize, fate: &Fate) {
        self.end(
            at,
            match fate {
                Fate::Lost(_) => Outcome::Sent,
                Fate::Unsent(_) | Fate::NoConnection(_) => Outcome::Unsent,
            },
        );
    }

    fn is_late(&self, at: usize) -> bool {
        self.callers[at]
            .deadline
            .is_some_and(|deadline| deadline <= self.now)
    }

    fn sleep(&mut self, at: usize, id: u32, key: usize, settled: bool) -> At {
        let message = self.callers[at].seat.0.borrow_mut().take();
        match message {
            Some(Message::Reply(reply)) => {
                assert_eq!(reply, id, "the reply of another call");
                self.end(at, Outcome::Replied);
                At::Over
            }
            Some(Message::Fate(fate)) => {
                self.fate(at, &fate);
                At::Over
            }
            Some(Message::Lead(lead)) => At::Leading(self.begin_to_lead(id, lead)),
            None if settled => At::Asleep { settled },
            None if self.is_late(at) => match self.with(|lanes| lanes.give_up(key)) {
                GaveUp::Settled => At::Asleep { settled: true },
                GaveUp::Unsent => {
                    self.end(at, Outcome::Unsent);
                    At::Over
                }
                GaveUp::Sent => {
                    self.end(at, Outcome::Sent);
                    At::Over
                }
            },
            None => match self.random.below(2) {
                0 => match self.with(|lanes| lanes.again(key)) {
                    Entry::Lead(lead) => At::Leading(self.begin_to_lead(id, lead)),
                    Entry::Send { lane, pen } => self.begin_to_write(lane, pen),
                    Entry::Wait(_) => At::Asleep { settled },
                },
                _ => At::Asleep { settled },
            },
        }
    }

    fn lead(&mut self, at: usize, mut leading: Leading) -> At {
        let (lane, key) = (leading.lane, self.callers[at].key);
        let is_first_step =
            leading.own == Mine::Unsent && !matches!(leading.step, Step::Write { .. });
        if is_first_step && self.is_late(at) && leading.kit.wire.is_some() {
            self.abandon(at, &mut leading);
        }
        match leading.step {
            Step::Connect { others } => return self.connect(at, leading, others),
            Step::Look => self.look(at, &mut leading),
            Step::Write { own, done } => self.write_as_leader(at, &mut leading, own, done),
            Step::Read => {
                let wire = &mut self.wires[leading.kit.wire.unwrap()];
                if !wire.answers.is_empty() {
                    let count = 1 + self.random.below(wire.answers.len());
                    leading.kit.replies.extend(wire.answers.drain(..count));
                    leading.kit.heard = true;
                    leading.step = Step::Look;
                } else if wire.broken {
                    leading.step = Step::Break;
                } else if self.is_late(at) && leading.own != Mine::Over {
                    self.abandon(at, &mut leading);
                    leading.step = Step::Look;
                } else if self.random.below(25) == 0 {
                    leading.step = Step::Look;
                }
            }
            Step::Pass(seat, mut lead) => {
                self.leaders.remove(&lane);
                lead.kit = Some(leading.kit);
                seat.tell(Message::Lead(lead));
                return At::Over;
            }
            Step::Leave { wire } => {
                self.wires[wire].broken = true;
                assert_eq!(self.wires[wire].writers, 0);
                self.leaders.remove(&lane);
                self.with(|lanes| lanes.vacate(lane, Some(Kit::default())));
                return At::Over;
            }
            Step::Drift => match self.with(|lanes| lanes.drift(lane, leading.kit)) {
                Ok(()) => {
                    self.leaders.remove(&lane);
                    return At::Over;
                }
                Err(kit) => {
                    leading.kit = kit;
                    leading.step = Step::Look;
                }
            },
            Step::Wait => {
                if !self.lanes.is_writing(lane) {
                    leading.step = Step::Look;
                }
            }
            Step::Break => {
                let mut reply = None;
                let kit = &mut leading.kit;
                let told = report(&mut self.lanes, self.now, lane, key, kit, &mut reply);
                if std::mem::take(&mut kit.is_writing) {
                    self.lanes
                        .wrote(lane, std::mem::take(&mut kit.wrote), 1, kit.failed);
                }
                self.tell(told);
                if let Some(reply) = reply {
                    assert_eq!(reply, self.callers[at].id, "the reply of another call");
                    self.end(at, Outcome::Replied);
                }
                let error = Arc::new(io::Error::other("broken"));
                let Some(fate) = self.with(|lanes| lanes.broke(lane, key, &error)) else {
                    return At::Leading(Leading {
                        step: Step::Break,
                        ..leading
                    });
                };
                drop(self.with(|lanes| lanes.pen(lane)));
                if let Some(fate) = fate {
                    self.fate(at, &fate);
                }
                leading.own = Mine::Over;
                leading.step = Step::Leave {
                    wire: leading.kit.wire.unwrap(),
                };
            }
        }
        At::Leading(leading)
    }

    fn abandon(&mut self, at: usize, leading: &mut Leading) {
        let key = self.callers[at].key;
        let gave_up = self.with(|lanes| lanes.abandon(key));
        leading.own = Mine::Over;
        self.end(
            at,
            if gave_up == GaveUp::Sent {
                Outcome::Sent
            } else {
                Outcome::Unsent
            },
        );
    }

    fn connect(&mut self, at: usize, mut leading: Leading, others: bool) -> At {
        let lane = leading.lane;
        let key = self.callers[at].key;
        let stay = |leading| At::Leading(leading);
        if self.is_late(at) {
            let gave_up = self.with(|lanes| lanes.abandon(key));
            assert_eq!(gave_up, GaveUp::Unsent);
            self.end(at, Outcome::Unsent);
            self.leaders.remove(&lane);
            self.with(|lanes| lanes.vacate(lane, Some(leading.kit)));
            return At::Over;
        }
        match if self.calm { 9 } else { self.random.below(10) } {
            0..=2 => {
                leading.step = Step::Connect { others };
                stay(leading)
            }
            3 if others => {
                let request = self.callers[at].request.clone();
                self.leaders.remove(&lane);
                let back =
                    self.with(|lanes| lanes.stand_back(lane, Some(leading.kit), key, &request));
                match back {
                    Ok(()) => At::Asleep { settled: false },
                    Err(kit) => {
                        self.leaders.insert(lane, self.callers[at].id);
                        let kit = kit.unwrap();
                        stay(Leading {
                            kit,
                            step: Step::Connect { others: false },
                            ..leading_of(lane)
                        })
                    }
                }
            }
            4 if self.random.below(4) == 0 => {
                let error = Arc::new(Error::Ended);
                self.end(at, Outcome::Unsent);
                self.leaders.remove(&lane);
                self.with(|lanes| lanes.no_connection(lane, Some(leading.kit), key, &error));
                At::Over
            }
            _ => {
                self.wires.push(Wire::default());
                leading.kit.wire = Some(self.wires.len() - 1);
                leading.kit.fresh = true;
                leading.step = Step::Look;
                stay(leading)
            }
        }
    }

    fn look(&mut self, at: usize, leading: &mut Leading) {
        let (lane, key, id) = (leading.lane, self.callers[at].key, self.callers[at].id);
        let kit = &mut leading.kit;
        if kit.is_writing && !kit.out.is_empty() && leading.own != Mine::Over {
            leading.step = Step::Write {
                own: false,
                done: 0,
            };
            return;
        }
        let mut reply = None;
        let told = report(&mut self.lanes, self.now, lane, key, kit, &mut reply);
        if let Some(reply) = reply {
            assert_eq!(reply, id, "the reply of another call");
            leading.own = Mine::Over;
            self.callers[at].outcome.get_or_insert(Outcome::Replied);
        }
        let request = self.callers[at].request.clone();
        let wanted = self.random.below(12) == 0;
        let look = self.lanes.look(lane, (key, &request), wanted, &mut kit.out);
        if leading.own == Mine::Unsent && self.lanes.calls[key].stage != Stage::Own {
            leading.own = Mine::InFlight;
        }
        let begins = (!kit.out.is_empty() || matches!(look, Look::WriteOwn)) && !kit.is_writing;
        if begins {
            kit.is_writing = true;
            let wire = &self.wires[kit.wire.unwrap()];
            assert_eq!(wire.writers, 0, "a leader writes while another does");
        }
        self.tell(told);
        leading.step = match look {
            Look::Write => Step::Write {
                own: false,
                done: 0,
            },
            Look::WriteOwn => Step::Write { own: true, done: 0 },
            Look::Read => Step::Read,
            Look::HandOver(seat, lead) => {
                if leading.kit.out.is_empty() || self.random.below(4) == 0 {
                    Step::Pass(seat, lead)
                } else {
                    let out = std::mem::take(&mut leading.kit.out);
                    let mut done = 0;
                    while done < out.len() {
                        let Ok(count) = self.write(leading.kit.wire.unwrap(), &out[done..]) else {
                            leading.kit.failed = true;
                            break;
                        };
                        done += count;
                    }
                    leading.kit.wrote += done;
                    Step::Pass(seat, lead)
                }
            }
            Look::Release => {
                drop(self.with(|lanes| lanes.pen(lane)));
                let wire = leading.kit.wire.unwrap();
                let quiet = self.wires[wire].owed.is_empty() && self.wires[wire].answers.is_empty();
                assert!(quiet, "a lease goes back with replies outstanding");
                Step::Leave { wire }
            }
            Look::Discard => {
                drop(self.with(|lanes| lanes.pen(lane)));
                Step::Leave {
                    wire: leading.kit.wire.unwrap(),
                }
            }
            Look::Drift => Step::Drift,
            Look::Wait if leading.kit.is_writing => Step::Break,
            Look::Wait => Step::Wait,
        };
    }

    fn write_as_leader(&mut self, at: usize, leading: &mut Leading, own: bool, mut done: usize) {
        let bytes = if own {
            self.callers[at].request.clone()
        } else {
            leading.kit.out.clone()
        };
        if done < bytes.len()
            && self.is_late(at)
            && leading.own != Mine::Over
            && self.random.below(2) == 0
        {
            // Its time is up while the buffers are full.
            leading.kit.out.drain(..if own { 0 } else { done });
            self.abandon(at, leading);
            if own {
                self.callers[at].outcome = Some(Outcome::Torn);
            }
            leading.step = if own { Step::Break } else { Step::Look };
            return;
        }
        if let Ok(count) = self.write(leading.kit.wire.unwrap(), &bytes[done..]) {
            done += count;
            leading.kit.wrote += count;
            leading.step = Step::Write { own, done };
        } else {
            leading.kit.failed = true;
            done = bytes.len();
        }
        if done == bytes.len() {
            leading.kit.out.clear();
            leading.step = Step::Look;
        }
    }

    fn tell(&mut self, told: Vec<(Mat, u32)>) {
        for (seat, reply) in told {
            seat.tell(Message::Reply(reply));
        }
        // Effects of what was done without `with`.
        self.with(|_| ());
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
        let live = self.lanes.waiting().count();
        let used = self
            .lanes
            .lanes
            .iter()
            .any(|lane| lane.phase != super::Phase::Vacant);
        assert!(live == 0 || used, "{live} wait, and nobody leads");
        let unsent = self
            .lanes
            .calls
            .iter()
            .filter(|call| matches!(call.stage, Stage::Queued | Stage::Own));
        assert_eq!(unsent.count(), self.lanes.unsent);
    }
}

fn leading_of(lane: usize) -> Leading {
    Leading {
        lane,
        kit: Kit::default(),
        own: Mine::Unsent,
        step: Step::Look,
    }
}

/// What `Kit::report` does.
fn report(
    lanes: &mut Machine,
    now: Instant,
    lane: usize,
    key: usize,
    kit: &mut Kit,
    own: &mut Option<u32>,
) -> Vec<(Mat, u32)> {
    lanes.advance(now);
    if std::mem::take(&mut kit.fresh) {
        lanes.started(lane, kit.wire.map(|wire| Pen(wire, Vec::new())));
    }
    if kit.is_writing && kit.out.is_empty() {
        kit.is_writing = false;
        lanes.wrote(lane, std::mem::take(&mut kit.wrote), 1, kit.failed);
    }
    if std::mem::take(&mut kit.heard) {
        lanes.heard(lane);
    }
    let mut told = Vec::new();
    for reply in kit.replies.drain(..) {
        match lanes.answered(lane) {
            Whose::Caller(whose, _) if whose == key && own.is_none() => *own = Some(reply),
            Whose::Caller(_, seat) => told.push((seat, reply)),
            Whose::Nobody => {}
            Whose::Unasked => panic!("a reply that was not asked for"),
        }
    }
    told
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
