//! One call of a pipeline: entering, waiting, leading a lane, writing on one that another leads.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pipeline::lane::{End, Kit, Machine, Message, Pen, Seat};
use crate::pipeline::leader::Leader;
use crate::pipeline::shared::Core;
use crate::report::call_error::CallError;
use crate::report::error::Error;
use crate::state::lanes::{Entry, Fate, GaveUp, Lead};
use crate::sync::now;

/// When a call looks again whether it was sent that has led or written for others.
const TICK: Duration = Duration::from_millis(100);
/// How often a call goes to another lane because its lane broke before it was sent.
const BOUNCES: usize = 8;

impl<R: Send + 'static, C: Read + Write + Send + 'static> Core<R, C> {
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
            let is_repetition = match (fate, &lost) {
                (Fate::Lost(error), None) if self.repeatable => {
                    lost = Some(error);
                    true
                }
                (Fate::Lost(error), _) => return Err(CallError::Lost(error)),
                (Fate::Unsent(_), _) if bounces < BOUNCES => {
                    bounces += 1;
                    false
                }
                (_, Some(lost)) => return Err(CallError::Lost(Arc::clone(lost))),
                (Fate::NoConnection(error), None) => return Err(CallError::Pool(error)),
                (Fate::Unsent(error), None) => {
                    let error = io::Error::new(error.kind(), error);
                    return Err(CallError::Pool(Arc::new(Error::Connect(error))));
                }
            };
            if deadline.is_some_and(|at| at <= now()) {
                self.with(Machine::refused);
                return Err(timed_out(lost.is_some()));
            }
            if is_repetition {
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
        caller.run(&seat, entry)
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
    /// Does what the call is to do, and sleeps in between, until it is over.
    fn run(&self, seat: &Seat<R, C>, mut entry: Entry<Box<Kit<R, C>>, Pen>) -> End<R> {
        let mut is_settled = false;
        loop {
            let again = match entry {
                Entry::Lead(lead) => {
                    if let Some(end) = self.lead(lead) {
                        return end;
                    }
                    is_settled = false;
                    Some(TICK)
                }
                Entry::Send { lane, pen } => {
                    self.core.send(lane, pen);
                    Some(TICK)
                }
                Entry::Wait(again) => again,
            };
            let look_at = again.map(|again| now() + again);
            entry = loop {
                let deadline = self.deadline.filter(|_| !is_settled);
                match seat.wait([deadline, look_at].into_iter().flatten().min()) {
                    Some(Message::Reply(reply)) => return End::Reply(reply),
                    Some(Message::Fate(fate)) => return End::Failed(fate),
                    Some(Message::Lead(lead)) => break Entry::Lead(lead),
                    None if deadline.is_some_and(|at| at <= now()) => {
                        match self.core.with(|lanes| lanes.give_up(self.key)) {
                            GaveUp::Unsent => return End::TimedOut { sent: false },
                            GaveUp::Sent => return End::TimedOut { sent: true },
                            GaveUp::Settled => is_settled = true,
                        }
                    }
                    None => break self.core.with(|lanes| lanes.again(self.key)),
                }
            };
        }
    }

    /// Leads a lane until the call is over; `None` if the call is queued again.
    fn lead(&self, mut lead: Lead<Box<Kit<R, C>>>) -> Option<End<R>> {
        let (key, request, deadline) = (self.key, self.request, self.deadline);
        let leader = Leader::new(self.core, &mut lead, key, request, deadline);
        leader.run(lead.others, lead.stale)
    }
}
