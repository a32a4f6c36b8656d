//! How long `pull` sleeps between its tries, and the random numbers behind the jitter.

use std::iter::FusedIterator;
use std::time::Duration;

use crate::report::error::Error;
use crate::sync::seed;

#[cfg(test)]
mod picture;

/// How often and how long [`Pool::pull`](crate::Pool::pull) sleeps between tries.
///
/// [`Jitter`] has the formulas. Every delay lies within `min ..= max`, whatever the settings. Delays
/// that have reached `max` are spread too, so that clients do not all retry at the same instant.
///
/// | setting | default |
/// |---|---|
/// | [`retries`](Backoff::retries) | 5, so 6 tries |
/// | [`factor`](Backoff::factor) | 3 |
/// | [`min`](Backoff::min) | 1 s |
/// | [`max`](Backoff::max) | 60 s |
/// | [`jitter`](Backoff::jitter) | [`Jitter::Equal`] |
///
/// [`Builder::build`](crate::Builder::build) and [`Pool::set_backoff`](crate::Pool::set_backoff)
/// refuse what a setting says must not be.
///
/// A sleeping `pull` is woken as soon as it can have a connection. So the delays bound how long a
/// call goes on trying, and do not slow it down.
///
/// # Examples
///
/// ```
/// use jackpot::{Backoff, Jitter};
/// use std::time::Duration;
///
/// let backoff = Backoff::new().retries(4).factor(2.0).jitter(Jitter::None);
/// let delays: Vec<u64> = backoff.delays().map(|delay| delay.as_secs()).collect();
/// assert_eq!(delays, [1, 2, 4, 8]);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Backoff {
    retries: u32,
    factor: f64,
    min: Duration,
    max: Duration,
    jitter: Jitter,
}

/// The least [`Backoff::min`] that is allowed: to wake up takes longer than a shorter sleep.
const SHORTEST: Duration = Duration::from_millis(1);

/// How chance spreads the delays of a [`Backoff`].
///
/// The names are those of Marc Brooker's article "Exponential Backoff And Jitter" (AWS
/// Architecture Blog, 2015). The ranges differ from it in that none of them goes below `min`.
/// For delay *n*, counted from 0, `base = min × factorⁿ` and `top = min(2 × base, max)`:
///
/// # Examples
///
/// ```
/// use jackpot::{Backoff, Jitter};
/// use std::time::Duration;
///
/// let first = Backoff::new().jitter(Jitter::Full).delays().next().unwrap();
/// assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&first));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// Exactly `min(base, max)`: for tests, and for a single client.
    None,
    /// Uniform in `[max(min, top / 2), top]`: half of the delay is certain, half is chance.
    Equal,
    /// Uniform in `[min, top]`: the widest spread.
    Full,
    /// Uniform in `[min, min(max, previous × factor)]`, starting from `min`.
    Decorrelated,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            retries: 5,
            factor: 3.0,
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: Jitter::Equal,
        }
    }
}

impl Backoff {
    /// The default settings, to be changed one by one.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(jackpot::Backoff::new(), jackpot::Backoff::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// How often to try again after the first try; default 5.
    ///
    /// Tries are `retries + 1`. Zero means one try and no retry.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(jackpot::Backoff::new().retries(0).delays().count(), 0);
    /// ```
    pub fn retries(mut self, n: u32) -> Self {
        self.retries = n;
        self
    }

    /// By how much each delay is longer than the one before; default 3.
    ///
    /// Must be finite and at least 1.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::{Backoff, Jitter};
    /// let constant = Backoff::new().factor(1.0).jitter(Jitter::None);
    /// assert!(constant.delays().all(|delay| delay.as_secs() == 1));
    /// ```
    pub fn factor(mut self, f: f64) -> Self {
        self.factor = f;
        self
    }

    /// The shortest delay, and the base of the first one; default 1 s.
    ///
    /// Must be at least 1 ms where there are [`retries`](Backoff::retries): all delays grow from
    /// it, and with less `pull` would be a busy loop. Must not be above [`max`](Backoff::max).
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Backoff;
    /// # use std::time::Duration;
    /// let backoff = Backoff::new().min(Duration::from_millis(10));
    /// assert!(backoff.delays().all(|delay| delay >= Duration::from_millis(10)));
    /// ```
    pub fn min(mut self, d: Duration) -> Self {
        self.min = d;
        self
    }

    /// The longest delay; default 60 s.
    ///
    /// Must not be below [`min`](Backoff::min).
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Backoff;
    /// # use std::time::Duration;
    /// let backoff = Backoff::new().retries(1000).max(Duration::from_secs(2));
    /// assert!(backoff.delays().all(|delay| delay <= Duration::from_secs(2)));
    /// ```
    pub fn max(mut self, d: Duration) -> Self {
        self.max = d;
        self
    }

    /// How chance spreads the delays; default [`Jitter::Equal`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::{Backoff, Jitter};
    /// let backoff = Backoff::new().jitter(Jitter::Decorrelated);
    /// assert_eq!(backoff.delays().count(), 5);
    /// ```
    pub fn jitter(mut self, j: Jitter) -> Self {
        self.jitter = j;
        self
    }

    /// Turns the jitter off (`false`, [`Jitter::None`]) or on (`true`, [`Jitter::Equal`]).
    ///
    /// The name is that of the Node.js module's option.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::{Backoff, Jitter};
    /// assert_eq!(Backoff::new().randomize(false), Backoff::new().jitter(Jitter::None));
    /// ```
    pub fn randomize(self, yes: bool) -> Self {
        self.jitter(if yes { Jitter::Equal } else { Jitter::None })
    }

    /// The delays of one call of `pull`: exactly `retries` of them, drawn for this call.
    ///
    /// Never panics and never overflows: settings that `build` would refuse are replaced by the
    /// closest ones that make sense.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Backoff;
    /// let total: std::time::Duration = Backoff::new().delays().sum();
    /// assert!(total.as_secs() >= 1 + 3 + 9 + 27 + 30);
    /// ```
    pub fn delays(&self) -> Delays {
        let factor = if self.factor.is_nan() {
            1.0
        } else {
            self.factor.max(1.0)
        };
        Delays {
            left: self.retries,
            factor,
            min: self.min.min(self.max),
            max: self.max,
            jitter: self.jitter,
            base: self.min.min(self.max),
            random: Random::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self {
            factor, min, max, ..
        } = self;
        let wrong = if !factor.is_finite() || *factor < 1.0 {
            format!("factor must be finite and at least 1, not {factor}")
        } else if self.retries > 0 && *min < SHORTEST {
            format!("min must be at least {SHORTEST:?}, not {min:?}")
        } else if min > max {
            format!("min must not be above max, but {min:?} is above {max:?}")
        } else {
            return Ok(());
        };
        Err(Error::InvalidConfig(format!("backoff {wrong}")))
    }
}

/// The delays of one call of `pull`, from [`Backoff::delays`].
///
/// # Examples
///
/// ```
/// let mut delays = jackpot::Backoff::new().retries(2).delays();
/// assert_eq!(delays.len(), 2);
/// assert!(delays.next().is_some());
/// assert!(delays.next().is_some());
/// assert!(delays.next().is_none());
/// ```
#[derive(Clone, Debug)]
pub struct Delays {
    left: u32,
    factor: f64,
    min: Duration,
    max: Duration,
    jitter: Jitter,
    /// `min × factorⁿ`, stopped at `max`; for [`Jitter::Decorrelated`] the previous delay.
    base: Duration,
    random: Random,
}

impl Delays {
    /// `duration × factor`, or `max` where that is less.
    fn scaled(&self, duration: Duration) -> Duration {
        let scaled = duration.as_secs_f64() * self.factor;
        match Duration::try_from_secs_f64(scaled) {
            Ok(scaled) => scaled.min(self.max),
            // Nothing times infinity is no number.
            Err(_) if duration.is_zero() => Duration::ZERO,
            Err(_) => self.max,
        }
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let base = self.base;
        let next = self.scaled(base);
        let top = base.saturating_mul(2).min(self.max);
        let delay = match self.jitter {
            Jitter::None => base,
            Jitter::Equal => self.random.between(self.min.max(top / 2), top),
            Jitter::Full => self.random.between(self.min, top),
            Jitter::Decorrelated => self.random.between(self.min, next),
        };
        let delay = delay.max(self.min).min(self.max);
        self.base = match self.jitter {
            Jitter::Decorrelated => delay,
            _ => next,
        };
        Some(delay)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match usize::try_from(self.left) {
            Ok(left) => (left, Some(left)),
            Err(_) => (usize::MAX, None),
        }
    }
}

impl ExactSizeIterator for Delays {}
impl FusedIterator for Delays {}

/// `SplitMix64` (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
///
/// Seeded by std's `RandomState`, whose keys differ between processes and between two calls.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Default for Random {
    fn default() -> Self {
        Self(seed())
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `low ..= high`; `high` where `low` is above it.
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let Some(span) = high.checked_sub(low) else {
            return high;
        };
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let offset = Duration::try_from_secs_f64(span.as_secs_f64() * share).unwrap_or(span);
        low.saturating_add(offset).min(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JITTERS: [Jitter; 4] = [
        Jitter::None,
        Jitter::Equal,
        Jitter::Full,
        Jitter::Decorrelated,
    ];

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn without_jitter_the_delays_are_the_formula() {
        let backoff = Backoff::new().retries(6).randomize(false);
        let delays: Vec<_> = backoff.delays().collect();
        assert_eq!(delays, [1, 3, 9, 27, 60, 60].map(seconds));
    }

    #[test]
    fn equal_and_full_keep_to_their_ranges_and_fill_them() {
        for (jitter, ranges) in [
            (Jitter::Equal, [(1, 2), (3, 6), (9, 18), (27, 54), (30, 60)]),
            (Jitter::Full, [(1, 2), (1, 6), (1, 18), (1, 54), (1, 60)]),
        ] {
            let backoff = Backoff::new().jitter(jitter);
            let draws: Vec<Vec<Duration>> = (0..2000).map(|_| backoff.delays().collect()).collect();
            for (n, (low, high)) in ranges.into_iter().enumerate() {
                let least = draws.iter().map(|d| d[n]).min().unwrap();
                let most = draws.iter().map(|d| d[n]).max().unwrap();
                let slack = seconds(high - low) / 50;
                assert!(seconds(low) <= least && least < seconds(low) + slack);
                assert!(seconds(high) < most + slack && most <= seconds(high));
            }
        }
    }

    #[test]
    fn decorrelated_grows_from_the_previous_delay() {
        let backoff = Backoff::new().retries(50).jitter(Jitter::Decorrelated);
        for _ in 0..200 {
            let mut previous = seconds(1);
            for delay in backoff.delays() {
                assert!(delay >= seconds(1));
                assert!(delay <= (previous * 3).min(seconds(60)));
                previous = delay;
            }
        }
    }

    #[test]
    fn extreme_settings_stay_within_min_and_max() {
        let extremes = [
            Duration::ZERO,
            Duration::from_nanos(1),
            seconds(1),
            Duration::MAX,
        ];
        for jitter in JITTERS {
            for min in extremes {
                for max in extremes {
                    for factor in [
                        1.0,
                        1.5,
                        1e300,
                        f64::MAX,
                        f64::INFINITY,
                        f64::NAN,
                        -3.0,
                        0.0,
                    ] {
                        let backoff = Backoff::new()
                            .retries(100)
                            .factor(factor)
                            .min(min)
                            .max(max)
                            .jitter(jitter);
                        assert_eq!(backoff.delays().count(), 100);
                        for delay in backoff.delays() {
                            assert!(min.min(max) <= delay && delay <= max);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_delay_beyond_all_numbers_is_the_longest_and_of_nothing_it_is_nothing() {
        let of = |factor, min| {
            let backoff = Backoff::new().retries(3).randomize(false);
            let backoff = backoff.factor(factor).min(min).max(Duration::MAX);
            backoff.delays().collect::<Vec<_>>()
        };
        let longest = Duration::MAX;
        assert_eq!(of(f64::MAX, seconds(1)), [seconds(1), longest, longest]);
        assert_eq!(of(f64::INFINITY, Duration::ZERO), [Duration::ZERO; 3]);
    }

    #[test]
    fn how_many_are_left_is_known() {
        let mut delays = Backoff::new().retries(3).delays();
        for left in [3, 2, 1, 0, 0] {
            assert_eq!(delays.len(), left);
            assert_eq!(delays.next().is_some(), left > 0);
        }
    }

    /// The first ones from zero on, as its authors have published them.
    #[test]
    fn the_random_numbers_are_those_of_splitmix64() {
        let mut random = Random(0);
        for number in [
            0xE220_A839_7B1D_CDAF,
            0x6E78_9E6A_A1B9_65F4,
            0x06C4_5D18_8009_454F,
        ] {
            assert_eq!(random.next(), number);
        }
    }

    #[test]
    fn no_two_pulls_share_a_sequence() {
        let backoff = Backoff::new();
        let (a, b): (Vec<_>, Vec<_>) = (backoff.delays().collect(), backoff.delays().collect());
        assert_ne!(a, b);
    }

    #[test]
    fn check_names_the_setting_and_the_value() {
        let text = |backoff: Backoff| backoff.check().unwrap_err().to_string();
        assert!(
            text(Backoff::new().factor(0.5))
                .contains("factor must be finite and at least 1, not 0.5")
        );
        assert!(text(Backoff::new().factor(f64::NAN)).contains("NaN"));
        assert!(text(Backoff::new().min(seconds(61))).contains("61s is above 60s"));
        assert!(Backoff::new().factor(1.0).retries(0).check().is_ok());
    }

    #[test]
    fn a_min_of_zero_was_a_busy_loop() {
        let of = |min| Backoff::new().retries(1).min(min);
        for (min, shown) in [
            (Duration::ZERO, "0ns"),
            (Duration::from_nanos(1), "1ns"),
            (Duration::from_micros(999), "999µs"),
        ] {
            for max in [min, seconds(60)] {
                let error = of(min).max(max).check().unwrap_err().to_string();
                let expected = format!("backoff min must be at least 1ms, not {shown}");
                assert_eq!(error, expected);
                assert!(of(min).max(max).retries(0).check().is_ok());
            }
        }
        let shortest = Duration::from_millis(1);
        assert!(of(shortest).max(shortest).check().is_ok());
    }
}
