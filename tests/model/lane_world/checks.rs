//! What holds between any two steps.

use super::*;

impl World {
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

    /// Each call is in one place.
    pub(super) fn check_call(&self, key: usize) {
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
    pub(super) fn check_lane(&mut self, at: usize, config: &Config) {
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
    pub(super) fn check_books(&self) {
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
}
