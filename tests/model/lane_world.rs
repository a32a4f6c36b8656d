//! The lanes of a pipeline together with all that acts on them: callers, leaders, writers, servers.
//!
//! It plays what the files of `src/pipeline` do, from one use of the lock to the next: each step of
//! a caller is what its thread does until then. The server keeps books: which requests had a byte
//! of theirs written, and in which order they were answered. Where things may go one way or another,
//! [`Choices`] decide: at random in the walks of `model/lanes.rs`, and each way in turn in the search
//! of `explore/lanes.rs`.
//!
//! What a caller is told it may see at any time later.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Entry, Fate, GaveUp, Lanes, Lead, Look, Phase, Rules, Seat, Stage, Whose};
use crate::explore::Choices;
use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;

/// What there is, and what may happen.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct Config {
    pub(super) rules: Rules,
    pub(super) callers: usize,
    /// How far the clock moves at once, and how long calls have that hurry; else it stands still.
    pub(super) step: Option<Duration>,
    /// What the shortest round trip is pinned to, if it is.
    pub(super) shortest: Option<Option<Duration>>,
    /// Clients are streams on which others than the leader can write.
    pub(super) has_pens: bool,
    /// Clients are of another kind: they may panic, and fail after they have sent something.
    pub(super) is_foreign: bool,
    /// There are calls that go before others, because their lane broke.
    pub(super) firsts: bool,
    pub(super) larges: bool,
    /// The other side cuts connections.
    pub(super) cuts: bool,
    /// Writes may stop in the middle: others act before they go on, or never.
    pub(super) parts: bool,
    /// Replies that are not wholly there, that are none, or that were not asked for.
    pub(super) nonsense: bool,
    /// The pool wants connections back, and closes those that nobody waits on.
    pub(super) recalls: bool,
    /// Connects fail.
    pub(super) refuses: bool,
    pub(super) ends: bool,
}

/// Where a caller sleeps. What it is told lies in [`World::post`].
#[derive(Debug)]
pub(super) struct Mat(Rc<()>);

thread_local! {
    /// While a world is copied: which mat became which.
    static COPIES: RefCell<Option<Vec<(Mat, Mat)>>> = const { RefCell::new(None) };
}

impl Clone for Mat {
    fn clone(&self) -> Self {
        COPIES.with_borrow_mut(|copies| {
            let Some(copies) = copies else {
                return Self(Rc::clone(&self.0));
            };
            if let Some((_, new)) = copies.iter().find(|(old, _)| old.is(self)) {
                return Self(Rc::clone(&new.0));
            }
            let new = Rc::default();
            copies.push((Self(Rc::clone(&self.0)), Self(Rc::clone(&new))));
            Self(new)
        })
    }
}

impl Mat {
    pub(super) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Seat for Mat {
    fn new() -> Self {
        Self(Rc::default())
    }

    fn is_free(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

/// Writes on this connection.
#[derive(Clone, Debug)]
pub(super) struct Pen {
    pub(super) wire: u32,
    pub(super) ink: Vec<u8>,
}

impl super::Pen for Pen {
    fn ink(&mut self) -> &mut Vec<u8> {
        &mut self.ink
    }
}

#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "as in the real one")]
pub(super) struct Kit {
    pub(super) wire: Option<u32>,
    /// The connection, while nobody leads the lane.
    pub(super) left: Option<u32>,
    pub(super) is_fresh: bool,
    pub(super) out: Vec<u8>,
    pub(super) wrote: usize,
    pub(super) is_writing: bool,
    pub(super) has_failed: bool,
    pub(super) has_heard: bool,
    /// A part of the next reply was read.
    pub(super) has_half: bool,
    pub(super) replies: Vec<u32>,
}

/// A connection and the server behind it.
#[derive(Clone, Debug, Default)]
pub(super) struct Wire {
    /// Bytes of a request that is not complete.
    pub(super) partial: Vec<u8>,
    pub(super) owed: VecDeque<u32>,
    pub(super) answers: VecDeque<u32>,
    pub(super) is_broken: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Reply(u32),
    Fate(Fate),
    Lead(Lead<Kit>),
}

/// What a caller's thread is at.
#[derive(Clone, Debug)]
pub(super) enum At {
    Asleep {
        /// It wakes by itself by and by.
        looks: bool,
        /// It knows that its outcome is on the way.
        is_settled: bool,
    },
    Writing {
        lane: usize,
        pen: Pen,
        done: usize,
    },
    Leading(Leading),
    Over,
}

#[derive(Clone, Debug)]
pub(super) struct Leading {
    pub(super) lane: usize,
    pub(super) kit: Kit,
    pub(super) step: Step,
}

/// What a leader does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Begin {
        others: bool,
        stale: bool,
    },
    Connect {
        others: bool,
    },
    Look,
    /// Writes what is in the kit.
    Write,
    /// Writes its own call, of which so much is written.
    WriteOwn(usize),
    Read,
    /// Gives its own call up, and looks again, or breaks the lane, or leaves it.
    Abandon(Then),
    HandOver(Mat, Lead<Kit>),
    LayDown,
    Drift,
    Wait,
    Break,
    /// Gives the connection back, or closes it, and then the lane.
    Leave {
        is_clean: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Look,
    Break,
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Replied,
    Unsent,
    /// Its time was up.
    Sent,
    Lost,
}

#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) id: u32,
    pub(super) len: usize,
    pub(super) deadline: Option<Instant>,
    pub(super) key: usize,
    pub(super) mat: Mat,
    pub(super) at: At,
    pub(super) outcome: Option<Outcome>,
    /// The other side has seen a byte of it.
    pub(super) was_touched: bool,
    pub(super) was_executed: bool,
}

pub(super) type Machine = Lanes<Mat, Kit, Pen>;

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) lanes: Machine,
    pub(super) callers: Vec<Caller>,
    /// What callers have been told and have not seen.
    pub(super) post: Vec<(Mat, Message)>,
    pub(super) wires: Vec<(u32, Wire)>,
    pub(super) has_ended: bool,
    executed: Vec<u32>,
    next_id: u32,
    next_wire: u32,
    /// The counters as they should be, and the requests whose callers had given them up when their
    /// lane went.
    books: PipelineStats,
    dropped: u64,
    /// Of each lane, at the last check: whether a reply was overdue, and the bytes taken on.
    overdue: Vec<(bool, u64)>,
}

impl Clone for World {
    fn clone(&self) -> Self {
        COPIES.set(Some(Vec::new()));
        let copy = Self {
            lanes: self.lanes.clone(),
            callers: self.callers.clone(),
            post: self.post.clone(),
            wires: self.wires.clone(),
            executed: self.executed.clone(),
            books: self.books.clone(),
            overdue: self.overdue.clone(),
            ..*self
        };
        COPIES.set(None);
        copy
    }
}

impl Caller {
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    fn request(&self) -> Vec<u8> {
        request(self.id, self.len)
    }
}

/// Its number, its length, and nothing else.
fn request(id: u32, len: usize) -> Vec<u8> {
    let mut request = vec![0; len];
    request[..4].copy_from_slice(&id.to_le_bytes());
    request[4..8].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    request
}

impl Kit {
    fn clear(&mut self) {
        self.out.clear();
        self.wrote = 0;
        (self.is_writing, self.has_failed) = (false, false);
        (self.has_heard, self.has_half) = (false, false);
    }
}

impl Wire {
    /// How many of these bytes go up to the next place at which it matters where a write stops:
    /// the first byte of a request, or its last one.
    fn part(&self, bytes: &[u8]) -> usize {
        if self.partial.is_empty() {
            return 1;
        }
        let begun: Vec<u8> = self.partial.iter().chain(bytes).copied().collect();
        head(&begun, 4) as usize - self.partial.len()
    }

    fn has_come(&self) -> bool {
        !self.answers.is_empty()
    }
}

/// A number in a request, or one that is too large if that is not there yet.
fn head(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4);
    four.map_or(u32::MAX, |four| {
        u32::from_le_bytes(four.try_into().unwrap())
    })
}

fn entered(entry: Entry<Kit, Pen>) -> At {
    match entry {
        Entry::Lead(lead) => begin_to_lead(lead),
        Entry::Send { lane, pen } => At::Writing { lane, pen, done: 0 },
        Entry::Wait(again) => At::Asleep {
            looks: again.is_some(),
            is_settled: false,
        },
    }
}

fn begin_to_lead(lead: Lead<Kit>) -> At {
    At::Leading(Leading {
        lane: lead.lane,
        kit: lead.kit.unwrap_or_default(),
        step: Step::Begin {
            others: lead.others,
            stale: lead.stale,
        },
    })
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
fn read_from(wire: &mut Wire, kit: &mut Kit, config: &Config, choices: &mut Choices) {
    kit.has_heard = true;
    let all = wire.answers.len();
    let mut ways = vec![(2, all)];
    if all > 1 {
        ways.push((2, 1));
    }
    if config.nonsense && !kit.has_half {
        ways.push((1, 0));
    }
    let count = choices.pick(&ways);
    kit.has_half = count == 0;
    kit.replies.extend(wire.answers.drain(..count));
}

impl World {
    pub(super) fn new(config: &Config) -> Self {
        let now = Instant::now();
        Self {
            now,
            lanes: Lanes::new(config.rules, now),
            callers: Vec::new(),
            post: Vec::new(),
            wires: Vec::new(),
            has_ended: false,
            executed: Vec::new(),
            next_id: 1,
            next_wire: 1,
            books: PipelineStats::default(),
            dropped: 0,
            overdue: vec![(false, 0); config.rules.lanes],
        }
    }

    /// One use of the lock, and what comes of it.
    fn with<T>(&mut self, decide: impl FnOnce(&mut Machine) -> T) -> T {
        self.lanes.advance(self.now);
        let decided = decide(&mut self.lanes);
        if let Some(effects) = self.lanes.take_effects() {
            for (mat, fate) in effects.fates {
                self.books.lost += u64::from(matches!(fate, Fate::Lost(_)));
                self.tell(mat, Message::Fate(fate));
            }
            if let Some((mat, lead)) = effects.lead {
                self.tell(mat, Message::Lead(lead));
            }
        }
        decided
    }

    #[track_caller]
    fn tell(&mut self, mat: Mat, message: Message) {
        let is_first = self.post.iter().all(|(other, _)| !other.is(&mat));
        assert!(is_first, "two messages for one caller");
        assert!(
            self.callers.iter().any(|caller| caller.mat.is(&mat)),
            "a message for a call that is over"
        );
        self.post.push((mat, message));
    }

    pub(super) fn message_for(&self, caller: &Caller) -> Option<usize> {
        self.post.iter().position(|(mat, _)| mat.is(&caller.mat))
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.with(|_| ());
    }

    pub(super) fn call(&mut self, len: usize, time: Option<Duration>, is_first: bool) {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = time.map(|time| self.now + time);
        self.lanes.advance(self.now);
        if is_first {
            self.lanes.repeats();
            self.books.repeated += 1;
        }
        let (key, mat, entry) = self.lanes.enter(&request(id, len), deadline, is_first);
        assert!(
            self.callers.iter().all(|other| other.key != key),
            "two calls with one place"
        );
        let caller = Caller {
            id,
            len,
            deadline,
            key,
            mat,
            at: entered(entry),
            outcome: None,
            was_touched: false,
            was_executed: false,
        };
        self.callers.push(caller);
        self.with(|_| ());
    }

    /// A call that has no time.
    pub(super) fn refuse(&mut self) {
        self.with(Machine::refused);
        self.books.timeouts += 1;
    }

    pub(super) fn end(&mut self) {
        self.has_ended = true;
        let error = Arc::new(Error::Ended);
        self.with(|lanes| lanes.end(error));
    }

    pub(super) fn serve(&mut self, at: usize) {
        let wire = &mut self.wires[at].1;
        if !wire.is_broken {
            wire.answers.extend(wire.owed.pop_front());
        }
    }

    pub(super) fn cut(&mut self, at: usize) {
        self.wires[at].1.is_broken = true;
    }

    /// Connections of lanes that nobody waits on, which the pool has.
    pub(super) fn left(&self) -> impl Iterator<Item = u32> + '_ {
        let kits = self.lanes.lanes.iter().filter_map(|lane| lane.kit.as_ref());
        let led = self.callers.iter().filter_map(|caller| match &caller.at {
            At::Leading(leading) => Some(&leading.kit),
            _ => None,
        });
        let told = self.post.iter().filter_map(|(_, message)| match message {
            Message::Lead(next) => next.kit.as_ref(),
            _ => None,
        });
        kits.chain(led).chain(told).filter_map(|kit| kit.left)
    }

    /// The pool closes the connection of a lane that nobody waits on.
    pub(super) fn close_left(&mut self, wire: u32) {
        self.wires.retain(|(number, _)| *number != wire);
    }

    fn wire(&mut self, number: u32) -> &mut Wire {
        let found = self.wires.iter_mut().find(|(other, _)| *other == number);
        &mut found.expect("a connection is used that was given back").1
    }

    /// Gives a connection back, or closes it.
    fn close(&mut self, number: u32) -> Wire {
        let writes = |caller: &Caller| match &caller.at {
            At::Writing { pen, .. } => pen.wire == number,
            _ => false,
        };
        assert!(
            !self.callers.iter().any(writes),
            "a connection goes while somebody writes on it"
        );
        let mut pens = self.lanes.lanes.iter().filter_map(|lane| lane.pen.as_ref());
        assert!(
            pens.all(|pen| pen.wire != number),
            "a connection goes and leaves its pen behind"
        );
        let at = self.wires.iter().position(|(other, _)| *other == number);
        self.wires
            .remove(at.expect("a connection is closed twice"))
            .1
    }

    /// Writes on a connection; how much of it, or that it failed.
    fn write(
        &mut self,
        wire: u32,
        bytes: &[u8],
        is_whole: bool,
        config: &Config,
        choices: &mut Choices,
    ) -> Result<usize, ()> {
        let wire = self.wire(wire);
        if wire.is_broken {
            return Err(());
        }
        let mut count = bytes.len();
        if config.parts && !is_whole && wire.part(bytes) < count {
            count = choices.pick(&[(1, count), (1, wire.part(bytes))]);
        }
        let (mut touched, mut executed) = (Vec::new(), Vec::new());
        for &byte in &bytes[..count] {
            wire.partial.push(byte);
            if wire.partial.len() == 1 {
                touched.push(byte);
            }
            if wire.partial.len() == head(&wire.partial, 4) as usize {
                let id = head(&wire.partial, 0);
                executed.push(id);
                wire.owed.push_back(id);
                wire.partial.clear();
            }
        }
        for byte in touched {
            let is_it = |caller: &&mut Caller| caller.id.to_le_bytes()[0] == byte;
            if let Some(caller) = self.callers.iter_mut().find(is_it) {
                caller.was_touched = true;
            }
        }
        for id in executed {
            assert!(!self.executed.contains(&id), "{id} was executed twice");
            self.executed.push(id);
            if let Some(caller) = self.callers.iter_mut().find(|caller| caller.id == id) {
                caller.was_executed = true;
            }
        }
        Ok(count)
    }

    /// Whether a caller's thread can do something, other than to wake up for nothing.
    pub(super) fn can_step(&self, at: usize) -> bool {
        let caller = &self.callers[at];
        match &caller.at {
            At::Asleep { looks, is_settled } => {
                *looks
                    || self.message_for(caller).is_some()
                    || !is_settled && caller.is_late(self.now)
            }
            At::Leading(leading) => match leading.step {
                Step::Wait => !self.lanes.is_writing(leading.lane),
                _ => true,
            },
            At::Writing { .. } => true,
            At::Over => false,
        }
    }

    /// A caller's thread goes on to its next use of the lock, or write, or read.
    pub(super) fn step(&mut self, at: usize, config: &Config, choices: &mut Choices) {
        let place = std::mem::replace(&mut self.callers[at].at, At::Over);
        let next = match place {
            At::Over => unreachable!(),
            At::Asleep { looks, is_settled } => self.sleep(at, looks, is_settled, choices),
            At::Writing { lane, pen, done } => {
                self.write_for_others(lane, pen, done, config, choices)
            }
            At::Leading(leading) => self.lead(at, leading, config, choices),
        };
        let is_over = matches!(next, At::Over);
        self.callers[at].at = next;
        if is_over {
            self.finish(at, config);
        }
    }

    fn finish(&mut self, at: usize, config: &Config) {
        let caller = self.callers.remove(at);
        let id = caller.id;
        let outcome = caller.outcome.expect("a call ends with an outcome");
        match outcome {
            Outcome::Unsent => assert!(!caller.was_touched, "{id} was sent"),
            Outcome::Replied => assert!(caller.was_executed, "{id} was not executed"),
            Outcome::Lost => {
                assert!(config.is_foreign || caller.was_touched, "{id} was not sent");
            }
            Outcome::Sent => {}
        }
        assert!(
            self.message_for(&caller).is_none(),
            "a message for a call that is over"
        );
    }

    fn outcome(&mut self, at: usize, outcome: Outcome) {
        self.callers[at].outcome.get_or_insert(outcome);
    }

    fn fate(&mut self, at: usize, fate: &Fate) {
        let outcome = match fate {
            Fate::Lost(_) => Outcome::Lost,
            Fate::Unsent(_) | Fate::NoConnection(_) => Outcome::Unsent,
        };
        self.outcome(at, outcome);
    }

    fn replied(&mut self, at: usize, reply: u32) {
        assert_eq!(reply, self.callers[at].id, "the reply of another call");
        self.outcome(at, Outcome::Replied);
    }

    fn gave_up(&mut self, at: usize, gave_up: GaveUp) {
        self.books.timeouts += 1;
        let outcome = match gave_up {
            GaveUp::Unsent => Outcome::Unsent,
            GaveUp::Sent => {
                self.books.abandoned += 1;
                Outcome::Sent
            }
            GaveUp::Settled => panic!("a leader is told to wait"),
        };
        self.outcome(at, outcome);
    }

    /// What `Caller::run` does when it wakes up.
    fn sleep(&mut self, at: usize, looks: bool, is_settled: bool, choices: &mut Choices) -> At {
        #[derive(Clone, Copy)]
        enum Way {
            Hear(usize),
            GiveUp,
            Look,
            Sleep,
        }
        let caller = &self.callers[at];
        let key = caller.key;
        let mut ways = Vec::new();
        ways.extend(
            self.message_for(caller)
                .map(|message| (4, Way::Hear(message))),
        );
        if caller.is_late(self.now) && !is_settled {
            ways.push((1, Way::GiveUp));
        }
        if looks {
            ways.push((1, Way::Look));
        }
        if ways.is_empty() {
            ways.push((1, Way::Sleep));
        }
        match choices.pick(&ways) {
            Way::Sleep => {}
            Way::Hear(message) => match self.post.remove(message).1 {
                Message::Reply(reply) => {
                    self.replied(at, reply);
                    return At::Over;
                }
                Message::Fate(fate) => {
                    self.fate(at, &fate);
                    return At::Over;
                }
                Message::Lead(lead) => return begin_to_lead(lead),
            },
            Way::GiveUp => match self.with(|lanes| lanes.give_up(key)) {
                GaveUp::Settled => {
                    return At::Asleep {
                        looks,
                        is_settled: true,
                    };
                }
                gave_up => {
                    self.gave_up(at, gave_up);
                    return At::Over;
                }
            },
            Way::Look => {
                let entry = self.with(|lanes| lanes.again(key));
                let is_still = matches!(entry, Entry::Wait(None));
                assert!(!is_settled || is_still, "a call that is settled goes on");
                return match entered(entry) {
                    At::Asleep { looks, .. } => At::Asleep { looks, is_settled },
                    at => at,
                };
            }
        }
        At::Asleep { looks, is_settled }
    }

    /// What `Core::send` does.
    fn write_for_others(
        &mut self,
        lane: usize,
        pen: Pen,
        mut done: usize,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        let wrote = self.write(pen.wire, &pen.ink[done..], false, config, choices);
        done += wrote.unwrap_or(0);
        if wrote.is_ok() && done < pen.ink.len() {
            return At::Writing { lane, pen, done };
        }
        let has_failed = wrote.is_err();
        if has_failed {
            self.wire(pen.wire).is_broken = true;
        }
        self.books.writes += 1;
        self.lanes.advance(self.now);
        let more = self.lanes.sent(lane, pen, (done, 1), has_failed);
        let told = self.lanes.take_effects();
        assert!(told.is_none(), "nobody tells them");
        match more {
            Some((lane, pen)) => At::Writing { lane, pen, done: 0 },
            None => At::Asleep {
                looks: true,
                is_settled: false,
            },
        }
    }

    /// What a `Leader` does.
    fn lead(
        &mut self,
        at: usize,
        mut leading: Leading,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        let (lane, key) = (leading.lane, self.callers[at].key);
        match std::mem::replace(&mut leading.step, Step::Look) {
            Step::Begin { others, stale } => {
                self.begin(&mut leading, others, stale, config, choices);
            }
            Step::Connect { others } => return self.connect(at, leading, others, config, choices),
            Step::Look => self.look(at, &mut leading, config, choices),
            Step::Write => self.write_out(at, &mut leading, config, choices),
            Step::WriteOwn(done) => self.write_own(at, &mut leading, done, config, choices),
            Step::Read => self.read(at, &mut leading, config, choices),
            Step::Abandon(then) => {
                if self.callers[at].outcome.is_none() {
                    let gave_up = self.with(|lanes| lanes.abandon(key));
                    self.gave_up(at, gave_up);
                }
                leading.step = match then {
                    Then::Look => Step::Look,
                    Then::Break => Step::Break,
                    Then::Leave => Step::Leave { is_clean: false },
                };
            }
            Step::HandOver(mat, mut lead) => {
                if !self.write_last(&mut leading, config, choices) {
                    leading.step = Step::Break;
                    return At::Leading(leading);
                }
                lead.kit = Some(leading.kit);
                self.tell(mat, Message::Lead(lead));
                return At::Over;
            }
            Step::LayDown => {
                drop(self.with(|lanes| lanes.pen(lane)));
                leading.kit.left = leading.kit.wire.take();
                leading.step = Step::Drift;
            }
            Step::Drift => match self.with(|lanes| lanes.drift(lane, leading.kit)) {
                Ok(()) => return At::Over,
                Err(kit) => {
                    leading.kit = kit;
                    self.take_back(&mut leading.kit);
                    leading.step = match leading.kit.wire {
                        Some(_) => Step::Look,
                        None => Step::Leave { is_clean: false },
                    };
                }
            },
            Step::Wait => {
                if self.lanes.is_writing(lane) {
                    leading.step = Step::Wait;
                }
            }
            Step::Break => self.break_lane(at, &mut leading, config),
            Step::Leave { is_clean } => {
                let mut kit = leading.kit;
                if let Some(wire) = kit.wire.take() {
                    let wire = self.close(wire);
                    let is_quiet = wire.owed.is_empty()
                        && wire.answers.is_empty()
                        && wire.partial.is_empty()
                        && !kit.has_half;
                    assert!(
                        is_quiet || !is_clean || wire.is_broken,
                        "a lease goes back with replies outstanding"
                    );
                }
                kit.clear();
                self.dropped += self.lanes.lanes[lane].flights.len() as u64;
                self.with(|lanes| lanes.vacate(lane, Some(kit)));
                return At::Over;
            }
        }
        At::Leading(leading)
    }

    fn take_back(&mut self, kit: &mut Kit) {
        let Some(left) = kit.left.take() else { return };
        let is_there = self.wires.iter().any(|(number, _)| *number == left);
        kit.wire = is_there.then_some(left);
        kit.is_fresh = true;
    }

    fn begin(
        &mut self,
        leading: &mut Leading,
        others: bool,
        stale: bool,
        config: &Config,
        choices: &mut Choices,
    ) {
        let (lane, kit) = (leading.lane, &mut leading.kit);
        self.take_back(kit);
        if stale {
            let wire = kit.wire.filter(|&wire| self.wire(wire).has_come());
            if let Some(wire) = wire {
                read_from(self.wire(wire), kit, config, choices);
            } else {
                self.dropped += self.lanes.lanes[lane].flights.len() as u64;
                drop(self.with(|lanes| lanes.restart(lane)));
                if let Some(wire) = kit.wire.take() {
                    self.close(wire);
                }
                kit.clear();
            }
        }
        leading.step = match kit.wire {
            None => Step::Connect { others },
            // What the leader before could not write in its time.
            Some(_) if !kit.out.is_empty() => Step::Write,
            Some(_) => Step::Look,
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
            leading.step = Step::Abandon(Then::Leave);
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
        if config.is_foreign {
            ways.push((1, Way::Panics));
        }
        match choices.pick(&ways) {
            Way::Connected => {
                let wire = self.next_wire;
                self.next_wire += 1;
                self.wires.push((wire, Wire::default()));
                leading.kit.wire = Some(wire);
                leading.kit.is_fresh = true;
                leading.step = Step::Look;
            }
            Way::Waits => leading.step = Step::Connect { others },
            Way::Panics => leading.step = Step::Break,
            Way::Fails if others && !self.has_ended => {
                let request = self.callers[at].request();
                let kit = Some(leading.kit);
                match self.with(|lanes| lanes.stand_back(lane, kit, key, &request)) {
                    Ok(()) => {
                        return At::Asleep {
                            looks: true,
                            is_settled: false,
                        };
                    }
                    Err(kit) => {
                        return At::Leading(Leading {
                            lane,
                            kit: kit.unwrap(),
                            step: Step::Connect { others: false },
                        });
                    }
                }
            }
            Way::Fails => {
                let error = Arc::new(Error::Ended);
                self.outcome(at, Outcome::Unsent);
                let kit = Some(leading.kit);
                self.with(|lanes| lanes.no_connection(lane, kit, key, &error));
                return At::Over;
            }
        }
        At::Leading(leading)
    }

    fn look(&mut self, at: usize, leading: &mut Leading, config: &Config, choices: &mut Choices) {
        let (lane, key) = (leading.lane, self.callers[at].key);
        let kit = &mut leading.kit;
        let has_replies = self.report(at, lane, kit, config);
        if has_replies && self.lanes.lanes[lane].flights.is_empty() {
            // Another one may have come with these.
            if config.nonsense && choices.is_hit(12) {
                assert!(matches!(self.lanes.answered(lane), Whose::Unasked));
                leading.step = Step::Break;
                return;
            }
        }
        let request = self.callers[at].request();
        let wanted = config.recalls && choices.is_hit(12);
        let look = self.lanes.look(lane, (key, &request), wanted, &mut kit.out);
        let pen = match look {
            Look::Release | Look::Discard => self.lanes.pen(lane),
            _ => None,
        };
        drop(pen);
        self.with(|_| ());
        let writes = !kit.out.is_empty() || matches!(look, Look::WriteOwn);
        if writes && !kit.is_writing {
            let other = self.callers.iter().any(|caller| match caller.at {
                At::Writing { lane: other, .. } => other == lane,
                _ => false,
            });
            assert!(!other, "a leader writes while another does");
        }
        kit.is_writing |= writes;
        leading.step = match look {
            Look::Write => Step::Write,
            Look::WriteOwn => Step::WriteOwn(0),
            Look::Read => Step::Read,
            Look::HandOver(mat, lead) => Step::HandOver(mat, lead),
            Look::Release => Step::Leave {
                is_clean: !kit.has_half,
            },
            Look::Discard => Step::Leave { is_clean: false },
            Look::Drift => Step::LayDown,
            Look::Wait if leading.kit.is_writing => Step::Break,
            Look::Wait => Step::Wait,
        };
    }

    /// What `Kit::report` does; whether there were replies.
    fn report(&mut self, at: usize, lane: usize, kit: &mut Kit, config: &Config) -> bool {
        let key = self.callers[at].key;
        let lanes = &mut self.lanes;
        lanes.advance(self.now);
        if std::mem::take(&mut kit.is_fresh) {
            let pen = |wire| Pen {
                wire,
                ink: Vec::new(),
            };
            lanes.started(lane, kit.wire.filter(|_| config.has_pens).map(pen));
        }
        if kit.is_writing && kit.out.is_empty() {
            self.report_written(lane, kit);
        }
        if std::mem::take(&mut kit.has_heard) {
            self.lanes.heard(lane);
        }
        let has_replies = !kit.replies.is_empty();
        for reply in std::mem::take(&mut kit.replies) {
            let whose = self.lanes.answered(lane);
            self.books.replies += 1;
            match whose {
                Whose::Caller(whose, _) if whose == key && self.callers[at].outcome.is_none() => {
                    self.replied(at, reply);
                }
                Whose::Caller(_, mat) => self.tell(mat, Message::Reply(reply)),
                Whose::Nobody => {}
                Whose::Unasked => panic!("a reply that was not asked for"),
            }
        }
        has_replies
    }

    fn report_written(&mut self, lane: usize, kit: &mut Kit) {
        if std::mem::take(&mut kit.is_writing) {
            self.books.writes += 1;
            let bytes = std::mem::take(&mut kit.wrote);
            self.lanes.wrote(lane, bytes, 1, kit.has_failed);
        }
    }

    fn write_out(
        &mut self,
        at: usize,
        leading: &mut Leading,
        config: &Config,
        choices: &mut Choices,
    ) {
        let kit = &mut leading.kit;
        let out = std::mem::take(&mut kit.out);
        match self.write_by(at, kit, &out, config, choices) {
            Wrote::All => leading.step = Step::Look,
            Wrote::Part(count) => {
                kit.out = out[count..].to_vec();
                leading.step = Step::Write;
            }
            Wrote::Late => {
                kit.out = out;
                leading.step = Step::Abandon(Then::Look);
            }
            Wrote::Panic => {
                kit.out = out;
                leading.step = Step::Break;
            }
        }
    }

    fn write_own(
        &mut self,
        at: usize,
        leading: &mut Leading,
        done: usize,
        config: &Config,
        choices: &mut Choices,
    ) {
        let request = self.callers[at].request();
        let kit = &mut leading.kit;
        leading.step = match self.write_by(at, kit, &request[done..], config, choices) {
            Wrote::All => Step::Look,
            Wrote::Part(count) => Step::WriteOwn(done + count),
            Wrote::Late => Step::Abandon(Then::Break),
            Wrote::Panic => Step::Break,
        };
    }

    /// What `Kit::write` does, by its deadline.
    fn write_by(
        &mut self,
        at: usize,
        kit: &mut Kit,
        bytes: &[u8],
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
        if config.parts && self.callers[at].is_late(self.now) && self.callers[at].outcome.is_none()
        {
            ways.push((6, Way::IsLate));
        }
        if config.is_foreign {
            ways.push((1, Way::Panics));
        }
        let way = choices.pick(&ways);
        if way == Way::IsLate {
            return Wrote::Late;
        }
        let wrote = if way == Way::Panics {
            Err(())
        } else {
            self.write(kit.wire.unwrap(), bytes, false, config, choices)
        };
        if let Ok(count) = wrote {
            kit.wrote += count;
            return if count == bytes.len() {
                Wrote::All
            } else {
                Wrote::Part(count)
            };
        }
        // It may have sent a part.
        kit.wrote += if config.is_foreign { bytes.len() } else { 0 };
        if way == Way::Panics {
            return Wrote::Panic;
        }
        self.wire(kit.wire.unwrap()).is_broken = true;
        kit.has_failed = true;
        Wrote::All
    }

    /// What a leader does whose call is over, before it hands its lane over: it writes if that
    /// cannot block. False if that panicked.
    fn write_last(
        &mut self,
        leading: &mut Leading,
        config: &Config,
        choices: &mut Choices,
    ) -> bool {
        let kit = &mut leading.kit;
        if kit.out.is_empty() || config.parts && choices.is_hit(4) {
            return true;
        }
        if config.is_foreign && choices.is_hit(12) {
            kit.wrote += kit.out.len();
            return false;
        }
        let out = std::mem::take(&mut kit.out);
        let wire = kit.wire.unwrap();
        if self.write(wire, &out, true, config, choices).is_ok() {
            kit.wrote += out.len();
        } else {
            kit.wrote += if config.is_foreign { out.len() } else { 0 };
            self.wire(wire).is_broken = true;
            kit.has_failed = true;
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
        let is_late = self.callers[at].is_late(self.now) && self.callers[at].outcome.is_none();
        let kit = &mut leading.kit;
        let wire = self.wire(kit.wire.unwrap());
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
                read_from(wire, kit, config, choices);
                Step::Look
            }
            Way::IsNonsense | Way::FindsTheEnd => Step::Break,
            Way::IsLate => Step::Abandon(Then::Look),
            Way::WakesUp => Step::Look,
        };
    }

    /// What `Leader::break_lane` does.
    fn break_lane(&mut self, at: usize, leading: &mut Leading, config: &Config) {
        let (lane, key) = (leading.lane, self.callers[at].key);
        let kit = &mut leading.kit;
        self.report(at, lane, kit, config);
        self.report_written(lane, kit);
        let error = Arc::new(io::Error::other("broken"));
        let dropped = self.lanes.lanes[lane].flights.iter();
        let dropped = dropped.filter(|flight| flight.key.is_none()).count();
        let Some(fate) = self.with(|lanes| lanes.broke(lane, key, &error)) else {
            leading.step = Step::Break;
            return;
        };
        self.dropped += dropped as u64;
        drop(self.with(|lanes| lanes.pen(lane)));
        if let Some(fate) = fate {
            self.books.lost += u64::from(matches!(fate, Fate::Lost(_)));
            self.fate(at, &fate);
        }
        leading.step = Step::Leave { is_clean: false };
    }

    /// What holds between any two steps.
    pub(super) fn check(&mut self, config: &Config) {
        for call in 0..self.lanes.calls.len() {
            self.check_call(call);
        }
        for at in 0..self.lanes.lanes.len() {
            self.check_lane(at, config);
        }
        self.check_books();
        let waiting = self.lanes.waiting().count();
        let phases = self.lanes.lanes.iter().map(|lane| lane.phase);
        let used = phases.filter(|&phase| phase != Phase::Vacant).count();
        assert!(waiting == 0 || used > 0, "{waiting} wait, and nobody leads");
    }

    /// Whether a caller leads a lane, or is on its way there.
    fn is_leading(&self, caller: &Caller) -> bool {
        let is_next = |other: &Caller| match &other.at {
            At::Leading(leading) => match &leading.step {
                Step::HandOver(mat, _) => mat.is(&caller.mat),
                _ => false,
            },
            _ => false,
        };
        let is_told = |(mat, message): &(Mat, Message)| {
            mat.is(&caller.mat) && matches!(message, Message::Lead(_))
        };
        matches!(caller.at, At::Leading(_))
            || self.post.iter().any(is_told)
            || self.callers.iter().any(is_next)
    }

    fn breaks(&self, lane: usize) -> bool {
        self.callers.iter().any(|caller| match &caller.at {
            At::Leading(leading) => leading.lane == lane && matches!(leading.step, Step::Break),
            _ => false,
        })
    }

    /// Each call is in one place.
    fn check_call(&self, key: usize) {
        let lanes = &self.lanes;
        let call = &lanes.calls[key];
        let tickets = lanes.queue.iter().chain(&lanes.large);
        let queued = tickets.filter(|ticket| **ticket == (key, call.ticket));
        let queued = queued.count() * usize::from(call.stage == Stage::Queued);
        let flights = lanes.lanes.iter().flat_map(|lane| &lane.flights);
        let flying = flights.filter(|flight| flight.key == Some(key)).count();
        let over = lanes.over.iter().filter(|other| **other == key).count();
        let caller = self.callers.iter().find(|caller| caller.key == key);
        let Some(caller) = caller else {
            assert_eq!(call.stage, Stage::Over, "a call goes on without its caller");
            assert_eq!((queued, flying, over), (0, 0, 1));
            return;
        };
        assert!(call.seat.is(&caller.mat));
        let leads = self.is_leading(caller);
        let (is_asleep, looks) = match caller.at {
            At::Asleep { looks, .. } => (self.message_for(caller).is_none(), looks),
            _ => (false, true),
        };
        match call.stage {
            Stage::Queued => {
                assert_eq!(over + flying, 0);
                assert!(
                    queued == 1 || queued == 0 && caller.is_late(self.now),
                    "it left the queue"
                );
                assert!(!leads && !call.leads);
                let is_small = caller.len <= self.lanes.rules.max_bytes;
                assert_eq!(call.request.len(), if is_small { caller.len } else { 0 });
                assert!(looks || !is_asleep, "nobody looks after a queued call");
            }
            Stage::Own => {
                assert_eq!((queued, flying, over), (0, 0, 0));
                assert!(leads && call.leads, "its own, and it does not lead");
            }
            Stage::Sent(at, number) => {
                assert_eq!((queued, flying, over), (0, 1, 0));
                let lane = &lanes.lanes[at];
                let place = usize::try_from(number - lane.first).unwrap();
                assert_eq!(lane.flights[place].key, Some(key));
                // A leader that panics has named a successor, whom it tells that the lane broke.
                assert!(leads == call.leads || call.leads && self.breaks(at));
                assert!(
                    !is_asleep || lane.phase == Phase::Led,
                    "nobody reads for it"
                );
            }
            Stage::Over => {
                assert_eq!((queued, flying, over), (0, 0, 1));
                assert!(!is_asleep, "it is over, and nobody told it");
            }
        }
    }

    /// One leader and one writer, bounds, and replies in the order of the requests.
    fn check_lane(&mut self, at: usize, config: &Config) {
        let lane = &self.lanes.lanes[at];
        let led = self.callers.iter().filter_map(|caller| match &caller.at {
            At::Leading(leading) if leading.lane == at => Some(Some(&leading.kit)),
            _ => None,
        });
        let told = self.post.iter().filter_map(|(_, message)| match message {
            Message::Lead(next) if next.lane == at => Some(next.kit.as_ref()),
            _ => None,
        });
        let leaders: Vec<_> = led.chain(told).collect();
        let goes = self.callers.iter().any(|caller| match &caller.at {
            At::Leading(leading) => {
                leading.lane == at && matches!(leading.step, Step::Leave { .. })
            }
            _ => false,
        });
        let is_used = matches!(lane.phase, Phase::Starting | Phase::Led);
        assert_eq!(leaders.len(), usize::from(is_used), "leaders of a lane");
        let kit = leaders.first().copied().flatten().or(lane.kit.as_ref());
        assert!(!is_used || lane.kit.is_none());
        let writers = self.callers.iter().filter(|caller| match &caller.at {
            At::Writing { lane, .. } => *lane == at,
            _ => false,
        });
        let writers = writers.count() + usize::from(kit.is_some_and(|kit| kit.is_writing));
        assert_eq!(writers, usize::from(lane.writing), "writers on a lane");

        let count = lane.flights.len();
        assert!(count <= self.lanes.rules.max_in_flight.max(1));
        let bytes: usize = lane.flights.iter().map(|flight| flight.len).sum();
        assert_eq!(bytes, lane.outstanding);
        let is_bounded = bytes <= self.lanes.rules.max_bytes || count == 1;
        assert!(is_bounded, "{bytes} bytes in {count}");
        assert!(lane.written <= lane.booked);

        if let Some(kit) = kit {
            let wire = kit.wire.or(kit.left);
            let wire = self.wires.iter().find(|(number, _)| Some(*number) == wire);
            let (mut read, mut is_whole) = (kit.replies.clone(), false);
            if let Some((_, wire)) = wire.filter(|_| !goes) {
                read.extend(wire.answers.iter().chain(&wire.owed));
                is_whole = !wire.is_broken && !lane.writing && !config.is_foreign;
            }
            assert!(read.len() <= count, "a reply that was not asked for");
            assert!(read.len() == count || !is_whole, "a request was not sent");
            for (id, flight) in read.iter().zip(&lane.flights) {
                let caller = flight
                    .key
                    .and_then(|key| self.callers.iter().find(|c| c.key == key));
                assert!(
                    caller.is_none_or(|caller| caller.id == *id),
                    "a foreign reply"
                );
            }
        }

        let now = (lane.overdue, lane.booked);
        let before = std::mem::replace(&mut self.overdue[at], now);
        if now.1 > before.1 {
            let is_behind = before.0 && now.0;
            assert!(!is_behind, "something new behind an overdue reply");
            let last = lane.flights.back().and_then(|flight| flight.key);
            let may = self.callers.iter().any(|caller| {
                let leads = matches!(&caller.at, At::Leading(leading) if leading.lane == at);
                leads && last == Some(caller.key)
            });
            assert!(
                may || !lane.wanted,
                "something new on a lane that is wanted back"
            );
        }
    }

    /// The numbers agree with what has happened.
    fn check_books(&self) {
        let is_unsent = |stage| matches!(stage, Stage::Queued | Stage::Own);
        let queued = self.lanes.calls.iter().filter(|call| is_unsent(call.stage));
        let lanes = self.lanes.lanes.iter();
        let used = lanes.filter(|lane| matches!(lane.phase, Phase::Led | Phase::Drifting));
        let in_flight = self.lanes.lanes.iter().map(|lane| lane.flights.len()).sum();
        let books = &self.books;
        let expected = PipelineStats {
            queued: queued.count(),
            in_flight,
            lanes: used.count(),
            calls: books.replies + books.lost + self.dropped + in_flight as u64,
            ..books.clone()
        };
        assert_eq!(self.lanes.stats(), expected);
    }

    /// All is quiet: nothing is in use.
    pub(super) fn check_quiet(&self) {
        let lanes = &self.lanes.lanes;
        assert!(lanes.iter().all(|lane| lane.phase == Phase::Vacant));
        assert!(self.wires.is_empty(), "a connection is kept for ever");
        assert!(self.post.is_empty());
    }
}
