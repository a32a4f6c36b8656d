//! Chance that can be repeated: a small generator with a seed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// `SplitMix64` (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Generators with the same seed and different numbers go different ways.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut mixer = Self(seed);
        let start = mixer.next() ^ number;
        Self(Self(start).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Any of 0 to `n` - 1; `n` is small, so the bias is too.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = most.saturating_sub(least).as_micros();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.below(spread.max(1)))
    }
}

/// A seed short enough to be typed again.
pub(crate) fn fresh_seed() -> u64 {
    RandomState::new().hash_one(()) % 1_000_000
}
