//! The calls of a pipeline: their places, the queue, and how those end that get no reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::report::error::Error;
use crate::state::lanes::{Call, Entry, Failure, Lanes, News, Seat, Stage};

/// How much of a request's buffer is kept for the next one in its place.
const KEPT: usize = 16 * 1024;
/// Whoever watches over the queue asks again after this time: so long that the timer is seldom the
/// system's next one, which is what makes it cheap. Nearly always a leader comes much earlier.
const SOON: Duration = Duration::from_millis(5);

impl<S: Seat> Lanes<S> {
    /// A call begins; `first` if it goes ahead of the others, because its lane broke.
    pub(crate) fn enter(
        &mut self,
        request: &[u8],
        deadline: Option<Instant>,
        first: bool,
    ) -> (usize, S, Entry) {
        let key = self.admit(deadline);
        let seat = self.calls[key].seat.clone();
        if let Some(lane) = self.lane_to_lead() {
            return (key, seat, Entry::Lead(self.appoint(key, lane)));
        }
        self.put(key, request, first);
        if let Some(error) = self.ended.clone() {
            self.tell_queued(&error);
        }
        let entry = self.send_from_queue(false);
        let entry = entry.unwrap_or_else(|| self.wait(key));
        (key, seat, entry)
    }

    /// What a caller is to do that has watched over the queue for as long as it was told.
    pub(crate) fn again(&mut self, key: usize) -> Entry {
        if let Some(entry) = self.send_from_queue(true) {
            return entry;
        }
        // A lane could not start before, and nobody else asks whether it can now.
        if let Some(lane) = self.lane_to_lead() {
            self.appoint_first(lane);
        }
        self.wait(key)
    }

    /// A call waits, and watches over the queue if nobody does.
    pub(crate) fn wait(&mut self, key: usize) -> Entry {
        if self.first_queued().is_none() {
            self.watches_no_more(key);
            return Entry::Wait(None);
        }
        // One that is over or leads has a message to hear, and then sleeps no more.
        let call = &self.calls[key];
        if self.watcher.is_none() && call.stage != Stage::Over && !call.leads {
            self.watcher = Some(key);
        }
        let watches = self.watcher == Some(key);
        Entry::Wait(watches.then_some(SOON))
    }

    /// The pool has ended: whoever is queued, and whoever comes, hears so at once.
    pub(crate) fn end(&mut self, error: Arc<Error>) {
        self.tell_queued(&error);
        self.ended = Some(error);
    }

    /// All who are queued hear that there is no connection.
    pub(super) fn tell_queued(&mut self, error: &Arc<Error>) {
        while let Some(key) = self.first_queued() {
            self.tell(key, Failure::NoConnection(Arc::clone(error)));
        }
    }

    /// A call ends without a reply.
    pub(super) fn tell(&mut self, key: usize, failure: Failure) {
        self.end_call(key);
        self.calls[key].leads = false;
        let seat = self.calls[key].seat.clone();
        self.news.push((seat, News::Failed(failure)));
    }

    /// A call is sent once more.
    pub(crate) fn repeats(&mut self) {
        self.stats.repeated += 1;
    }

    /// A call's time is up: its caller hears so, unless something else is on the way to its seat.
    pub(crate) fn time_is_up(&mut self, key: usize, is_leader: bool) {
        let stage = self.calls[key].stage;
        if stage == Stage::Over || self.calls[key].leads != is_leader {
            return;
        }
        self.stats.timeouts += 1;
        let mut sent = false;
        if let Stage::Sent(at, number) = stage {
            let lane = &mut self.lanes[at];
            let place = usize::try_from(number - lane.first);
            lane.flights[place.expect("bug: a call with a wrong number")].key = None;
            lane.overdue = true;
            self.stats.abandoned += 1;
            sent = true;
        }
        self.tell(key, Failure::TimedOut { sent });
    }

    /// A call that never began to wait or to be sent is counted.
    pub(crate) fn refused(&mut self) {
        self.stats.timeouts += 1;
    }

    fn admit(&mut self, deadline: Option<Instant>) -> usize {
        let fresh = |seat, request| Call {
            seat,
            stage: Stage::Own,
            leads: false,
            request,
            deadline,
        };
        for _ in 0..self.over.len().min(4) {
            let Some(key) = self.over.pop_front() else {
                break;
            };
            if self.calls[key].seat.is_free() {
                let old = &mut self.calls[key];
                let request = std::mem::take(&mut old.request);
                *old = fresh(old.seat.clone(), request);
                return key;
            }
            self.over.push_back(key);
        }
        self.calls.push(fresh(S::new(), Vec::new()));
        self.calls.len() - 1
    }

    pub(super) fn end_call(&mut self, key: usize) {
        debug_assert_ne!(self.calls[key].stage, Stage::Over);
        self.set_stage(key, Stage::Over);
        self.watches_no_more(key);
        self.over.push_back(key);
    }

    pub(super) fn set_stage(&mut self, key: usize, stage: Stage) {
        let call = &mut self.calls[key];
        if std::mem::replace(&mut call.stage, stage) != Stage::Queued {
            return;
        }
        call.request.clear();
        call.request.shrink_to(KEPT);
        for queue in [&mut self.queue, &mut self.large] {
            // Nearly always it is the first.
            if let Some(place) = queue.iter().position(|other| *other == key) {
                queue.remove(place);
                return;
            }
        }
    }

    /// It does not sleep any more.
    pub(super) fn watches_no_more(&mut self, key: usize) {
        self.watcher = self.watcher.filter(|watcher| *watcher != key);
    }

    pub(super) fn is_queued(&self, key: usize) -> bool {
        self.calls[key].stage == Stage::Queued
    }

    pub(super) fn is_in_time(&self, key: usize) -> bool {
        self.calls[key].deadline.is_none_or(|at| self.now < at)
    }

    pub(super) fn is_large(&self, len: usize) -> bool {
        len > self.rules.max_bytes
    }

    pub(super) fn put(&mut self, key: usize, request: &[u8], first: bool) {
        let queue = if self.is_large(request.len()) {
            &mut self.large
        } else {
            self.calls[key].request.extend_from_slice(request);
            &mut self.queue
        };
        if first {
            queue.push_front(key);
        } else {
            queue.push_back(key);
        }
        let call = &mut self.calls[key];
        (call.stage, call.leads) = (Stage::Queued, false);
    }

    pub(super) fn first_queued(&self) -> Option<usize> {
        self.queue.front().or(self.large.front()).copied()
    }

    /// The first small call that waits and whose time is not up.
    pub(super) fn first_small(&self) -> Option<usize> {
        self.queue.iter().copied().find(|&key| self.is_in_time(key))
    }

    /// The first large one; its caller is to lead.
    pub(super) fn first_large(&self) -> Option<usize> {
        self.large.iter().copied().find(|&key| self.is_in_time(key))
    }

    /// The first call that waits, a large one before all others.
    pub(super) fn first_waiting(&self) -> Option<usize> {
        self.first_large().or_else(|| self.first_small())
    }
}
