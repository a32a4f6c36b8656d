//! One call of a pipeline: entering, waiting, leading a lane, writing on one that another leads.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use crate::pipeline::lane::{Machine, Message};
use crate::pipeline::leader::{Call, Leader};
use crate::pipeline::shared::Core;
use crate::pipeline::wire::write_all;
use crate::report::call_error::CallError;
use crate::report::error::Error;
use crate::state::lanes::{Entry, Failure, News, Report};
use crate::sync::now;

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
        let (mut lost, mut bounces, mut begun) = (None, 0, start);
        loop {
            let is_first = lost.is_some() || bounces > 0;
            let failure = match self.attempt(request, begun, deadline, is_first) {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let is_repetition = match (failure, &lost) {
                (Failure::TimedOut { sent }, _) => return Err(timed_out(sent || lost.is_some())),
                (Failure::Lost(error), None) if self.repeatable => {
                    lost = Some(error);
                    true
                }
                (Failure::Lost(error), _) => return Err(CallError::Lost(error)),
                (Failure::Unsent(_), _) if bounces < BOUNCES => {
                    bounces += 1;
                    false
                }
                (_, Some(lost)) => return Err(CallError::Lost(Arc::clone(lost))),
                (Failure::NoConnection(error), None) => return Err(CallError::Pool(error)),
                (Failure::Unsent(error), None) => {
                    let error = io::Error::new(error.kind(), error);
                    return Err(CallError::Pool(Arc::new(Error::Connect(error))));
                }
            };
            begun = now();
            if deadline.is_some_and(|at| at <= begun) {
                self.with(Machine::refused);
                return Err(timed_out(lost.is_some()));
            }
            if is_repetition {
                self.with(Machine::repeats);
            }
        }
    }

    /// Does what the call is to do, and sleeps in between, until it hears how it ended.
    fn attempt(
        &self,
        request: &[u8],
        begun: Instant,
        deadline: Option<Instant>,
        is_first: bool,
    ) -> Result<R, Failure> {
        let (key, seat, mut entry) =
            self.with_at(begun, |lanes| lanes.enter(request, deadline, is_first));
        let call = Call {
            core: self,
            key,
            seat,
            request,
            deadline,
        };
        let mut until = deadline;
        loop {
            let again = match entry {
                Entry::Lead(lead) => {
                    Leader::lead(&call, lead);
                    if lead.own {
                        until = deadline;
                    }
                    None
                }
                Entry::Send { lane, bytes } => {
                    entry = call.send(lane, bytes);
                    continue;
                }
                Entry::Wait(again) => again,
            };
            let wakes = || {
                let ask_at = again.map(|again| now() + again);
                [until, ask_at].into_iter().flatten().min()
            };
            entry = match call.seat.wait(wakes) {
                Some(Message::Reply(reply)) => return Ok(reply),
                Some(Message::News(News::Failed(failure))) => return Err(failure),
                Some(Message::News(News::Lead(lead))) => Entry::Lead(lead),
                Some(Message::News(News::Watch)) => self.with(|lanes| lanes.wait(key)),
                None if until.is_some_and(|at| at <= now()) => {
                    self.with(|lanes| lanes.time_is_up(key, false));
                    // That it is, or something else, is on the way to its seat.
                    until = None;
                    Entry::Wait(None)
                }
                None => self.with(|lanes| lanes.again(key)),
            };
        }
    }
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Call<'_, R, C> {
    /// Writes on a lane that another caller leads; what is to be done next.
    fn send(&self, lane: usize, bytes: Vec<u8>) -> Entry {
        let mut shared = self.core.lines[lane].shared();
        let stream = shared.as_mut();
        let stream = stream.expect("bug: a lane on which nobody else can write");
        let mut report = Report::default();
        write_all(stream, &bytes, true, None, &mut report);
        if report.failed {
            // Its leader reads what has come, then finds the end.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(shared);
        self.core
            .with(|lanes| lanes.sent(self.key, lane, bytes, &report))
    }
}
