//! Ratios of things that run alternately, and the clocks and counters behind them.

use std::fmt;
use std::time::{Duration, Instant};

/// The middle of what was measured in many rounds, and how sure it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// The range of the rounds without the outermost tenths.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Where the median of endless rounds would lie, in 99 of 100 cases.
    pub(crate) surely: (f64, f64),
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let at = |tenths: usize| values[(last * tenths + 5) / 10];
        // How many of n rounds fall below the true median is binomial, with deviation √n / 2;
        // 2.6 deviations to either side hold 99 of 100 cases.
        let margin = (values.len() * 17 / 10).isqrt() + 1;
        let margin = margin.min(last / 2);
        Self {
            median: at(5),
            low: at(1),
            high: at(9),
            surely: (values[last / 2 - margin], values[last.div_ceil(2) + margin]),
        }
    }

    /// Of the ratios of two things, round by round.
    pub(crate) fn of_ratios(dividends: &[f64], divisors: &[f64]) -> Self {
        let pairs = dividends.iter().zip(divisors);
        Self::of(
            pairs
                .map(|(dividend, divisor)| dividend / divisor)
                .collect(),
        )
    }

    /// In another unit.
    pub(crate) fn over(self, unit: f64) -> Self {
        Self {
            median: self.median / unit,
            low: self.low / unit,
            high: self.high / unit,
            surely: (self.surely.0 / unit, self.surely.1 / unit),
        }
    }

    fn is_count(&self) -> bool {
        self.low.fract() == 0.0 && self.high.fract() == 0.0
    }

    /// A figure that was counted, not measured.
    pub(crate) fn exact(value: f64) -> Self {
        Self {
            median: value,
            low: value,
            high: value,
            surely: (value, value),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median, low, high, ..
        } = self;
        let digits = match median.abs() {
            _ if self.is_count() => 0,
            large if large >= 100.0 => 0,
            middling if middling >= 10.0 => 1,
            small if small >= 0.1 => 2,
            _ => 3,
        };
        write!(f, "{median:.digits$}")?;
        if low < high {
            write!(f, " ({low:.digits$} … {high:.digits$})")?;
        }
        Ok(())
    }
}

/// Runs the contestants in turn, `rounds` times, and gives what each returned in each round.
///
/// Every round begins with another one, so that none always follows the same neighbour. One
/// round before the first is not counted.
pub(crate) fn alternate<const N: usize, R>(
    rounds: usize,
    mut contestants: [&mut dyn FnMut() -> R; N],
) -> [Vec<R>; N] {
    for contestant in &mut contestants {
        contestant();
    }
    let mut results = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for turn in 0..N {
            let who = (round + turn) % N;
            results[who].push(contestants[who]());
        }
    }
    results
}

/// How many nanoseconds one of `count` calls takes.
pub(crate) fn nanoseconds_each(count: u32, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    for _ in 0..count {
        call();
    }
    nanoseconds(started.elapsed()) / f64::from(count)
}

pub(crate) fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
