//! Steps of callers.

use super::*;

impl Walk {
    pub(super) fn take_and_keep(&mut self) {
        if self.random.chance(50) {
            self.look_at_the_clock();
        }
        let holder = self.random.chance(50);
        let overtake = self.random.chance(50);
        let taken = self.table.take(overtake, holder.then(thread::current));
        let expected = self.take_newest(overtake);
        let Some((lease, probe)) = taken else {
            assert!(expected.is_none());
            return;
        };
        assert_eq!(expected, Some((lease.place.id, probe)));
        if let Some(conn) = find(&mut self.leased, lease.place.id) {
            conn.is_held = holder;
        }
        self.keep(lease);
        self.check(&Expected::default());
    }

    pub(super) fn enter(&mut self) {
        if self.queue.len() >= self.crowd {
            return self.give_back();
        }
        let now = self.look_at_the_clock();
        let stays = self.random.chance(70);
        let comeback = if self.random.chance(50) {
            self.comebacks.pop()
        } else {
            None
        };
        let who = self.next_who;
        self.next_who += 1;
        let ticket = comeback.map(|comeback| comeback.ticket);
        let holder = self.random.chance(50);
        let thread = holder.then(thread::current);
        let entry = self.table.enter(ticket, &who, stays, thread);

        let mut expected = Expected::default();
        if self.has_ended {
            assert!(matches!(entry, Entry::Ended));
            return self.check(&expected);
        }
        if let Some((id, probe)) = self.take_newest(stays) {
            let Entry::Granted { lease, probe: got } = entry else {
                panic!("there was an idle one, but {entry:?}");
            };
            assert_eq!((lease.place.id, got), (id, probe));
            if let Some(conn) = find(&mut self.leased, id) {
                conn.is_held = holder;
            }
            self.keep(lease);
            return self.check(&expected);
        }
        let claims = match comeback {
            Some(back) => self.ahead_of(back.number),
            None => self.queue.len().max(self.connecting.len()),
        };
        let refusal = self.refusal(claims);
        if let (Some(cause), false) = (&refusal, stays) {
            let Entry::Refused(failure) = entry else {
                panic!("not refused: {entry:?}");
            };
            assert!(*cause == failure);
            return self.check(&expected);
        }
        let seat = match (&entry, &refusal) {
            (Entry::Trying(seat), None) => *seat,
            (Entry::Failed(seat, failure), Some(cause)) => {
                assert!(*cause == *failure);
                *seat
            }
            _ => panic!("{entry:?}, but {refusal:?}"),
        };
        let number = comeback.map_or_else(
            || {
                self.next_number += 1;
                self.next_number
            },
            |back| back.number,
        );
        let place = self.ahead_of(number);
        let caller = Caller {
            who,
            seat,
            number,
            since: now,
            is_counted: comeback.is_some_and(|back| back.is_counted),
            stays,
            is_trying: refusal.is_none(),
            patient_until: self.patience(),
            pending: None,
        };
        self.queue.insert(place, caller);
        if refusal.is_none() && self.outage.is_some() {
            self.start(Some(who), &mut expected);
        }
        self.settle(&mut expected);
        self.check(&expected);
    }

    pub(super) fn retry(&mut self) {
        // A thread sleeps between two tries once it has been told of the failure.
        let is_asleep = |caller: &Caller| {
            !caller.is_trying && caller.stays && !matches!(caller.pending, Some(Told::Failed(_)))
        };
        let sleepers: Vec<Caller> = self.queue.iter().chain(&self.served).cloned().collect();
        let sleepers: Vec<Caller> = sleepers.into_iter().filter(is_asleep).collect();
        if sleepers.is_empty() {
            return;
        }
        let index = self.random.below(sleepers.len());
        let sleeper = &sleepers[index];
        self.look_at_the_clock();
        let failure = self.table.retry(sleeper.seat);
        let mut expected = Expected::default();
        if sleeper.pending.is_some() {
            assert!(failure.is_none()); // the answer is there
            return self.check(&expected);
        }
        let refusal = self.refusal(self.ahead_of(sleeper.number));
        match (&refusal, &failure) {
            (None, None) => {
                self.caller(sleeper.who).is_trying = true;
                if self.outage.is_some() {
                    self.start(Some(sleeper.who), &mut expected);
                }
            }
            (Some(cause), Some(failure)) => assert!(*cause == *failure),
            _ => panic!("{failure:?}, but {refusal:?}"),
        }
        self.settle(&mut expected);
        self.check(&expected);
    }

    /// A caller asks for its answer, whether there is one or not.
    pub(super) fn ask(&mut self) {
        let callers = self.queue.len() + self.served.len();
        if callers == 0 {
            return;
        }
        let index = self.random.below(callers);
        let caller = self.queue.iter().chain(&self.served).nth(index).unwrap();
        let Caller { who, seat, .. } = *caller;
        let holder = self.random.chance(50);
        let answer = self.table.answer(seat, holder.then(thread::current));
        self.got(who, answer, holder);
        self.check(&Expected::default());
    }

    /// A caller was told this; true if its wait is over.
    pub(super) fn got(
        &mut self,
        who: u64,
        answer: Option<(Answer<Value>, Ticket)>,
        holder: bool,
    ) -> bool {
        let place = self.served.iter().position(|caller| caller.who == who);
        let expected = match place {
            Some(place) => self.served[place].pending.clone(),
            None => self.caller(who).pending.take(),
        };
        match (answer, expected) {
            (None, None) => false,
            (Some((Answer::Failed(failure), _)), Some(Told::Failed(cause))) => {
                assert!(cause == failure);
                let was_its_only_try = place.is_some();
                if let Some(place) = place {
                    self.served.remove(place);
                }
                was_its_only_try
            }
            (Some((Answer::Ended, _)), Some(Told::Ended)) => {
                self.served.remove(place.unwrap());
                true
            }
            (Some((Answer::Granted { lease, probe }, ticket)), Some(Told::Granted(id, probes))) => {
                assert_eq!((lease.place.id, probe), (id, probes));
                let caller = self.served.remove(place.unwrap());
                if let Some(conn) = find(&mut self.leased, id) {
                    conn.is_held = holder;
                }
                if self.random.chance(30) {
                    self.comebacks.push(Comeback {
                        ticket,
                        number: caller.number,
                        is_counted: true,
                    });
                }
                self.keep(lease);
                true
            }
            (answer, expected) => panic!("told {answer:?}, not {expected:?}"),
        }
    }

    /// A caller gives up, as `pull` does: unless its answer came at the last moment.
    pub(super) fn leave(&mut self) {
        let callers = self.queue.len() + self.served.len();
        if callers == 0 {
            return;
        }
        let index = self.random.below(callers);
        let caller = self.queue.iter().chain(&self.served).nth(index).unwrap();
        let Caller { who, seat, .. } = *caller;
        let answer = self.table.answer(seat, None);
        let mut expected = Expected::default();
        if !self.got(who, answer, false) {
            self.look_at_the_clock();
            let cause = self.table.cause();
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
            self.table.leave(seat);
            let place = self.place_of(who);
            let caller = self.queue.remove(place);
            self.disown(who);
            self.count_wait(&caller);
            self.settle(&mut expected);
        }
        self.check(&expected);
    }
}
