//! The lanes of a pipeline together with all that acts on them: callers, leaders, writers, servers.
//!
//! It plays what the files of `src/pipeline` do, from one use of the lock to the next: each step of
//! a caller is what its thread does until then. The server keeps books: which requests had a byte
//! of theirs written, and in which order they were answered. Where things may go one way or another,
//! [`Choices`] decide: at random in the walks of `model/lanes.rs`, and each way in turn in the search
//! of `explore/lanes.rs`.
//!
//! What a caller is told it may see at any time later.

#[path = "lane_world/calling.rs"]
mod calling;
#[path = "lane_world/checks.rs"]
mod checks;
#[path = "lane_world/leading.rs"]
mod leading;
#[path = "lane_world/wires.rs"]
mod wires;

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

    /// All is quiet: nothing is in use.
    pub(super) fn check_quiet(&self) {
        let lanes = &self.lanes.lanes;
        assert!(lanes.iter().all(|lane| lane.phase == Phase::Vacant));
        assert!(self.wires.is_empty(), "a connection is kept for ever");
        assert!(self.post.is_empty());
    }
}
