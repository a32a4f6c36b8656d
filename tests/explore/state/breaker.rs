//! What the tests see and pin of the breaker, and what makes two breakers the same.

use std::time::Instant;

use super::{Breaker, LONGEST, Outage, TOLERATED};
use crate::backoff::Random;
use crate::explore::Digest;

impl Random {
    /// A generator whose next draw is the least, or the greatest.
    pub(crate) fn pinned(greatest: bool) -> Self {
        Self(if greatest {
            0x3162_8AF6_7B21_31AB
        } else {
            0x61C8_8646_80B5_83EB
        })
    }
}

impl Breaker {
    /// What is to come depends on this, and the ages of connections, alone.
    pub(crate) fn digest(&self, digest: &mut Digest, connecting: bool) {
        let Self {
            last_start,
            outage,
            hang_ups,
            news_since: _,
            random: _,
            retired: _,
        } = self;
        digest.put(u64::from(*hang_ups));
        digest.put(u64::from(outage.is_some()));
        // A failure to come counts its pause from the start of its own connect.
        if connecting || outage.is_some() || digest.watches_hang_ups() {
            digest.age(*last_start, LONGEST);
        }
        if let Some(outage) = outage {
            let Outage {
                error,
                since: _,
                failures: _,
                pause,
                retry_at,
                hangs_up,
                quiet_since,
            } = outage;
            digest.put(u64::from(error.is_permanent()));
            digest.put(u64::from(pause.subsec_millis()));
            digest.due(Some(*retry_at));
            digest.put(u64::from(*hangs_up));
            digest.age(*quiet_since, LONGEST);
        }
    }

    pub(crate) fn digest_birth(&self, digest: &mut Digest, born: Instant) {
        if digest.watches_hang_ups() {
            digest.age(Some(born), LONGEST);
            digest.put(u64::from(self.is_news(born)));
        }
    }

    pub(crate) fn hang_ups(&self) -> u32 {
        self.hang_ups
    }

    /// All draws from here on are the least, or the greatest.
    pub(crate) fn pin(&mut self, draws: Random) {
        self.random = draws;
    }

    /// One more connection that ends so makes an outage.
    pub(crate) fn tolerate_no_more(&mut self) {
        self.hang_ups = TOLERATED;
    }
}
