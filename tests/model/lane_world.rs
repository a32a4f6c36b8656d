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

use super::{
    Condition, Entry, Failure, Lanes, Lead, News, Phase, Report, Rules, Seat, Stage, Step as Next,
    Whose,
};
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
    pub(super) is_shared: bool,
    /// Clients are of another kind: they may panic, and fail after they have sent something.
    pub(super) clients_panic: bool,
    /// There are calls that go before others, because their lane broke.
    pub(super) firsts: bool,
    /// How long requests may be, if they are not drawn.
    pub(super) sizes: &'static [usize],
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

/// What the leaders of a lane work with.
#[derive(Clone, Debug, Default)]
pub(super) struct Io {
    pub(super) wire: Option<u32>,
    /// The connection, while nobody leads the lane.
    pub(super) left: Option<u32>,
    pub(super) out: Vec<u8>,
    pub(super) report: Report,
    /// A part of the next reply was read.
    pub(super) has_half: bool,
    pub(super) replies: Vec<u32>,
    /// The connection is of no use any more, and whoever leads next is to say so.
    pub(super) is_broken: bool,
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
    News(News),
}

/// What a caller's thread is at.
#[derive(Clone, Debug)]
pub(super) enum At {
    Asleep {
        /// It wakes by itself by and by.
        asks_again: bool,
        /// Its time is up, and its outcome is on the way.
        has_given_up: bool,
    },
    Writing {
        lane: usize,
        bytes: Vec<u8>,
        report: Report,
    },
    Leading(Leading),
    Over,
}

#[derive(Clone, Debug)]
pub(super) struct Leading {
    pub(super) lane: usize,
    /// Whether it leads for its own call too.
    pub(super) own: bool,
    pub(super) panics: bool,
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
    /// Reports what it did, and asks what is next.
    Ask,
    /// Writes what is in the buffer.
    Write,
    /// The same, while others may book requests; they write when it has.
    WriteAndRead,
    /// Writes its own call, of which so much is written.
    WriteOwn(usize),
    Read,
    /// Its own call's time is up; then it asks again, or breaks the lane, or leaves it.
    TimeIsUp(Then),
    HandOver(Mat, Lead),
    Drift,
    Break,
    /// Shuts the connection down, on which another caller writes that leads next.
    Shut,
    /// Gives the connection back, or closes it, and then the lane.
    Leave {
        is_clean: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Ask,
    Break,
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Replied,
    Unsent,
    /// Its time was up, or its thread panicked.
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

pub(super) type Machine = Lanes<Mat>;

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) lanes: Machine,
    pub(super) callers: Vec<Caller>,
    /// Of each lane.
    pub(super) ios: Vec<Io>,
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
    /// Of each lane: whether a caller has given up a request on it, and no byte has come since.
    overdue: Vec<bool>,
    /// And at the last check: that, whether it failed, and the bytes taken on.
    before: Vec<(bool, bool, u64)>,
}

impl Clone for World {
    fn clone(&self) -> Self {
        COPIES.set(Some(Vec::new()));
        let copy = Self {
            lanes: self.lanes.clone(),
            callers: self.callers.clone(),
            ios: self.ios.clone(),
            post: self.post.clone(),
            wires: self.wires.clone(),
            executed: self.executed.clone(),
            books: self.books.clone(),
            overdue: self.overdue.clone(),
            before: self.before.clone(),
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

impl Leading {
    /// Whether it has the lane, and no other leader is to come yet.
    fn has_io(&self) -> bool {
        !matches!(self.step, Step::Begin { .. })
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

fn entered(entry: Entry) -> At {
    match entry {
        Entry::Lead(lead) => begin_to_lead(lead),
        Entry::Send { lane, bytes } => At::Writing {
            lane,
            bytes,
            report: Report::default(),
        },
        Entry::Wait(again) => At::Asleep {
            asks_again: again.is_some(),
            has_given_up: false,
        },
    }
}

fn begin_to_lead(lead: Lead) -> At {
    At::Leading(Leading {
        lane: lead.lane,
        own: lead.own,
        panics: false,
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
fn read_from(wire: &mut Wire, io: &mut Io, config: &Config, choices: &mut Choices) {
    io.report.heard = true;
    let all = wire.answers.len();
    let mut ways = vec![(2, all)];
    if all > 1 {
        ways.push((2, 1));
    }
    if config.nonsense && !io.has_half {
        ways.push((1, 0));
    }
    let count = choices.pick(&ways);
    io.has_half = count == 0;
    io.replies.extend(wire.answers.drain(..count));
}

impl World {
    pub(super) fn new(config: &Config) -> Self {
        let now = Instant::now();
        Self {
            now,
            lanes: Lanes::new(config.rules, now),
            callers: Vec::new(),
            ios: vec![Io::default(); config.rules.lanes],
            post: Vec::new(),
            wires: Vec::new(),
            has_ended: false,
            executed: Vec::new(),
            next_id: 1,
            next_wire: 1,
            books: PipelineStats::default(),
            dropped: 0,
            overdue: vec![false; config.rules.lanes],
            before: vec![(false, false, 0); config.rules.lanes],
        }
    }

    /// One use of the lock, and what comes of it.
    fn with<T>(&mut self, decide: impl FnOnce(&mut Machine) -> T) -> T {
        self.lanes.advance(self.now);
        let decided = decide(&mut self.lanes);
        for (mat, news) in self.lanes.take_news() {
            if let News::Failed(failure) = &news {
                self.books.lost += u64::from(matches!(failure, Failure::Lost(_)));
                if let Failure::TimedOut { sent } = failure {
                    self.books.timeouts += 1;
                    self.books.abandoned += u64::from(*sent);
                }
            }
            self.tell(mat, Message::News(news));
        }
        decided
    }

    #[track_caller]
    fn tell(&mut self, mat: Mat, message: Message) {
        let is_watch = |message: &Message| matches!(message, Message::News(News::Watch));
        if let Some(before) = self.post.iter().position(|(other, _)| other.is(&mat)) {
            if is_watch(&message) {
                return;
            }
            let (_, before) = self.post.swap_remove(before);
            assert!(is_watch(&before), "two messages for one caller");
        }
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
        let is_there = |wire: &u32| self.wires.iter().any(|(number, _)| number == wire);
        self.ios.iter().filter_map(|io| io.left).filter(is_there)
    }

    /// Lanes that nobody leads, and whose connections the pool has closed.
    pub(super) fn closed(&self) -> impl Iterator<Item = usize> + '_ {
        let is_there = |wire: u32| self.wires.iter().any(|(number, _)| *number == wire);
        let is_closed = move |&lane: &usize| {
            let has_leader = self.callers.iter().any(|caller| match &caller.at {
                At::Leading(leading) => leading.lane == lane && leading.has_io(),
                _ => false,
            });
            !has_leader && self.ios[lane].left.is_some_and(|wire| !is_there(wire))
        };
        self.lanes.drifting().filter(is_closed)
    }

    /// What `Core::stats` does where it finds such a lane.
    pub(super) fn find_closed(&mut self, lane: usize) {
        self.dropped += self.lanes.lanes[lane].flights.len() as u64;
        self.overdue[lane] = false;
        self.with(|lanes| lanes.closed(lane));
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
        let lane = self.ios.iter().position(|io| io.wire == Some(number));
        assert!(
            lane.is_none_or(|lane| self.writers(lane) == 0),
            "a connection goes while somebody writes on it"
        );
        for io in &mut self.ios {
            io.wire.take_if(|wire| *wire == number);
        }
        let at = self.wires.iter().position(|(other, _)| *other == number);
        self.wires
            .remove(at.expect("a connection is closed twice"))
            .1
    }

    /// How many callers that do not lead this lane write on it.
    fn writers(&self, lane: usize) -> usize {
        let writes = |caller: &&Caller| match &caller.at {
            At::Writing { lane: other, .. } => *other == lane,
            _ => false,
        };
        self.callers.iter().filter(writes).count()
    }

    /// Writes on a lane's connection; how much of it, or that it failed.
    fn write(
        &mut self,
        lane: usize,
        bytes: &[u8],
        is_whole: bool,
        config: &Config,
        choices: &mut Choices,
    ) -> Result<usize, ()> {
        let number = self.ios[lane].wire;
        let wire = self.wire(number.expect("somebody writes, and there is no connection"));
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
            At::Asleep {
                asks_again,
                has_given_up,
            } => {
                *asks_again
                    || self.message_for(caller).is_some()
                    || !has_given_up && caller.is_late(self.now)
            }
            // The leader before has not let go of the lane.
            At::Leading(Leading {
                lane,
                step: Step::Begin { .. },
                ..
            }) => !self.callers.iter().any(|other| match &other.at {
                At::Leading(other) => other.lane == *lane && other.has_io(),
                _ => false,
            }),
            // Its turn comes when the leader has written what was booked before.
            At::Writing { lane, .. } => !self.callers.iter().any(|other| match &other.at {
                At::Leading(other) => {
                    other.lane == *lane && matches!(other.step, Step::WriteAndRead)
                }
                _ => false,
            }),
            At::Leading(_) => true,
            At::Over => false,
        }
    }

    /// A caller's thread goes on to its next use of the lock, or write, or read.
    pub(super) fn step(&mut self, at: usize, config: &Config, choices: &mut Choices) {
        let place = std::mem::replace(&mut self.callers[at].at, At::Over);
        let next = match place {
            At::Over => unreachable!(),
            At::Asleep {
                asks_again,
                has_given_up,
            } => self.sleep(at, asks_again, has_given_up, choices),
            At::Writing {
                lane,
                bytes,
                report,
            } => self.write_for_others(at, lane, bytes, report, config, choices),
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
                assert!(
                    config.clients_panic || caller.was_touched,
                    "{id} was not sent"
                );
            }
            Outcome::Sent => {}
        }
        assert!(
            self.message_for(&caller).is_none(),
            "a message for a call that is over"
        );
    }

    /// A call's time is up: what was sent of it is overdue.
    fn time_is_up(&mut self, at: usize, is_leader: bool) {
        let key = self.callers[at].key;
        let call = &self.lanes.calls[key];
        match call.stage {
            Stage::Sent(lane, _) if call.leads == is_leader => self.overdue[lane] = true,
            _ => {}
        }
        self.with(|lanes| lanes.time_is_up(key, is_leader));
    }

    fn hear(&mut self, at: usize, message: Message) -> At {
        let outcome = match message {
            Message::News(News::Lead(lead)) => {
                assert!(lead.own);
                return begin_to_lead(lead);
            }
            Message::News(News::Watch) => {
                let key = self.callers[at].key;
                return entered(self.with(|lanes| lanes.wait(key)));
            }
            Message::Reply(reply) => {
                assert_eq!(reply, self.callers[at].id, "the reply of another call");
                Outcome::Replied
            }
            Message::News(News::Failed(failure)) => match failure {
                Failure::Lost(_) => Outcome::Lost,
                Failure::TimedOut { sent: true } => Outcome::Sent,
                Failure::Unsent(_)
                | Failure::NoConnection(_)
                | Failure::TimedOut { sent: false } => Outcome::Unsent,
            },
        };
        self.callers[at].outcome = Some(outcome);
        At::Over
    }

    /// What `Core::attempt` does when it wakes up.
    fn sleep(
        &mut self,
        at: usize,
        asks_again: bool,
        has_given_up: bool,
        choices: &mut Choices,
    ) -> At {
        #[derive(Clone, Copy)]
        enum Way {
            Hear(usize),
            GiveUp,
            Ask,
            Sleep,
        }
        let caller = &self.callers[at];
        let key = caller.key;
        let mut ways = Vec::new();
        ways.extend(
            self.message_for(caller)
                .map(|message| (4, Way::Hear(message))),
        );
        if caller.is_late(self.now) && !has_given_up {
            ways.push((1, Way::GiveUp));
        }
        if asks_again {
            ways.push((1, Way::Ask));
        }
        if ways.is_empty() {
            ways.push((1, Way::Sleep));
        }
        match choices.pick(&ways) {
            Way::Sleep => {}
            Way::Hear(message) => {
                let message = self.post.remove(message).1;
                return self.hear(at, message);
            }
            Way::GiveUp => {
                self.time_is_up(at, false);
                return At::Asleep {
                    asks_again: false,
                    has_given_up: true,
                };
            }
            Way::Ask => {
                return entered(self.with(|lanes| lanes.again(key)));
            }
        }
        At::Asleep {
            asks_again,
            has_given_up,
        }
    }

    /// What `Call::send` does.
    fn write_for_others(
        &mut self,
        at: usize,
        lane: usize,
        bytes: Vec<u8>,
        mut report: Report,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        assert_eq!(self.writers(lane), 0, "two write on one lane");
        let wrote = self.write(lane, &bytes[report.bytes..], false, config, choices);
        report.bytes += wrote.unwrap_or(0);
        report.writes += 1;
        self.books.writes += 1;
        if wrote.is_ok() && report.bytes < bytes.len() {
            return At::Writing {
                lane,
                bytes,
                report,
            };
        }
        if wrote.is_err() {
            report.failed = true;
            self.shut(lane);
        }
        let key = self.callers[at].key;
        entered(self.with(|lanes| lanes.sent(key, lane, bytes, &report)))
    }

    fn shut(&mut self, lane: usize) {
        let wire = self.ios[lane].wire.unwrap();
        self.wire(wire).is_broken = true;
    }

    /// What a caller does that leads no more.
    fn leave(&mut self, at: usize, leading: &Leading) -> At {
        if !leading.panics {
            return At::Asleep {
                asks_again: false,
                has_given_up: false,
            };
        }
        let message = self.message_for(&self.callers[at]);
        self.post.remove(message.expect("a call is left behind"));
        self.callers[at].outcome = Some(Outcome::Sent);
        At::Over
    }

    /// What a `Leader` does.
    fn lead(
        &mut self,
        at: usize,
        mut leading: Leading,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        let lane = leading.lane;
        match std::mem::replace(&mut leading.step, Step::Ask) {
            Step::Begin { others, stale } => {
                self.begin(&mut leading, others, stale, config, choices);
            }
            Step::Connect { others } => return self.connect(at, leading, others, config, choices),
            Step::Ask => return self.ask(at, leading, config, choices),
            step @ (Step::Write | Step::WriteAndRead) => {
                self.write_out(at, &mut leading, step, config, choices);
            }
            Step::WriteOwn(done) => self.write_own(at, &mut leading, done, config, choices),
            Step::Read => self.read(at, &mut leading, config, choices),
            Step::TimeIsUp(then) => {
                self.time_is_up(at, true);
                leading.step = match then {
                    Then::Ask => Step::Ask,
                    Then::Break => Step::Break,
                    Then::Leave => Step::Leave { is_clean: false },
                };
            }
            Step::HandOver(mat, lead) => {
                if !self.write_last(lane, config, choices) {
                    leading.panics = true;
                    leading.step = Step::Break;
                    return At::Leading(leading);
                }
                self.tell(mat, Message::News(News::Lead(lead)));
                return self.leave(at, &leading);
            }
            Step::Drift => {
                self.with(|lanes| lanes.drift(lane));
                return self.leave(at, &leading);
            }
            Step::Break => self.break_lane(at, &mut leading),
            Step::Shut => {
                self.shut(lane);
                self.ios[lane].is_broken = true;
                return self.leave(at, &leading);
            }
            Step::Leave { is_clean } => {
                let io = &mut self.ios[lane];
                let has_half = std::mem::take(&mut io.has_half);
                if let Some(wire) = io.wire {
                    let wire = self.close(wire);
                    let is_quiet = wire.owed.is_empty()
                        && wire.answers.is_empty()
                        && wire.partial.is_empty()
                        && !has_half;
                    assert!(
                        is_quiet || !is_clean || wire.is_broken,
                        "a lease goes back with replies outstanding"
                    );
                }
                self.dropped += self.lanes.lanes[lane].flights.len() as u64;
                self.overdue[lane] = false;
                self.with(|lanes| lanes.vacate(lane));
                return self.leave(at, &leading);
            }
        }
        At::Leading(leading)
    }

    fn begin(
        &mut self,
        leading: &mut Leading,
        others: bool,
        stale: bool,
        config: &Config,
        choices: &mut Choices,
    ) {
        let lane = leading.lane;
        if let Some(left) = self.ios[lane].left.take() {
            let is_there = self.wires.iter().any(|(number, _)| *number == left);
            self.ios[lane].wire = is_there.then_some(left);
        }
        if stale {
            let wire = self.ios[lane].wire;
            let has_come = wire.is_some_and(|wire| self.wire(wire).has_come());
            if has_come {
                let mut io = std::mem::take(&mut self.ios[lane]);
                read_from(self.wire(wire.unwrap()), &mut io, config, choices);
                self.ios[lane] = io;
            } else {
                self.dropped += self.lanes.lanes[lane].flights.len() as u64;
                self.overdue[lane] = false;
                self.with(|lanes| lanes.restart(lane));
                if let Some(wire) = wire {
                    self.close(wire);
                }
            }
        }
        let io = &mut self.ios[lane];
        leading.step = match io.wire {
            None => {
                *io = Io::default();
                Step::Connect { others }
            }
            Some(_) if io.is_broken => Step::Break,
            // What the leader before could not write in its time.
            Some(_) if leading.own && !io.out.is_empty() => Step::Write,
            Some(_) => Step::Ask,
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
            leading.step = Step::TimeIsUp(Then::Leave);
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
        if config.clients_panic {
            ways.push((1, Way::Panics));
        }
        match choices.pick(&ways) {
            Way::Connected => {
                let wire = self.next_wire;
                self.next_wire += 1;
                self.wires.push((wire, Wire::default()));
                self.ios[lane].wire = Some(wire);
                leading.step = Step::Ask;
            }
            Way::Waits => leading.step = Step::Connect { others },
            Way::Panics => {
                leading.panics = true;
                leading.step = Step::Break;
            }
            Way::Fails if others && !self.has_ended => {
                let request = self.callers[at].request();
                if self.with(|lanes| lanes.stand_back(lane, key, &request)) {
                    return self.leave(at, &leading);
                }
                leading.step = Step::Connect { others: false };
            }
            Way::Fails => {
                let error = Arc::new(Error::Ended);
                self.with(|lanes| lanes.no_connection(lane, key, &error));
                return self.leave(at, &leading);
            }
        }
        At::Leading(leading)
    }

    fn ask(
        &mut self,
        at: usize,
        mut leading: Leading,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        let (lane, key) = (leading.lane, self.callers[at].key);
        let has_replies = self.report(lane);
        if has_replies && self.lanes.lanes[lane].flights.is_empty() {
            // Another one may have come with these.
            if config.nonsense && choices.is_hit(12) {
                let whose = self.with(|lanes| lanes.answered(lane));
                assert!(matches!(whose, Whose::Unasked));
                leading.step = Step::Break;
                return At::Leading(leading);
            }
        }
        let request = self.callers[at].request();
        let condition = Condition {
            wanted: config.recalls && choices.is_hit(12),
            shared: config.is_shared,
        };
        let own = leading.own.then_some((key, &request[..]));
        let mut out = std::mem::take(&mut self.ios[lane].out);
        let next = self.with(|lanes| lanes.next_step(lane, own, condition, &mut out));
        let io = &mut self.ios[lane];
        io.out = out;
        leading.step = match next {
            Next::Write => Step::Write,
            Next::WriteAndRead => Step::WriteAndRead,
            Next::WriteOwn => Step::WriteOwn(0),
            Next::Read => {
                assert!(io.out.is_empty(), "a leader reads before it has written");
                Step::Read
            }
            Next::HandOver(mat, lead) => Step::HandOver(mat, lead),
            Next::Pass => return self.leave(at, &leading),
            Next::Release => {
                assert!(io.out.is_empty(), "a lease goes back before all is written");
                Step::Leave {
                    is_clean: !io.has_half,
                }
            }
            Next::Discard => Step::Leave { is_clean: false },
            Next::Drift => {
                io.left = io.wire.take();
                Step::Drift
            }
        };
        At::Leading(leading)
    }

    /// What `Io::report` does; whether there were replies.
    fn report(&mut self, lane: usize) -> bool {
        let io = &mut self.ios[lane];
        let (report, replies) = (
            std::mem::take(&mut io.report),
            std::mem::take(&mut io.replies),
        );
        self.lanes.advance(self.now);
        self.lanes.report(lane, &report);
        self.overdue[lane] &= !report.heard;
        for &reply in &replies {
            self.books.replies += 1;
            match self.lanes.answered(lane) {
                Whose::Caller(mat) => self.tell(mat, Message::Reply(reply)),
                Whose::Nobody => {}
                Whose::Unasked => panic!("a reply that was not asked for"),
            }
        }
        !replies.is_empty()
    }

    fn write_out(
        &mut self,
        at: usize,
        leading: &mut Leading,
        step: Step,
        config: &Config,
        choices: &mut Choices,
    ) {
        let lane = leading.lane;
        let out = std::mem::take(&mut self.ios[lane].out);
        let reads = matches!(step, Step::WriteAndRead);
        assert!(
            reads || self.writers(lane) == 0,
            "a leader writes while another does"
        );
        leading.step = match self.write_by(at, lane, &out, !reads, config, choices) {
            Wrote::All if reads => Step::Read,
            Wrote::All => Step::Ask,
            Wrote::Part(count) => {
                self.ios[lane].out = out[count..].to_vec();
                step
            }
            Wrote::Late => {
                self.ios[lane].out = out;
                Step::TimeIsUp(Then::Ask)
            }
            Wrote::Panic => {
                leading.panics = true;
                Step::Break
            }
        };
    }

    fn write_own(
        &mut self,
        at: usize,
        leading: &mut Leading,
        done: usize,
        config: &Config,
        choices: &mut Choices,
    ) {
        let (lane, request) = (leading.lane, self.callers[at].request());
        assert_eq!(self.writers(lane), 0, "a leader writes while another does");
        leading.step = match self.write_by(at, lane, &request[done..], true, config, choices) {
            Wrote::All => Step::Ask,
            Wrote::Part(count) => Step::WriteOwn(done + count),
            Wrote::Late => Step::TimeIsUp(Then::Break),
            Wrote::Panic => {
                leading.panics = true;
                Step::Break
            }
        };
    }

    /// What `Io::write` does, by its deadline if it may block.
    fn write_by(
        &mut self,
        at: usize,
        lane: usize,
        bytes: &[u8],
        may_block: bool,
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
        if may_block && config.parts && self.callers[at].is_late(self.now) {
            ways.push((6, Way::IsLate));
        }
        if config.clients_panic {
            ways.push((1, Way::Panics));
        }
        let way = choices.pick(&ways);
        if way == Way::IsLate {
            return Wrote::Late;
        }
        let wrote = if way == Way::Panics {
            Err(())
        } else {
            self.write(lane, bytes, false, config, choices)
        };
        let report = &mut self.ios[lane].report;
        if let Ok(count) = wrote {
            report.bytes += count;
            report.writes += 1;
            self.books.writes += 1;
            return if count == bytes.len() {
                Wrote::All
            } else {
                Wrote::Part(count)
            };
        }
        // It may have sent a part.
        report.bytes += if config.clients_panic { bytes.len() } else { 0 };
        if way == Way::Panics {
            return Wrote::Panic;
        }
        report.writes += 1;
        report.failed = true;
        self.books.writes += 1;
        self.shut(lane);
        Wrote::All
    }

    /// What a leader does whose call is over, before it hands its lane over: it writes if that
    /// cannot block. False if that panicked.
    fn write_last(&mut self, lane: usize, config: &Config, choices: &mut Choices) -> bool {
        if self.ios[lane].out.is_empty() || config.parts && choices.is_hit(4) {
            return true;
        }
        assert_eq!(self.writers(lane), 0, "a leader writes while another does");
        let out = std::mem::take(&mut self.ios[lane].out);
        if config.clients_panic && choices.is_hit(12) {
            self.ios[lane].report.bytes += out.len();
            return false;
        }
        let wrote = self.write(lane, &out, true, config, choices);
        let report = &mut self.ios[lane].report;
        report.writes += 1;
        self.books.writes += 1;
        if wrote.is_ok() || config.clients_panic {
            report.bytes += out.len();
        }
        if wrote.is_err() {
            report.failed = true;
            self.shut(lane);
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
        let (lane, caller) = (leading.lane, &self.callers[at]);
        let stage = self.lanes.calls[caller.key].stage;
        assert_ne!(stage, Stage::Over, "a call that is over waits for others");
        let is_late = caller.is_late(self.now);
        let mut io = std::mem::take(&mut self.ios[lane]);
        let wire = self.wire(io.wire.unwrap());
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
                read_from(wire, &mut io, config, choices);
                Step::Ask
            }
            Way::IsNonsense | Way::FindsTheEnd => Step::Break,
            Way::IsLate => Step::TimeIsUp(Then::Ask),
            Way::WakesUp => Step::Ask,
        };
        self.ios[lane] = io;
    }

    /// What `Leader::break_lane` does.
    fn break_lane(&mut self, at: usize, leading: &mut Leading) {
        let (lane, key) = (leading.lane, self.callers[at].key);
        self.ios[lane].is_broken = false;
        self.report(lane);
        let error = Arc::new(io::Error::other("broken"));
        let dropped = self.lanes.lanes[lane].flights.iter();
        let dropped = dropped.filter(|flight| flight.key.is_none()).count();
        let own = leading.own.then_some(key);
        leading.step = if self.with(|lanes| lanes.broke(lane, own, &error)) {
            self.dropped += dropped as u64;
            Step::Leave { is_clean: false }
        } else {
            assert!(!leading.panics, "a call is left behind");
            Step::Shut
        };
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
        let phases = self.lanes.lanes.iter().map(|lane| lane.phase);
        let is_led = |phase: &Phase| matches!(phase, Phase::Starting | Phase::Led | Phase::Passing);
        let used = phases.filter(is_led).count();
        let waits = self.lanes.first_waiting().is_some();
        assert!(!waits || used > 0, "somebody waits, and nobody leads");
    }

    /// Whether a caller leads a lane for its own call, or is on its way there.
    fn is_leading(&self, caller: &Caller) -> bool {
        let is_next = |other: &Caller| match &other.at {
            At::Leading(leading) => match &leading.step {
                Step::HandOver(mat, _) => mat.is(&caller.mat),
                _ => false,
            },
            _ => false,
        };
        let is_told = |(mat, message): &(Mat, Message)| {
            mat.is(&caller.mat) && matches!(message, Message::News(News::Lead(_)))
        };
        let leads = match &caller.at {
            At::Leading(leading) => leading.own && !matches!(leading.step, Step::Shut),
            _ => false,
        };
        leads || self.post.iter().any(is_told) || self.callers.iter().any(is_next)
    }

    fn breaks(&self, lane: usize) -> bool {
        self.callers.iter().any(|caller| match &caller.at {
            At::Leading(leading) => leading.lane == lane && matches!(leading.step, Step::Break),
            _ => false,
        })
    }

    /// Whether the caller that is to watch over the queue does, or is about to.
    fn is_watched(&self) -> bool {
        let is_it = |caller: &&Caller| Some(caller.key) == self.lanes.watcher;
        let watcher = self.callers.iter().find(is_it);
        watcher.is_some_and(|caller| match caller.at {
            At::Asleep { asks_again, .. } => asks_again || self.message_for(caller).is_some(),
            At::Writing { .. } => true,
            // It leads for others, and waits for nothing.
            At::Leading(ref leading) => !leading.own,
            At::Over => false,
        })
    }

    /// Each call is in one place.
    fn check_call(&self, key: usize) {
        let lanes = &self.lanes;
        let call = &lanes.calls[key];
        let queued = lanes.queue.iter().chain(&lanes.large);
        let queued = queued.filter(|other| **other == key).count();
        let flights = lanes.lanes.iter().flat_map(|lane| &lane.flights);
        let flying = flights.filter(|flight| flight.key == Some(key)).count();
        let over = lanes.over.iter().filter(|other| **other == key).count();
        let caller = self.callers.iter().find(|caller| caller.key == key);
        if call.stage != Stage::Queued {
            assert!(call.request.is_empty());
        }
        let Some(caller) = caller else {
            assert_eq!(call.stage, Stage::Over, "a call goes on without its caller");
            assert_eq!((queued, flying, over), (0, 0, 1));
            return;
        };
        assert!(call.seat.is(&caller.mat));
        let leads = self.is_leading(caller);
        let is_asleep = match caller.at {
            At::Asleep { .. } => self.message_for(caller).is_none(),
            _ => false,
        };
        match call.stage {
            Stage::Queued => {
                assert_eq!((queued, flying, over), (1, 0, 0));
                assert!(!leads && !call.leads);
                let is_small = caller.len <= self.lanes.rules.max_bytes;
                assert_eq!(call.request.len(), if is_small { caller.len } else { 0 });
                assert!(self.is_watched(), "nobody watches over the queue");
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
                    !is_asleep || matches!(lane.phase, Phase::Led | Phase::Passing),
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
        let steps = self.callers.iter().filter_map(|caller| match &caller.at {
            At::Leading(leading) if leading.lane == at => Some(&leading.step),
            _ => None,
        });
        let mut steps = steps.filter(|step| !matches!(step, Step::Shut));
        let (step, second) = (steps.next(), steps.next());
        let told = self.post.iter().filter(|(_, message)| match message {
            Message::News(News::Lead(next)) => next.lane == at,
            _ => false,
        });
        let leaders = told.count() + usize::from(step.is_some()) + usize::from(second.is_some());
        let is_used = matches!(lane.phase, Phase::Starting | Phase::Led);
        assert_eq!(leaders, usize::from(is_used), "leaders of a lane");
        assert_eq!(
            self.writers(at),
            usize::from(lane.writing),
            "writers on a lane"
        );
        assert!(lane.writing || lane.phase != Phase::Passing);

        let count = lane.flights.len();
        assert!(count <= self.lanes.rules.max_in_flight.max(1));
        let bytes: usize = lane.flights.iter().map(|flight| flight.len).sum();
        assert_eq!(bytes, lane.outstanding);
        let is_bounded = bytes <= self.lanes.rules.max_bytes || count == 1;
        assert!(is_bounded, "{bytes} bytes in {count}");
        assert!(lane.written <= lane.booked);

        let io = &self.ios[at];
        let wire = io.wire.or(io.left);
        let wire = self.wires.iter().find(|(number, _)| Some(*number) == wire);
        let (mut read, mut is_whole) = (io.replies.clone(), false);
        if let Some((_, wire)) = wire.filter(|_| !matches!(step, Some(Step::Leave { .. }))) {
            read.extend(wire.answers.iter().chain(&wire.owed));
            let is_cut = matches!(
                step,
                Some(Step::WriteOwn(_) | Step::TimeIsUp(_) | Step::Break)
            );
            is_whole = !wire.is_broken
                && !lane.writing
                && !config.clients_panic
                && io.out.is_empty()
                && !is_cut;
        }
        assert!(read.len() <= count, "a reply that was not asked for");
        assert!(read.len() == count || !is_whole, "a request was not sent");
        for (id, flight) in read.iter().zip(&lane.flights) {
            let caller = flight
                .key
                .and_then(|key| self.callers.iter().find(|c| c.key == key));
            assert!(
                caller.is_none_or(|caller| caller.id == *id),
                "another caller's reply"
            );
        }

        let now = (self.overdue[at], lane.failing, lane.booked);
        let before = std::mem::replace(&mut self.before[at], now);
        if now.2 > before.2 {
            let is_behind = before.0 && now.0;
            assert!(!is_behind, "something new behind an overdue reply");
            assert!(!before.1, "something new on a lane that fails");
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
        let used = lanes.filter(|lane| !matches!(lane.phase, Phase::Vacant | Phase::Starting));
        let in_flight = self.lanes.lanes.iter().map(|lane| lane.flights.len()).sum();
        let reports = self.ios.iter().map(|io| &io.report);
        let writing = self.callers.iter().filter_map(|caller| match &caller.at {
            At::Writing { report, .. } => Some(report),
            _ => None,
        });
        let unreported: u64 = reports.chain(writing).map(|report| report.writes).sum();
        let books = &self.books;
        let expected = PipelineStats {
            queued: queued.count(),
            in_flight,
            lanes: used.count(),
            writes: books.writes - unreported,
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
