//! What a caller does that does not lead, as `src/pipeline/call.rs` has it.

use super::*;

impl World {
    /// Whether a caller's thread can do something, other than to wake up for nothing.
    pub(in super::super) fn can_step(&self, at: usize) -> bool {
        let caller = &self.callers[at];
        match &caller.at {
            At::Asleep {
                asks_again,
                has_given_up,
            } => {
                *asks_again
                    || self.message_for(caller).is_some()
                    || !has_given_up && caller.is_late(self.now)
            }
            // The leader before has not let go of the lane.
            At::Leading(Leading {
                lane,
                step: Step::Begin { .. },
                ..
            }) => !self.callers.iter().any(|other| match &other.at {
                At::Leading(other) => other.lane == *lane && other.has_io(),
                _ => false,
            }),
            // Its turn comes when the leader has written what was booked before.
            At::Writing { lane, .. } => !self.callers.iter().any(|other| match &other.at {
                At::Leading(other) => {
                    other.lane == *lane && matches!(other.step, Step::WriteAndRead)
                }
                _ => false,
            }),
            At::Leading(_) => true,
            At::Over => false,
        }
    }

    /// A caller's thread goes on to its next use of the lock, or write, or read.
    pub(in super::super) fn step(&mut self, at: usize, config: &Config, choices: &mut Choices) {
        let place = std::mem::replace(&mut self.callers[at].at, At::Over);
        let next = match place {
            At::Over => unreachable!(),
            At::Asleep {
                asks_again,
                has_given_up,
            } => self.sleep(at, asks_again, has_given_up, choices),
            At::Writing {
                lane,
                bytes,
                report,
            } => self.write_for_others(at, lane, bytes, report, config, choices),
            At::Leading(leading) => self.lead(at, leading, config, choices),
        };
        let is_over = matches!(next, At::Over);
        self.callers[at].at = next;
        if is_over {
            self.finish(at, config);
        }
    }

    fn finish(&mut self, at: usize, config: &Config) {
        let caller = self.callers.remove(at);
        let id = caller.id;
        let outcome = caller.outcome.expect("a call ends with an outcome");
        match outcome {
            Outcome::Unsent => assert!(!caller.was_touched, "{id} was sent"),
            Outcome::Replied => assert!(caller.was_executed, "{id} was not executed"),
            Outcome::Lost => {
                assert!(
                    config.clients_panic || caller.was_touched,
                    "{id} was not sent"
                );
            }
            Outcome::Sent => {}
        }
        assert!(
            self.message_for(&caller).is_none(),
            "a message for a call that is over"
        );
    }

    /// A call's time is up: what was sent of it is overdue.
    pub(super) fn time_is_up(&mut self, at: usize, is_leader: bool) {
        let key = self.callers[at].key;
        let call = &self.lanes.calls[key];
        match call.stage {
            Stage::Sent(lane, _) if call.leads == is_leader => self.overdue[lane] = true,
            _ => {}
        }
        self.with(|lanes| lanes.time_is_up(key, is_leader));
    }

    fn hear(&mut self, at: usize, message: Message) -> At {
        let outcome = match message {
            Message::News(News::Lead(lead)) => {
                assert!(lead.own);
                return begin_to_lead(lead);
            }
            Message::News(News::Watch) => {
                let key = self.callers[at].key;
                return entered(self.with(|lanes| lanes.wait(key)));
            }
            Message::Reply(reply) => {
                assert_eq!(reply, self.callers[at].id, "the reply of another call");
                Outcome::Replied
            }
            Message::News(News::Failed(failure)) => match failure {
                Failure::Lost(_) => Outcome::Lost,
                Failure::TimedOut { sent: true } => Outcome::Sent,
                Failure::Unsent(_)
                | Failure::NoConnection(_)
                | Failure::TimedOut { sent: false } => Outcome::Unsent,
            },
        };
        self.callers[at].outcome = Some(outcome);
        At::Over
    }

    /// What `Core::attempt` does when it wakes up.
    fn sleep(
        &mut self,
        at: usize,
        asks_again: bool,
        has_given_up: bool,
        choices: &mut Choices,
    ) -> At {
        #[derive(Clone, Copy)]
        enum Way {
            Hear(usize),
            GiveUp,
            Ask,
            Sleep,
        }
        let caller = &self.callers[at];
        let key = caller.key;
        let mut ways = Vec::new();
        ways.extend(
            self.message_for(caller)
                .map(|message| (4, Way::Hear(message))),
        );
        if caller.is_late(self.now) && !has_given_up {
            ways.push((1, Way::GiveUp));
        }
        if asks_again {
            ways.push((1, Way::Ask));
        }
        if ways.is_empty() {
            ways.push((1, Way::Sleep));
        }
        match choices.pick(&ways) {
            Way::Sleep => {}
            Way::Hear(message) => {
                let message = self.post.remove(message).1;
                return self.hear(at, message);
            }
            Way::GiveUp => {
                self.time_is_up(at, false);
                return At::Asleep {
                    asks_again: false,
                    has_given_up: true,
                };
            }
            Way::Ask => {
                return entered(self.with(|lanes| lanes.again(key)));
            }
        }
        At::Asleep {
            asks_again,
            has_given_up,
        }
    }

    /// What `Call::send` does.
    fn write_for_others(
        &mut self,
        at: usize,
        lane: usize,
        bytes: Vec<u8>,
        mut report: Report,
        config: &Config,
        choices: &mut Choices,
    ) -> At {
        assert_eq!(self.writers(lane), 0, "two write on one lane");
        let wrote = self.write(lane, &bytes[report.bytes..], false, config, choices);
        report.bytes += wrote.unwrap_or(0);
        report.writes += 1;
        self.books.writes += 1;
        if wrote.is_ok() && report.bytes < bytes.len() {
            return At::Writing {
                lane,
                bytes,
                report,
            };
        }
        if wrote.is_err() {
            report.failed = true;
            self.shut(lane);
        }
        let key = self.callers[at].key;
        entered(self.with(|lanes| lanes.sent(key, lane, bytes, &report)))
    }
}
