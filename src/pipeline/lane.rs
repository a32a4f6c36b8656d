//! What belongs to a lane and its callers, whoever leads it: its lease, its buffers, and where its
//! callers sleep.

use std::any::TypeId;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::pipeline::input::Input;
use crate::runtime::connection::{Abandoned, Connection};
use crate::state::lanes::{self, Fate, Lanes, Lead, Whose};
use crate::sync::user_code::destroy;
use crate::sync::{Condvar, Mutex, now};

pub(super) type Machine<R, C> = Lanes<Arc<Seat<R, C>>, Box<Kit<R, C>>, Pen>;

/// Where a caller sleeps until it has its reply, or a lane to lead.
pub(super) struct Seat<R, C> {
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

/// What a leader works with; it passes from leader to leader with the lane.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(super) struct Kit<R, C> {
    pub(super) lease: Option<Connection<C>>,
    /// The lease, while nobody leads the lane.
    pub(super) left: Option<Abandoned<C>>,
    /// The machine does not know yet that there is a lease.
    pub(super) is_fresh: bool,
    pub(super) input: Input,
    /// What is to be written.
    pub(super) out: Vec<u8>,
    /// Whether the socket's buffers take what is to be written, so that no write can block.
    pub(super) is_held: bool,
    /// Bytes and system calls that were written and not reported.
    pub(super) wrote: (usize, u64),
    /// The leaders of this lane are the one who writes on it.
    pub(super) is_writing: bool,
    pub(super) has_failed: bool,
    pub(super) has_heard: bool,
    /// Replies that were read, in their order; then those that have an owner, and the others.
    pub(super) replies: Vec<R>,
    pub(super) told: Vec<(Arc<Seat<R, C>>, R)>,
    pub(super) unwanted: Vec<R>,
    /// The buffer of a pen, while there is none.
    pub(super) ink: Vec<u8>,
    /// A pen's handle on the connection, to be dropped before that is given back.
    pub(super) laid: Option<Stream>,
    pub(super) timeout: Timeout,
}

/// What those write with who do not lead.
pub(super) struct Pen {
    pub(super) stream: Stream,
    pub(super) ink: Vec<u8>,
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
    pub(super) fn wait(&self, until: Option<Instant>) -> Option<Message<R, C>> {
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

impl lanes::Pen for Pen {
    fn ink(&mut self) -> &mut Vec<u8> {
        &mut self.ink
    }
}

impl<R, C: 'static> Kit<R, C> {
    pub(super) fn begin(&mut self, lease: Connection<C>) {
        self.lease = Some(lease);
        self.is_fresh = true;
        self.timeout = Timeout::new();
    }

    /// Tells the machine what was done and what has come; false if a reply was not asked for.
    pub(super) fn report(
        &mut self,
        lanes: &mut Machine<R, C>,
        lane: usize,
        key: usize,
        own: &mut Option<R>,
    ) -> bool {
        if std::mem::take(&mut self.is_fresh) {
            let stream = self.lease.as_ref().and_then(shared_stream);
            let ink = std::mem::take(&mut self.ink);
            lanes.started(lane, stream.map(|stream| Pen { stream, ink }));
        }
        if self.is_writing && self.out.is_empty() {
            self.report_written(lanes, lane);
        }
        if std::mem::take(&mut self.has_heard) {
            lanes.heard(lane);
        }
        let mut all_asked = true;
        for reply in self.replies.drain(..) {
            match lanes.answered(lane) {
                Whose::Caller(whose, _) if whose == key && own.is_none() => *own = Some(reply),
                Whose::Caller(_, seat) => self.told.push((seat, reply)),
                Whose::Nobody => self.unwanted.push(reply),
                Whose::Unasked => {
                    self.unwanted.push(reply);
                    all_asked = false;
                }
            }
        }
        all_asked
    }

    pub(super) fn report_written(&mut self, lanes: &mut Machine<R, C>, lane: usize) {
        if std::mem::take(&mut self.is_writing) {
            let (bytes, writes) = std::mem::take(&mut self.wrote);
            lanes.wrote(lane, bytes, writes, self.has_failed);
        }
    }

    /// Hands the replies to their callers.
    pub(super) fn deliver(&mut self) {
        for (seat, reply) in self.told.drain(..) {
            seat.tell(Message::Reply(reply));
        }
        self.unwanted.drain(..).for_each(destroy);
    }

    /// Takes a pen apart, before its connection goes.
    pub(super) fn lay_down(&mut self, pen: Option<Pen>) {
        if let Some(pen) = pen {
            self.ink = pen.ink;
            self.laid = Some(pen.stream);
        }
    }

    /// Ready for another lease.
    pub(super) fn clear(&mut self) {
        self.out.clear();
        self.input.clear();
        self.wrote = (0, 0);
        (self.is_writing, self.has_failed, self.has_heard) = (false, false, false);
    }
}

impl<R, C> Default for Kit<R, C> {
    fn default() -> Self {
        Self {
            lease: None,
            left: None,
            is_fresh: false,
            input: Input::default(),
            out: Vec::new(),
            is_held: false,
            wrote: (0, 0),
            is_writing: false,
            has_failed: false,
            has_heard: false,
            replies: Vec::new(),
            told: Vec::new(),
            unwanted: Vec::new(),
            ink: Vec::new(),
            laid: None,
            timeout: Timeout::new(),
        }
    }
}

/// A lease that was not given back in order has replies outstanding.
impl<R, C> Drop for Kit<R, C> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            Connection::discard(lease);
        }
    }
}

/// What is known of the lease's read time-out.
pub(super) struct Timeout {
    /// When a byte came last, or the lease began.
    pub(super) quiet_since: Instant,
    /// What the pool has set, once it was asked for.
    pub(super) given: Option<Option<Duration>>,
    /// What a leader has set.
    pub(super) set: Option<Option<Duration>>,
}

impl Timeout {
    pub(super) fn new() -> Self {
        Self {
            quiet_since: now(),
            given: None,
            set: None,
        }
    }
}

pub(super) fn is_stream<C: 'static>() -> bool {
    TypeId::of::<C>() == TypeId::of::<Stream>()
}

/// A handle on the connection with which others can write: if that is what the client is, and its
/// buffers are large enough for writes that have no deadline.
pub(super) fn shared_stream<C: 'static>(lease: &Connection<C>) -> Option<Stream> {
    let stream = Connection::stream(lease);
    (is_stream::<C>() && stream.socket().is_roomy()).then(|| stream.another())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::lanes::Seat as _;

    /// Else each call would get a place of its own, for ever.
    #[test]
    fn a_seat_is_free_once_its_caller_and_every_message_for_it_are_gone() {
        let seat: Arc<Seat<(), ()>> = lanes::Seat::new();
        assert!(seat.is_free());
        let callers = Arc::clone(&seat);
        assert!(!seat.is_free());
        drop(callers);
        assert!(seat.is_free());
    }
}
