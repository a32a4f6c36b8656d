//! How a caller gets a connection: at once where one is idle, else by waiting its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::{Backoff, Delays};
use crate::report::error::Error;
use crate::report::outcome::Eviction;
use crate::runtime::connection::Connection;
use crate::runtime::shared::{Held, Parker, Shared, State, warn_of_hang_ups};
use crate::state::queue::{Answer, Failure, Ticket};
use crate::state::slots::Lease;
use crate::state::table::{Dead, Entry};
use crate::sync::now;

/// How long a caller is prepared to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// One try, however long it takes.
    OneTry,
    /// The backoff's retries, and no longer than this.
    Retries(Option<Duration>),
}

/// Gets a connection for the calling thread.
pub(crate) fn pull<C: Send + 'static>(
    shared: &Arc<Shared<C>>,
    patience: Patience,
) -> Result<Connection<C>, Error> {
    let overtake = match patience {
        Patience::OneTry => false,
        Patience::Retries(timeout) => timeout != Some(Duration::ZERO),
    };
    let mut has_paid = false;
    while let Some((lease, probe)) = shared.take(overtake) {
        match shared.hand_out(lease, probe) {
            Ok(connection) => return Ok(connection),
            // One with unread bytes does not call the reaper.
            Err(dead) if has_paid && dead.why != Eviction::Unread => shared.bury_later(dead),
            Err(dead) => {
                shared.bury(dead);
                has_paid = true;
            }
        }
    }
    Call::new(shared, patience).run()
}

/// One call that found nothing idle.
struct Call<'a, C> {
    shared: &'a Arc<Shared<C>>,
    started: Instant,
    patience: Patience,
    deadline: Option<Instant>,
    parker: Arc<Parker>,
    /// Failed tries so far.
    attempts: u32,
    last: Option<Failure>,
    /// What follows the last try, until the next one begins. It stands while the call is busy with
    /// a connection that proves dead: that is no try, and neither ends the delay nor uses up a
    /// retry.
    next: Option<Next>,
    /// As it was when the call began.
    backoff: Option<Backoff>,
    delays: Option<Delays>,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Another try at this time; `None` is later than the clock can tell.
    At(Option<Instant>),
    Never,
}

/// What ends a wait well.
struct Grant<C> {
    lease: Lease<Held<C>>,
    probe: bool,
    ticket: Ticket,
}

impl<C> Grant<C> {
    /// The connection, once the place in the queue has been noted.
    fn keep(self, ticket: &mut Option<Ticket>) -> (Lease<Held<C>>, bool) {
        *ticket = Some(self.ticket);
        (self.lease, self.probe)
    }
}

/// Why a waiting thread goes on.
enum Awake<C> {
    Answered(Answer<Held<C>>, Ticket),
    TimeIsUp,
}

impl<'a, C: Send + 'static> Call<'a, C> {
    fn new(shared: &'a Arc<Shared<C>>, patience: Patience) -> Self {
        let started = now();
        let deadline = match patience {
            Patience::Retries(Some(timeout)) => started.checked_add(timeout),
            _ => None,
        };
        Self {
            shared,
            started,
            patience,
            deadline,
            parker: Arc::default(),
            attempts: 0,
            last: None,
            next: None,
            backoff: None,
            delays: None,
        }
    }

    fn run(mut self) -> Result<Connection<C>, Error> {
        if self.patience == Patience::Retries(Some(Duration::ZERO)) {
            return Err(self.give_up());
        }
        let mut ticket = None;
        let mut dead = None;
        loop {
            let (entry, alarm) = self.enter(dead.take(), ticket);
            let (lease, probe) = match entry {
                Entry::Granted { lease, probe } => (lease, probe),
                Entry::Trying(seat) => self.wait(seat, None, alarm)?.keep(&mut ticket),
                Entry::Failed(seat, failure) => {
                    self.wait(seat, Some(failure), alarm)?.keep(&mut ticket)
                }
                Entry::Refused(failure) => return Err(self.error(&failure)),
                Entry::Ended => return Err(Error::Ended),
            };
            match self.shared.hand_out(lease, probe) {
                Ok(connection) => return Ok(connection),
                Err(found) => dead = Some(found),
            }
        }
    }

    /// Joins the queue, or comes back to it from a connection that proved dead.
    fn enter(
        &mut self,
        dead: Option<Dead<Held<C>>>,
        ticket: Option<Ticket>,
    ) -> (Entry<Held<C>>, Option<Instant>) {
        let stay = self.patience != Patience::OneTry;
        let why = dead.as_ref().map(|dead| dead.why);
        let holder = self.shared.holder();
        let (shuts, entered) = self.shared.with(|state| {
            self.backoff.get_or_insert_with(|| state.backoff.clone());
            let (table, parker) = (&mut state.table, &self.parker);
            // In one breath, so that nobody who came later is served in between.
            let shuts = dead.is_some_and(|dead| table.bury(dead));
            let entry = table.enter(ticket, parker, stay, holder);
            if why.is_some() {
                table.tick();
            }
            let alarm = match entry {
                Entry::Trying(seat) | Entry::Failed(seat, _) => table.alarm(seat),
                _ => None,
            };
            (shuts, (entry, alarm))
        });
        if shuts {
            warn_of_hang_ups();
        }
        if let Some(why) = why {
            self.shared.found_dead(why);
        }
        entered
    }

    /// Waits until a connection comes or the caller's patience ends.
    fn wait(
        &mut self,
        seat: u32,
        mut failure: Option<Failure>,
        mut alarm: Option<Instant>,
    ) -> Result<Grant<C>, Error> {
        loop {
            let retry_at = match failure.take().map(|failure| self.failed(failure)) {
                None => None,
                Some(Next::At(time)) => time,
                Some(Next::Never) => return self.leave(seat, Self::exhausted),
            };
            let until = match (retry_at, self.deadline) {
                (Some(retry), Some(deadline)) => Some(retry.min(deadline)),
                (retry, deadline) => retry.or(deadline),
            };
            match self.sleep(seat, until, alarm) {
                Awake::Answered(Answer::Granted { lease, probe }, ticket) => {
                    return Ok(Grant {
                        lease,
                        probe,
                        ticket,
                    });
                }
                Awake::Answered(Answer::Failed(cause), _) => {
                    if self.patience == Patience::OneTry {
                        return Err(self.error(&cause));
                    }
                    failure = Some(cause);
                }
                Awake::Answered(Answer::Ended, _) => return Err(Error::Ended),
                Awake::TimeIsUp => {
                    let now = now();
                    if self.deadline.is_some_and(|deadline| deadline <= now) {
                        return self.leave(seat, Self::timed_out);
                    }
                    self.next = None;
                    failure = self.shared.with(|state| state.table.retry(seat));
                }
            }
            alarm = self.shared.with(|state| state.table.alarm(seat));
        }
    }

    /// A try failed, or what came between two tries; that counts where it is the end of it all.
    fn failed(&mut self, failure: Failure) -> Next {
        let hopeless = matches!(&failure, Failure::Connect(error) if error.is_hopeless());
        let counts = match self.next {
            None => true,
            Some(Next::At(_)) => hopeless,
            Some(Next::Never) => false,
        };
        self.attempts = self.attempts.saturating_add(u32::from(counts));
        self.last = Some(failure);
        let next = match self.next {
            _ if hopeless => Next::Never,
            Some(next) => next,
            None => self
                .next_delay()
                .map_or(Next::Never, |delay| Next::At(now().checked_add(delay))),
        };
        *self.next.insert(next)
    }

    fn next_delay(&mut self) -> Option<Duration> {
        if self.delays.is_none() {
            self.delays = self.backoff.as_ref().map(Backoff::delays);
        }
        self.delays.as_mut()?.next()
    }

    /// Sleeps until there is an answer, or until this time; keeps the pool trying meanwhile.
    fn sleep(&self, seat: u32, until: Option<Instant>, mut alarm: Option<Instant>) -> Awake<C> {
        loop {
            let next = match (until, alarm) {
                (Some(until), Some(alarm)) => Some(until.min(alarm)),
                (until, alarm) => until.or(alarm),
            };
            self.parker.park_until(next);
            let now = next.map(|_| now());
            let is_past = |at: Option<Instant>| at.zip(now).is_some_and(|(at, now)| at <= now);
            let answered = self.shared.with(|state| {
                if let Some(answered) = self.take_answer(state, seat) {
                    return Some(answered);
                }
                if is_past(alarm) {
                    state.table.tick();
                }
                alarm = state.table.alarm(seat);
                None
            });
            if let Some((answer, ticket)) = answered {
                return Awake::Answered(answer, ticket);
            }
            if is_past(until) {
                return Awake::TimeIsUp;
            }
        }
    }

    fn take_answer(&self, state: &mut State<C>, seat: u32) -> Option<(Answer<Held<C>>, Ticket)> {
        state.table.answer(seat, self.shared.holder())
    }

    /// Leaves the queue, unless an answer that ends the wait has come at the last moment.
    fn leave(
        &self,
        seat: u32,
        error: impl FnOnce(&Self, Option<Failure>) -> Error,
    ) -> Result<Grant<C>, Error> {
        let outcome = self.shared.with(|state| {
            match self.take_answer(state, seat) {
                Some((Answer::Granted { lease, probe }, ticket)) => Ok(Grant {
                    lease,
                    probe,
                    ticket,
                }),
                Some((Answer::Ended, _)) => Err(None),
                untold => {
                    let cause = state.table.cause();
                    state.table.leave(seat);
                    // The failure comes out too: its error must not be dropped under the lock.
                    Err(Some((cause, untold)))
                }
            }
        });
        outcome.map_err(|left| match left {
            Some((cause, _)) => error(self, cause),
            None => Error::Ended,
        })
    }

    /// The error of a call that was not prepared to wait at all.
    fn give_up(&self) -> Error {
        let (ended, cause) = self
            .shared
            .with(|state| (state.table.has_ended(), state.table.cause()));
        if ended {
            return Error::Ended;
        }
        self.timed_out(cause)
    }

    fn timed_out(&self, cause: Option<Failure>) -> Error {
        let last = cause.or_else(|| self.last.clone());
        Error::TimedOut {
            elapsed: now().saturating_duration_since(self.started),
            last: last.map(|failure| Box::new(self.error(&failure))),
            stats: Box::new(self.shared.stats()),
        }
    }

    fn exhausted(&self, cause: Option<Failure>) -> Error {
        let last = self.last.clone().or(cause).unwrap_or(Failure::Full);
        Error::Exhausted {
            attempts: self.attempts,
            elapsed: now().saturating_duration_since(self.started),
            last: Box::new(self.error(&last)),
            stats: Box::new(self.shared.stats()),
        }
    }

    fn error(&self, failure: &Failure) -> Error {
        match failure {
            Failure::Full => Error::Full {
                stats: Box::new(self.shared.stats()),
            },
            Failure::Connect(error) => error.another(),
        }
    }
}
