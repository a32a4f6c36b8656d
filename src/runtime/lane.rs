//! One call of a pipeline: entering, waiting, leading a lane, writing on one that another leads.
//!
//! `state/lanes.rs` decides; this file reads, writes and wakes. Its one lock is never held across a
//! system call, a wake-up or a function of the user's.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::Pool;
use crate::report::call_error::CallError;
use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;
use crate::runtime::leader::{Kit, Leader, Pen};
use crate::runtime::shared::Listener;
use crate::state::lanes::{self, Entry, Fate, GaveUp, Lanes, Lead, Rules};
use crate::sync::atomic::AtomicUsize;
use crate::sync::{Condvar, Mutex, MutexGuard, now};

/// When a queued call looks again whether it can be sent; then after twice as long, and so on.
const TICK: Duration = Duration::from_millis(100);
/// How often a call goes to another lane because its lane broke before it was sent.
const BOUNCES: usize = 8;
pub(crate) type ReadReply<R> = Box<dyn Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync>;
pub(super) type Machine<R, C> = Lanes<Arc<Seat<R, C>>, Box<Kit<R, C>>, Pen>;

/// What all handles of a pipeline share.
pub(crate) struct Core<R, C> {
    pub(crate) pool: Pool<C>,
    pub(super) read_reply: ReadReply<R>,
    repeatable: bool,
    state: Mutex<State<R, C>>,
    /// Rings when a caller that does not lead has written.
    written: Condvar,
    /// How many of this pipeline's callers are getting a connection.
    pub(super) pulling: AtomicUsize,
}

struct State<R, C> {
    lanes: Machine<R, C>,
    /// How many wait for `written`.
    listeners: usize,
}

/// Where a caller sleeps until it has its reply, or a lane to lead.
pub(crate) struct Seat<R, C> {
    inbox: Mutex<Inbox<R, C>>,
    bell: Condvar,
}

struct Inbox<R, C> {
    message: Option<Message<R, C>>,
    asleep: bool,
}

pub(super) enum Message<R, C> {
    Reply(R),
    Fate(Fate),
    Lead(Lead<Box<Kit<R, C>>>),
}

/// How an attempt ends.
pub(super) enum End<R> {
    Reply(R),
    TimedOut { sent: bool },
    Failed(Fate),
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Core<R, C> {
    pub(crate) fn new(
        pool: Pool<C>,
        read_reply: ReadReply<R>,
        repeatable: bool,
        rules: Rules,
    ) -> Self {
        let lanes = Lanes::new(rules, now());
        Self {
            pool,
            read_reply,
            repeatable,
            state: Mutex::new(State {
                lanes,
                listeners: 0,
            }),
            written: Condvar::new(),
            pulling: AtomicUsize::new(0),
        }
    }

    /// One call, repeated where that is safe or allowed.
    pub(crate) fn call(
        &self,
        request: &[u8],
        start: Instant,
        deadline: Option<Instant>,
    ) -> Result<R, CallError> {
        let timed_out = |sent| CallError::TimedOut {
            sent,
            elapsed: now() - start,
        };
        if deadline.is_some_and(|at| at <= start) {
            self.with(Machine::refused);
            return Err(timed_out(false));
        }
        let (mut lost, mut bounces) = (None, 0);
        loop {
            let is_first = lost.is_some() || bounces > 0;
            let fate = match self.attempt(request, deadline, is_first) {
                End::Reply(reply) => return Ok(reply),
                End::TimedOut { sent } => return Err(timed_out(sent || lost.is_some())),
                End::Failed(fate) => fate,
            };
            match (fate, &lost) {
                (Fate::Lost(error), None) if self.repeatable => lost = Some(error),
                (Fate::Lost(error), _) => return Err(CallError::Lost(error)),
                (Fate::Unsent(_), _) if bounces < BOUNCES => bounces += 1,
                (_, Some(lost)) => return Err(CallError::Lost(Arc::clone(lost))),
                (Fate::NoConnection(error), None) => return Err(CallError::Pool(error)),
                (Fate::Unsent(error), None) => {
                    let error = io::Error::new(error.kind(), error);
                    return Err(CallError::Pool(Arc::new(Error::Connect(error))));
                }
            }
            if deadline.is_some_and(|at| at <= now()) {
                self.with(Machine::refused);
                return Err(timed_out(lost.is_some()));
            }
            if lost.is_some() && bounces == 0 {
                self.with(Machine::repeats);
            }
        }
    }

    fn attempt(&self, request: &[u8], deadline: Option<Instant>, is_first: bool) -> End<R> {
        let (key, seat, entry) = self.with(|lanes| lanes.enter(request, deadline, is_first));
        let caller = Caller {
            core: self,
            key,
            request,
            deadline,
        };
        let mut nudge = None;
        match entry {
            Entry::Lead(lead) => {
                if let Some(end) = caller.lead(lead) {
                    return end;
                }
                nudge = Some(now() + TICK);
            }
            Entry::Send { lane, pen } => self.send(lane, pen),
            Entry::Wait(patience) => nudge = patience.map(|patience| now() + patience),
        }
        caller.wait(&seat, nudge)
    }

    pub(crate) fn stats(&self) -> PipelineStats {
        self.with(|lanes| lanes.stats())
    }

    /// Locks, moves the clock, decides, unlocks, and tells who is to be told.
    pub(super) fn with<T>(&self, decide: impl FnOnce(&mut Machine<R, C>) -> T) -> T {
        let time = now();
        let mut state = self.lock();
        state.lanes.advance(time);
        let decided = decide(&mut state.lanes);
        let effects = state.lanes.take_effects();
        drop(state);
        if let Some(effects) = effects {
            for (seat, fate) in effects.fates {
                seat.tell(Message::Fate(fate));
            }
            if let Some((seat, lead)) = effects.lead {
                seat.tell(Message::Lead(lead));
            }
        }
        decided
    }

    fn lock(&self) -> MutexGuard<'_, State<R, C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes on a lane that another caller leads.
    fn send(&self, lane: usize, mut pen: Pen) {
        loop {
            let (mut done, mut writes, mut failed) = (0, 0, false);
            while done < pen.ink.len() && !failed {
                match (&pen.stream).write(&pen.ink[done..]) {
                    Ok(count) => {
                        failed = count == 0;
                        done += count;
                        writes += 1;
                    }
                    Err(error) => failed = error.kind() != ErrorKind::Interrupted,
                }
            }
            if failed {
                // Its leader reads what has come, then finds the end.
                let _ = pen.stream.shutdown(Shutdown::Both);
            }
            let mut more = None;
            let ring = self.with_state(|state| {
                more = state.lanes.sent(lane, pen, (done, writes), failed);
                state.listeners > 0
            });
            if ring {
                self.written.notify_all();
            }
            let Some((_, next)) = more else { return };
            pen = next;
        }
    }

    fn with_state<T>(&self, decide: impl FnOnce(&mut State<R, C>) -> T) -> T {
        let time = now();
        let mut state = self.lock();
        state.lanes.advance(time);
        decide(&mut state)
    }

    /// Waits until nobody writes on this lane but its leader.
    pub(super) fn wait_for_writer(&self, lane: usize) {
        let mut state = self.lock();
        while state.lanes.is_writing(lane) {
            state.listeners += 1;
            state = self
                .written
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.listeners -= 1;
        }
    }
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Listener for Core<R, C> {
    fn pool_ended(&self) {
        let error = Arc::new(Error::Ended);
        self.with(|lanes| lanes.end(error));
    }
}

/// A call, and the thread that makes it.
struct Caller<'a, R, C> {
    core: &'a Core<R, C>,
    key: usize,
    request: &'a [u8],
    deadline: Option<Instant>,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Caller<'_, R, C> {
    /// Sleeps until the call is over. From `nudge` on it sees for itself whether anybody sends it.
    fn wait(&self, seat: &Seat<R, C>, mut nudge: Option<Instant>) -> End<R> {
        let (mut is_settled, mut tick) = (false, TICK);
        loop {
            let deadline = self.deadline.filter(|_| !is_settled);
            let until = [deadline, nudge].into_iter().flatten().min();
            match seat.wait(until) {
                Some(Message::Reply(reply)) => return End::Reply(reply),
                Some(Message::Fate(fate)) => return End::Failed(fate),
                Some(Message::Lead(lead)) => {
                    if let Some(end) = self.lead(lead) {
                        return end;
                    }
                    (is_settled, nudge) = (false, Some(now() + TICK));
                }
                None if deadline.is_some_and(|at| at <= now()) => {
                    match self.core.with(|lanes| lanes.give_up(self.key)) {
                        GaveUp::Unsent => return End::TimedOut { sent: false },
                        GaveUp::Sent => return End::TimedOut { sent: true },
                        GaveUp::Settled => (is_settled, nudge) = (true, None),
                    }
                }
                None => {
                    let key = self.key;
                    let (pen, is_queued) = self
                        .core
                        .with(|lanes| (lanes.nudge(key), lanes.is_queued(key)));
                    if let Some((lane, pen)) = pen {
                        self.core.send(lane, pen);
                    }
                    nudge = now().checked_add(tick).filter(|_| is_queued);
                    tick = tick.saturating_mul(2);
                }
            }
        }
    }

    /// Leads a lane until the call is over; `None` if the call is queued again.
    fn lead(&self, mut lead: Lead<Box<Kit<R, C>>>) -> Option<End<R>> {
        let (key, request, deadline) = (self.key, self.request, self.deadline);
        let leader = Leader::new(self.core, &mut lead, key, request, deadline);
        leader.run(lead.others, lead.stale)
    }
}

impl<R, C> Seat<R, C> {
    pub(super) fn tell(&self, message: Message<R, C>) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(inbox.message.is_none(), "bug: two messages for one caller");
        inbox.message = Some(message);
        let asleep = inbox.asleep;
        drop(inbox);
        if asleep {
            self.bell.notify_one();
        }
    }

    /// The message, once there is one; none if the time is up before.
    fn wait(&self, until: Option<Instant>) -> Option<Message<R, C>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(message) = inbox.message.take() {
                return Some(message);
            }
            let left = until.map(|at| at.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            inbox.asleep = true;
            inbox = match left {
                None => self
                    .bell
                    .wait(inbox)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.bell.wait_timeout(inbox, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            inbox.asleep = false;
        }
    }
}

impl<R, C> lanes::Seat for Arc<Seat<R, C>> {
    fn new() -> Self {
        let inbox = Inbox {
            message: None,
            asleep: false,
        };
        Arc::new(Seat {
            inbox: Mutex::new(inbox),
            bell: Condvar::new(),
        })
    }

    fn is_free(&self) -> bool {
        Arc::strong_count(self) == 1
    }
}
