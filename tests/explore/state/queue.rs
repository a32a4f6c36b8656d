//! What the tests see of the queue, and what makes two waiters the same.

use super::{Answer, Failure, Queue, Seat, Waiter};
use crate::explore::Digest;

impl<L, W: Clone> Queue<L, W> {
    pub(crate) fn number(&self, seat: Seat) -> u64 {
        self.seat(seat).ticket.number
    }

    pub(crate) fn pending(&self, seat: Seat) -> Option<&Answer<L>> {
        self.seat(seat).answer.as_ref()
    }

    /// What is to come for this waiter depends on this, and on who is before it, alone.
    pub(crate) fn digest(&self, digest: &mut Digest, seat: Seat) {
        let Waiter {
            ticket: _,
            waker: _,
            stays,
            waits,
            barging_until,
            connect,
            answer,
        } = self.seat(seat);
        for flag in [self.is_trying(seat), *stays, *waits] {
            digest.put(u64::from(flag));
        }
        digest.due(*barging_until);
        digest.id(connect.unwrap_or(0));
        match answer {
            None => digest.put(0),
            Some(Answer::Granted(lease)) => {
                digest.put(1 + u64::from(lease.probe));
                digest.id(lease.key.id);
            }
            Some(Answer::Failed(Failure::Full)) => digest.put(5),
            Some(Answer::Failed(Failure::Connect(error))) => {
                digest.put(6 + u64::from(error.is_permanent()));
            }
            Some(Answer::Ended) => digest.put(8),
        }
    }
}
