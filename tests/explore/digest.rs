//! What makes two states the same: 64 bits of everything that what is to come depends on.

use std::time::{Duration, Instant};

/// Times count from now, and only as far as a threshold asks; connections by the order in which
/// they come up.
#[derive(Debug)]
pub(crate) struct Digest {
    hash: u64,
    now: Instant,
    ids: Vec<u64>,
    ages: Ages,
}

/// Up to which age a configuration has a use for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ages {
    /// Since when a connection is idle, or leased.
    pub(crate) idle: Duration,
    /// Since when it has not answered.
    pub(crate) silence: Duration,
    /// Whether the other side may hang up.
    pub(crate) hang_ups: bool,
}

impl Digest {
    pub(crate) fn new(now: Instant, ages: Ages) -> Self {
        Self {
            hash: 0x243F_6A88_85A3_08D3,
            now,
            ids: Vec::with_capacity(8),
            ages,
        }
    }

    pub(crate) fn put(&mut self, value: u64) {
        let wide = u128::from(self.hash ^ value ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
        #[expect(clippy::cast_possible_truncation, reason = "both halves are mixed")]
        let halves = (wide >> 64) as u64 ^ wide as u64;
        self.hash = halves.wrapping_add(self.hash.rotate_left(23));
    }

    /// A connection, or its absence: 0.
    pub(crate) fn id(&mut self, id: u64) {
        if id == 0 {
            return self.put(0);
        }
        let known = self.ids.iter().position(|&other| other == id);
        let place = known.unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        });
        self.put(1 + place as u64);
    }

    pub(crate) fn age(&mut self, since: Option<Instant>, most: Duration) {
        let age = since.map(|since| self.now.saturating_duration_since(since).min(most));
        self.put(age.map_or(0, |age| 1 + micros(age)));
    }

    pub(crate) fn due(&mut self, at: Option<Instant>) {
        let left = at.map(|at| at.saturating_duration_since(self.now));
        self.put(left.map_or(0, |left| 1 + micros(left)));
    }

    pub(crate) fn idle_age(&mut self, since: Instant) {
        self.age(Some(since), self.ages.idle);
    }

    pub(crate) fn silence(&mut self, since: Instant) {
        self.age(Some(since), self.ages.silence);
    }

    pub(crate) fn watches_hang_ups(&self) -> bool {
        self.ages.hang_ups
    }

    pub(crate) fn finish(&self) -> u64 {
        self.hash
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
