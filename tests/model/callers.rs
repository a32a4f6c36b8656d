//! Steps of callers.

use super::*;

impl Walk {
    pub(super) fn take_and_keep(&mut self) {
        if self.random.chance(50) {
            self.read_the_clock();
        }
        let holder = self.random.chance(50);
        let barge = self.random.chance(50);
        let taken = self.core.take(barge, taker(holder));
        let expected = self.take_newest(barge);
        let Some(lease) = taken else {
            assert!(expected.is_none());
            return;
        };
        assert_eq!(expected, Some((lease.key.id, lease.probe)));
        self.hold(lease.key, holder);
        self.keep(lease);
        self.check(&Expected::default());
    }

    fn hold(&mut self, key: SlotKey, holder: bool) {
        if let Some(conn) = find(&mut self.leased, key.id) {
            (conn.is_held, conn.is_taken) = (holder, true);
        }
    }

    pub(super) fn enter(&mut self) {
        if self.queue.len() >= self.crowd {
            return self.give_back();
        }
        self.read_the_clock();
        let comeback = if self.random.chance(50) {
            self.comebacks.pop()
        } else {
            None
        };
        let mut expected = Expected::default();
        let Some(mut comeback) = comeback else {
            let (stays, is_watched) = (self.random.chance(70), self.random.chance(50));
            let mut itself = core::Caller::new(self.next_who, stays, taker(is_watched));
            self.next_who += 1;
            let turn = self.core.enter(&mut itself);
            self.entered(itself, is_watched, turn, None, &mut expected);
            return self.check(&expected);
        };
        let is_back = !self.leases.is_empty();
        let turn = if is_back {
            let dead = self.dead();
            self.remove_dead(&dead, CloseWhen::Now, &mut expected);
            let turn = self.core.come_back(&mut comeback.itself, dead);
            self.heard(&expected);
            turn
        } else {
            self.core.enter(&mut comeback.itself)
        };
        let (number, is_watched) = (comeback.number, comeback.is_watched);
        self.entered(
            comeback.itself,
            is_watched,
            turn,
            Some(number),
            &mut expected,
        );
        if is_back {
            self.dispatch(&mut expected);
        }
        self.check(&expected);
    }

    fn entered(
        &mut self,
        itself: core::Caller<u64>,
        is_watched: bool,
        turn: Turn<Value>,
        number: Option<u64>,
        expected: &mut Expected,
    ) {
        if self.has_ended {
            assert!(matches!(turn, Turn::Ended));
            return;
        }
        if let Some(granted) = self.take_newest(itself.stays) {
            let Turn::Granted(lease) = turn else {
                panic!("there was an idle one, but {turn:?}");
            };
            assert_eq!((lease.key.id, lease.probe), granted);
            self.hold(lease.key, is_watched);
            return self.keep(lease);
        }
        let claims = if number.is_some() {
            0
        } else {
            let current = self.connecting_current();
            self.connecting.len() - current + self.queue.len().max(current)
        };
        let refusal = self.refusal(claims);
        let is_new = number.is_none() && itself.stays;
        if refusal.is_some() && is_new && self.is_line_full() {
            assert!(matches!(turn, Turn::QueueFull), "{turn:?}");
            self.counts.refusals += 1;
            return;
        }
        match (&turn, &refusal) {
            (Turn::Pending(_), None) => {}
            (_, Some(cause)) => self.check_failure(&turn, cause),
            _ => panic!("{turn:?}, but {refusal:?}"),
        }
        if refusal.is_some() && !itself.stays {
            return;
        }
        let is_counted = number.is_some();
        let number = number.unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number
        });
        let place = self.ahead_of(number);
        let who = itself.waker;
        let caller = Caller {
            who,
            itself,
            number,
            since: self.clock,
            is_counted,
            is_watched,
            is_trying: refusal.is_none(),
            barging_until: self.barging_window(),
            pending: None,
        };
        self.queue.insert(place, caller);
        self.go_on(who, refusal.is_none(), &turn, expected);
    }

    /// Whether as many wait as may whom no connect that is under way or may follow will serve.
    fn is_line_full(&self) -> bool {
        let current = self.connecting_current();
        let taken = self.open() + self.connecting.len() - current;
        let places = if self.outage.is_some() {
            current
        } else {
            self.limit.saturating_sub(taken)
        };
        let waiting = self.queue.len();
        let most = self.rules.max_waiting;
        most.is_some_and(|most| waiting >= places && waiting - places >= most)
    }

    /// A try that has begun starts its connect itself through an open breaker.
    fn go_on(&mut self, who: u64, tries: bool, turn: &Turn<Value>, expected: &mut Expected) {
        if tries && self.outage.is_some() {
            self.start(Some(who), expected);
        }
        self.dispatch(expected);
        let mut callers = self.queue.iter().chain(&self.served);
        let caller = callers.find(|caller| caller.who == who).unwrap();
        let poll_at = self.core.poll_at(caller.itself.seat.unwrap());
        match turn {
            Turn::Pending(at) | Turn::Failed(_, at) => assert_eq!(*at, poll_at),
            Turn::Permanent(_) => {}
            _ => panic!("{turn:?}"),
        }
    }

    /// A failure is the end only where its cause stays and nothing is open that could come back.
    fn check_failure(&self, turn: &Turn<Value>, cause: &Cause) {
        let is_permanent = matches!(cause, Cause::Connect(error) if error.is_permanent());
        match turn {
            Turn::Failed(failure, _) => {
                assert!(*cause == *failure && !(is_permanent && self.open() == 0));
            }
            Turn::Permanent(failure) => {
                assert!(*cause == *failure && is_permanent && self.open() == 0);
            }
            _ => panic!("{turn:?}, but {cause:?}"),
        }
    }

    fn callers(&mut self) -> impl Iterator<Item = &mut Caller> {
        self.queue.iter_mut().chain(&mut self.served)
    }

    pub(super) fn retry(&mut self) {
        // A thread sleeps between two tries once it has been told of the failure.
        let sleepers: Vec<u64> = self
            .queue
            .iter()
            .filter(|caller| !caller.is_trying && caller.itself.stays && caller.pending.is_none())
            .map(|caller| caller.who)
            .collect();
        if sleepers.is_empty() {
            return;
        }
        let who = self.random.pick(&sleepers);
        self.read_the_clock();
        let place = self.place_of(who);
        let turn = self.core.retry(&mut self.queue[place].itself);
        let mut expected = Expected::default();
        let refusal = self.refusal(0);
        match (&refusal, &turn) {
            (None, Turn::Pending(_)) => self.queue[place].is_trying = true,
            (Some(cause), _) => self.check_failure(&turn, cause),
            _ => panic!("{turn:?}, but {refusal:?}"),
        }
        self.go_on(who, refusal.is_none(), &turn, &mut expected);
        self.check(&expected);
    }

    /// A caller asks for its answer, whether there is one or not.
    pub(super) fn ask(&mut self) {
        let Some(who) = self.anybody() else { return };
        self.read_the_clock();
        let mut expected = Expected::default();
        let turn = self.poll(who, &mut expected);
        self.got(who, turn);
        self.check(&expected);
    }

    fn anybody(&mut self) -> Option<u64> {
        let callers = self.queue.len() + self.served.len();
        if callers == 0 {
            return None;
        }
        let index = self.random.below(callers);
        self.callers().nth(index).map(|caller| caller.who)
    }

    /// Asks the core; it may be that this brings connections and waiters together.
    fn poll(&mut self, who: u64, expected: &mut Expected) -> Turn<Value> {
        let caller = self.callers().find(|caller| caller.who == who).unwrap();
        let (seat, has_answer) = (caller.itself.seat.unwrap(), caller.pending.is_some());
        let poll_at = self.core.poll_at(seat);
        let mut itself = std::mem::replace(
            &mut self
                .callers()
                .find(|caller| caller.who == who)
                .unwrap()
                .itself,
            core::Caller::new(who, true, taker(false)),
        );
        let turn = self.core.poll(&mut itself);
        if !has_answer && poll_at.is_some_and(|at| at <= self.clock) {
            self.dispatch(expected);
        }
        if let Turn::Pending(at) = turn {
            assert_eq!(at, self.core.poll_at(seat));
        }
        self.callers()
            .find(|caller| caller.who == who)
            .unwrap()
            .itself = itself;
        turn
    }

    /// A caller was told this; true if its wait is over.
    pub(super) fn got(&mut self, who: u64, turn: Turn<Value>) -> bool {
        let place = self.served.iter().position(|caller| caller.who == who);
        let expected = match place {
            Some(place) => self.served[place].pending.clone(),
            None => self.caller(who).pending.take(),
        };
        match (turn, expected) {
            (Turn::Pending(_), None) => false,
            (turn @ (Turn::Failed(..) | Turn::Permanent(_)), Some(Told::Failed(cause))) => {
                self.check_failure(&turn, &cause);
                let was_its_only_try = place.is_some();
                if let Some(place) = place {
                    self.served.remove(place);
                }
                was_its_only_try
            }
            (Turn::Ended, Some(Told::Ended)) => {
                self.served.remove(place.unwrap());
                true
            }
            (Turn::Granted(lease), Some(Told::Granted(id, probe))) => {
                assert_eq!((lease.key.id, lease.probe), (id, probe));
                let caller = self.served.remove(place.unwrap());
                self.hold(lease.key, caller.is_watched);
                if self.random.chance(30) {
                    self.comebacks.push(Comeback {
                        itself: caller.itself,
                        number: caller.number,
                        is_watched: caller.is_watched,
                    });
                }
                self.keep(lease);
                true
            }
            (turn, expected) => panic!("told {turn:?}, not {expected:?}"),
        }
    }

    /// A caller gives up, as `pull` does: unless its answer came at the last moment.
    pub(super) fn leave(&mut self) {
        let Some(who) = self.anybody() else { return };
        self.read_the_clock();
        let mut expected = Expected::default();
        let turn = self.poll(who, &mut expected);
        if !self.got(who, turn) {
            let cause = self.core.cause();
            let error = self.outage.as_ref().map(|outage| Arc::clone(&outage.error));
            let wanted = if self.open() >= self.limit {
                Some(Cause::Full)
            } else {
                error.map(Cause::Connect)
            };
            match (&wanted, &cause) {
                (Some(wanted), Some(cause)) => assert!(wanted == cause),
                _ => assert!(wanted.is_none() && cause.is_none()),
            }
            let place = self.place_of(who);
            let mut caller = self.queue.remove(place);
            self.core.leave(&mut caller.itself);
            self.disown(who);
            self.count_wait(&caller);
            self.dispatch(&mut expected);
        }
        self.check(&expected);
    }
}

/// Somebody who takes a lease; whether it is watched.
pub(super) fn taker(is_watched: bool) -> Taker {
    Taker {
        at: Some(std::panic::Location::caller()),
        holder: is_watched.then(|| Holder::Caller(thread::current())),
    }
}
