//! A histogram of durations that never allocates.

use std::fmt;
use std::time::Duration;

/// How often which durations occurred, within a tenth, in 1.6 kB.
///
/// It is log-linear, as HDR histograms are (Hartmann and Schlossnagle, "Circllhist", 2020): a bound
/// for each of 100, 120, 140, 160, 180 ns, and again for twice as much, up to 13.7 hours, `20 ns ×
/// (5 + j) × 2^k` with *j* from 0 to 4 and *k* from 0 to 38. A duration counts in the first bucket
/// whose bound is not below it. So what comes out is within a tenth of what went in, from 100 ns to
/// 13.7 hours; [`count`](Histogram::count), [`sum`](Histogram::sum) and [`max`](Histogram::max) are
/// exact.
///
/// # Examples
///
/// ```
/// use jackpot::Histogram;
/// use std::time::Duration;
///
/// // As a page for Prometheus has it: how many took no longer than the bound, in seconds.
/// let page = |times: &Histogram| {
///     let mut page = String::new();
///     for (bound, count) in times.buckets().step_by(5) {
///         page += &format!("wait_bucket{{le=\"{}\"}} {count}\n", bound.as_secs_f64());
///     }
///     page
/// };
/// assert!(page(&Histogram::default()).starts_with("wait_bucket{le=\"0.0000001\"} 0\n"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDS + 1],
    sum: Duration,
    max: Duration,
}

/// A further bucket holds what is above the last bound.
const BOUNDS: usize = 39 * STEPS;
/// Between a bound and twice the bound.
const STEPS: usize = 5;
/// The first bound is so many of them as there are steps.
const UNIT: u64 = 20;

impl Histogram {
    /// How many durations were recorded.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(jackpot::Histogram::default().count(), 0);
    /// ```
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All durations together, exactly.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(jackpot::Histogram::default().sum().is_zero());
    /// ```
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest duration, exactly; zero where there is none.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(jackpot::Histogram::default().max().is_zero());
    /// ```
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The duration that a share `q` of all does not exceed; zero where there is none.
    ///
    /// It is the middle of the bucket in which the nearest rank lies (`⌈q × count⌉`, at least 1).
    /// `q` is cut to 0 … 1, and NaN counts as 0. `quantile(0.5)` is the median, and `quantile(1.0)`
    /// is [`max`](Histogram::max).
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(jackpot::Histogram::default().quantile(0.99).is_zero());
    /// ```
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let count = self.count();
        let rank = rank(q, count);
        if rank == count {
            return self.max;
        }
        let mut seen = 0;
        let bucket = self.counts.iter().position(|&count| {
            seen += count;
            seen >= rank
        });
        let middle = match bucket {
            Some(first @ 0) => bound(first),
            Some(bucket @ ..BOUNDS) => bound(bucket - 1).midpoint(bound(bucket)),
            _ => return self.max,
        };
        Duration::from_nanos(middle).min(self.max)
    }

    /// Each bucket's upper bound, and how many durations do not exceed it.
    ///
    /// The bounds ascend and are the same in all histograms; each is twice the fifth before it. The
    /// last one is [`Duration::MAX`], and its count is [`count`](Histogram::count).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let empty = jackpot::Histogram::default();
    /// let bounds: Vec<Duration> = empty.buckets().map(|(bound, _)| bound).collect();
    /// assert_eq!(bounds[..3], [100, 120, 140].map(Duration::from_nanos));
    /// assert_eq!(bounds.last(), Some(&Duration::MAX));
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut seen = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            seen += count;
            let bound = match bucket {
                ..BOUNDS => Duration::from_nanos(bound(bucket)),
                _ => Duration::MAX,
            };
            (bound, seen)
        })
    }

    /// Adds what another one has recorded, of another pool for instance.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Histogram;
    /// let (mut all, other) = (Histogram::default(), Histogram::default());
    /// all.merge(&other);
    /// assert_eq!(all, other);
    /// ```
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        self.counts[bucket(duration)] += 1;
        self.sum += duration;
        self.max = self.max.max(duration);
    }
}

/// Which one of so many, sorted, is the quantile: from 1, and 0 where there is none.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float is cast to the nearest integer, and NaN to zero"
)]
fn rank(q: f64, count: u64) -> u64 {
    let rank = (q * count as f64).ceil() as u64;
    rank.clamp(count.min(1), count)
}

/// In nanoseconds, of one of the `BOUNDS` buckets that have one.
fn bound(bucket: usize) -> u64 {
    let (doublings, step) = (bucket / STEPS, bucket % STEPS);
    (UNIT * (STEPS + step) as u64) << doublings
}

/// The first bucket whose bound is not below this duration.
fn bucket(duration: Duration) -> usize {
    // Whole units strictly below it: what is exactly a bound counts there and not one further.
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let units = nanos.saturating_sub(1) / UNIT;
    let steps = STEPS as u64;
    let Some(doublings) = (units / steps).checked_ilog2() else {
        return 0;
    };
    // From 5 to 9.
    let step = units >> doublings;
    let bucket = u64::from(doublings) * steps + step + 1 - steps;
    usize::try_from(bucket).map_or(BOUNDS, |bucket| bucket.min(BOUNDS))
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0; BOUNDS + 1],
            sum: Duration::ZERO,
            max: Duration::ZERO,
        }
    }
}

/// In short: how many, the median, the 99th percentile and the longest.
impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Random;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Durations of every order of magnitude, the bounds and their neighbours among them.
    fn durations(random: &mut Random, count: usize) -> Vec<Duration> {
        let draw = |random: &mut Random, high| random.between(Duration::ZERO, high);
        let mut durations: Vec<_> = (0..count)
            .map(|n| {
                let high = Duration::from_nanos(100 << (n % 38));
                draw(random, high)
            })
            .collect();
        for bucket in (0..BOUNDS).step_by(7) {
            let bound = bound(bucket);
            durations.extend([bound - 1, bound, bound + 1].map(Duration::from_nanos));
        }
        durations
    }

    fn of(durations: &[Duration]) -> Histogram {
        let mut histogram = Histogram::default();
        for &duration in durations {
            histogram.record(duration);
        }
        histogram
    }

    #[test]
    fn quantiles_are_within_a_tenth_of_the_exact_ones() {
        let mut random = Random::default();
        for count in [1, 2, 3, 10, 100, 5000] {
            let mut exact = durations(&mut random, count);
            let keep = count.min(exact.len());
            exact.truncate(keep);
            let histogram = of(&exact);
            exact.sort_unstable();
            for q in (0..=1000).map(|q| f64::from(q) / 1000.0) {
                let expected = exact[usize::try_from(rank(q, count as u64)).unwrap() - 1];
                let found = histogram.quantile(q);
                // Below the first bound there is one bucket only.
                let slack = (expected / 10).max(Duration::from_nanos(100));
                let error = found.abs_diff(expected);
                assert!(
                    error <= slack,
                    "{found:?} for {expected:?}, the {q} of {count}"
                );
            }
        }
    }

    #[test]
    fn each_duration_comes_out_within_a_tenth_from_a_tenth_of_a_microsecond_on() {
        for duration in durations(&mut Random::default(), 100_000) {
            // The longest is known exactly, so it must not be this one.
            let histogram = of(&[duration, 12 * HOUR]);
            let found = histogram.quantile(0.5);
            let slack = if duration < Duration::from_nanos(100) {
                Duration::from_nanos(100)
            } else {
                duration / 10
            };
            assert!(
                found.abs_diff(duration) <= slack,
                "{found:?} for {duration:?}"
            );
        }
    }

    #[test]
    fn buckets_count_what_does_not_exceed_their_bounds() {
        let exact = durations(&mut Random::default(), 2000);
        let histogram = of(&exact);
        for (bound, count) in histogram.buckets() {
            let expected = exact.iter().filter(|&&d| d <= bound).count();
            assert_eq!(count, expected as u64, "{bound:?}");
        }
        assert_eq!(histogram.count(), exact.len() as u64);
        assert_eq!(histogram.sum(), exact.iter().sum::<Duration>());
        assert_eq!(histogram.max(), *exact.iter().max().unwrap());
    }

    #[test]
    fn bounds_ascend_by_a_fifth_at_most_and_reach_from_100_ns_to_hours() {
        let bounds: Vec<_> = (0..BOUNDS).map(bound).collect();
        assert_eq!(bounds[..6], [100, 120, 140, 160, 180, 200]);
        for pair in bounds.windows(2) {
            assert!(pair[0] < pair[1] && 5 * pair[1] <= 6 * pair[0], "{pair:?}");
        }
        let last = Duration::from_nanos(bounds[BOUNDS - 1]);
        assert!(13 * HOUR < last && last < 14 * HOUR, "{last:?}");
        for (n, bound) in bounds.into_iter().enumerate() {
            assert_eq!(bucket(Duration::from_nanos(bound)), n);
            assert_eq!(bucket(Duration::from_nanos(bound + 1)), n + 1);
        }
    }

    #[test]
    fn what_is_out_of_range_counts_at_its_ends() {
        let histogram = of(&[Duration::ZERO, Duration::from_nanos(1), 1000 * HOUR]);
        let mut buckets = histogram.buckets();
        assert_eq!(buckets.next(), Some((Duration::from_nanos(100), 2)));
        assert!(
            buckets
                .by_ref()
                .take(BOUNDS - 1)
                .all(|(_, count)| count == 2)
        );
        assert_eq!(buckets.next(), Some((Duration::MAX, 3)));
        assert_eq!(buckets.next(), None);
        let longest = of(&[1000 * HOUR, 2000 * HOUR]);
        assert_eq!(longest.quantile(0.0), 2000 * HOUR);
        let nothing = of(&[Duration::ZERO; 3]);
        assert_eq!(nothing.quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn quantiles_of_nonsense_and_of_nothing() {
        let histogram = of(&[Duration::from_secs(1), Duration::from_secs(2)]);
        let (least, most) = (histogram.quantile(0.0), histogram.quantile(1.0));
        assert!(least < most);
        for (q, expected) in [
            (f64::NAN, least),
            (f64::NEG_INFINITY, least),
            (-1.0, least),
            (0.5, least),
            (0.500_001, most),
            (2.0, most),
            (f64::INFINITY, most),
        ] {
            assert_eq!(histogram.quantile(q), expected, "{q}");
        }
        for q in [0.0, 0.5, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Histogram::default().quantile(q), Duration::ZERO);
        }
    }

    #[test]
    fn merged_is_as_if_recorded_together() {
        let all = durations(&mut Random::default(), 300);
        let (some, others) = all.split_at(100);
        let mut merged = of(some);
        merged.merge(&of(others));
        assert_eq!(merged, of(&all));
        assert_ne!(merged, of(some));
    }

    #[test]
    fn it_is_small_and_its_debug_is_short() {
        assert!(size_of::<Histogram>() <= 1600, "{}", size_of::<Histogram>());
        let shown = format!("{:?}", of(&[Duration::from_millis(100); 3]));
        let expected = "Histogram { count: 3, p50: 99.61472ms, p99: 100ms, max: 100ms, .. }";
        assert_eq!(shown, expected);
    }
}
