//! What belongs to a lane and its callers, whoever leads it: its lease, its buffers, and where its
//! callers sleep.

use std::any::TypeId;
use std::io::{self, ErrorKind};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::pipeline::input::Input;
use crate::runtime::connection::{Abandoned, Connection};
use crate::state::lanes::{self, Lanes, News, Report, Step, Whose};
use crate::sync::user_code::destroy;
use crate::sync::{Condvar, Mutex, MutexGuard, now};

pub(super) type Machine<R> = Lanes<Arc<Seat<R>>>;

/// Where a caller sleeps until it has its reply, or a lane to lead.
pub(super) struct Seat<R> {
    inbox: Mutex<Inbox<R>>,
    bell: Condvar,
}

struct Inbox<R> {
    message: Option<Message<R>>,
    asleep: bool,
}

pub(super) enum Message<R> {
    Reply(R),
    News(News),
}

/// A lane's connection.
pub(super) struct Line<R, C> {
    /// Locked by the leader, and for a moment by who counts the lanes.
    io: Mutex<Io<R, C>>,
    /// What others write with; none while they cannot. Locked by whoever writes beside others, and
    /// by the leader already while it books what it writes.
    shared: Mutex<Option<Stream>>,
}

/// What a leader works with.
pub(super) struct Io<R, C> {
    pub(super) lease: Option<Connection<C>>,
    /// The lease, while nobody leads the lane.
    pub(super) left: Option<Abandoned<C>>,
    pub(super) input: Input,
    /// What is to be written.
    pub(super) out: Vec<u8>,
    /// Whether others can write on it.
    pub(super) is_shared: bool,
    /// Whether the socket's buffers take what is to be written, so that no write can block.
    pub(super) is_held: bool,
    /// What was done and not reported.
    pub(super) report: Report,
    /// Replies that were read, in their order; then with their callers, if those still wait.
    pub(super) replies: Vec<R>,
    answered: Vec<(Option<Arc<Seat<R>>>, R)>,
    pub(super) timeout: Timeout,
    /// Why the leader cannot read on.
    pub(super) stop: Option<Stop<R>>,
}

pub(super) enum Stop<R> {
    OutOfTime,
    /// The connection is of no use any more; `true` if it broke by itself.
    Broken(Arc<io::Error>, bool),
    /// It is to leave.
    Leave(Step<Arc<Seat<R>>>),
}

impl<R> Seat<R> {
    pub(super) fn tell(&self, message: Message<R>) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let is_replaceable = matches!(inbox.message, None | Some(Message::News(News::Watch)));
        if matches!(message, Message::News(News::Watch)) && !is_replaceable {
            return;
        }
        debug_assert!(is_replaceable, "bug: two messages for one caller");
        inbox.message = Some(message);
        let asleep = inbox.asleep;
        drop(inbox);
        if asleep {
            self.bell.notify_one();
        }
    }

    /// The message, once there is one; none if the time is up before, for which nobody asks where
    /// it is there already.
    pub(super) fn wait(&self, until: impl FnOnce() -> Option<Instant>) -> Option<Message<R>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.message.is_none() {
            let until = until();
            inbox.asleep = true;
            while inbox.message.is_none() {
                let left = until.map(|at| at.saturating_duration_since(now()));
                if left.is_some_and(|left| left.is_zero()) {
                    break;
                }
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
            }
            inbox.asleep = false;
        }
        inbox.message.take()
    }
}

impl<R> lanes::Seat for Arc<Seat<R>> {
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

impl<R, C> Line<R, C> {
    pub(super) fn new() -> Self {
        let io = Io {
            lease: None,
            left: None,
            input: Input::default(),
            out: Vec::new(),
            is_shared: false,
            is_held: false,
            report: Report::default(),
            replies: Vec::new(),
            answered: Vec::new(),
            timeout: Timeout::default(),
            stop: None,
        };
        Self {
            io: Mutex::new(io),
            shared: Mutex::new(None),
        }
    }

    pub(super) fn io(&self) -> MutexGuard<'_, Io<R, C>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this if the lease that a leader has left to the pool is closed, and before anybody
    /// leads the lane again.
    pub(super) fn if_closed(&self, then: impl FnOnce()) {
        let io = match self.io.try_lock() {
            Ok(io) => io,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if io.left.as_ref().is_some_and(Abandoned::is_closed) {
            then();
        }
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Option<Stream>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R, C> Io<R, C> {
    /// Tells what was done and what has come; false if a reply was not asked for.
    pub(super) fn report(&mut self, lanes: &mut Machine<R>, lane: usize) -> bool {
        lanes.report(lane, &std::mem::take(&mut self.report));
        let mut all_asked = true;
        for reply in self.replies.drain(..) {
            let caller = match lanes.answered(lane) {
                Whose::Caller(seat) => Some(seat),
                Whose::Nobody => None,
                Whose::Unasked => {
                    all_asked = false;
                    None
                }
            };
            self.answered.push((caller, reply));
        }
        all_asked
    }

    /// Hands the replies to their callers.
    pub(super) fn deliver(&mut self) {
        for (caller, reply) in self.answered.drain(..) {
            match caller {
                Some(seat) => seat.tell(Message::Reply(reply)),
                None => destroy(reply),
            }
        }
    }

    /// The leader cannot read on, for this reason.
    pub(super) fn break_off(&mut self, kind: ErrorKind, text: &str) {
        let error = Arc::new(io::Error::new(kind, text));
        self.stop = Some(Stop::Broken(error, false));
    }

    /// Ready for another lease.
    pub(super) fn clear(&mut self) {
        self.out.clear();
        self.input.clear();
        self.report = Report::default();
        self.stop = None;
    }
}

/// A lease that was not given back in order has replies outstanding.
impl<R, C> Drop for Io<R, C> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            Connection::discard(lease);
        }
    }
}

/// What is known of the lease's read time-out.
#[derive(Default)]
pub(super) struct Timeout {
    /// Since when it has been waited for a byte; none if since the read that waits now began, which
    /// then does so for as long as was given.
    pub(super) quiet_since: Option<Instant>,
    /// What the pool has set, once it was asked for.
    pub(super) given: Option<Option<Duration>>,
    /// What a leader has set.
    pub(super) set: Option<Option<Duration>>,
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
        let seat: Arc<Seat<()>> = lanes::Seat::new();
        assert!(seat.is_free());
        let callers = Arc::clone(&seat);
        assert!(!seat.is_free());
        drop(callers);
        assert!(seat.is_free());
    }

    /// Another thread tells it, so it may be late.
    #[test]
    fn that_it_is_to_watch_hides_nothing_else_that_a_caller_hears() {
        let watch = || Message::News(News::Watch);
        for messages in [[watch(), Message::Reply(1)], [Message::Reply(1), watch()]] {
            let seat: Arc<Seat<i32>> = lanes::Seat::new();
            for message in messages {
                seat.tell(message);
            }
            let heard = seat.wait(|| Some(now()));
            assert!(matches!(heard, Some(Message::Reply(1))));
            assert!(seat.wait(|| Some(now())).is_none());
        }
    }
}
