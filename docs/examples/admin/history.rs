//! The last minutes, and a picture of them.
//!
//! The picture is stretched to the room that there is, so whatever is text stands beside it.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use jackpot::{Histogram, Stats};

/// How often it looks, and so what one step to the right is.
pub(crate) const STEP: Duration = Duration::from_secs(1);
/// Five minutes of them.
const STEPS: usize = 300;
/// Over how many of them the waits of a point are taken, so that a few make a line.
const WINDOW: usize = 10;

#[derive(Default)]
pub(crate) struct History {
    points: VecDeque<Point>,
    /// All waits as they were at each of the last steps, the oldest first.
    waits: VecDeque<Histogram>,
}

struct Point {
    leased: usize,
    waiting: usize,
    /// Median and 99th percentile of those waits that ended in the last ten steps, if any did.
    waits: Option<[Duration; 2]>,
}

impl History {
    pub(crate) fn add(&mut self, stats: &Stats) {
        self.waits.push_back(stats.wait_times.clone());
        while self.waits.len() > WINDOW + 1 {
            self.waits.pop_front();
        }
        let start = Histogram::default();
        let old = if self.waits.len() > WINDOW {
            &self.waits[0]
        } else {
            &start
        };
        let quantile = |percent| quantile_since(old, &stats.wait_times, percent);
        let point = Point {
            leased: stats.leased,
            waiting: stats.waiting,
            waits: quantile(50).zip(quantile(99)).map(<[_; 2]>::from),
        };
        self.points.push_back(point);
        while self.points.len() > STEPS {
            self.points.pop_front();
        }
    }

    /// Leased and waiting over time, and how long the waits were.
    pub(crate) fn pictures(&self) -> String {
        self.counts() + &self.waits()
    }

    fn counts(&self) -> String {
        let most = self.points.iter().map(|at| at.leased.max(at.waiting)).max();
        let top = round_up(most.unwrap_or(0));
        let y = |count| 100.0 * (1.0 - float(count) / float(top));
        let leased = self.path(|at| Some(y(at.leased)));
        let waiting = self.path(|at| Some(y(at.waiting)));
        let labels: String = [0, top / 2, top]
            .map(|count| label(y(count), &count.to_string()))
            .concat();
        let last = self.points.back();
        let said = format!(
            "{} leased and {} waiting now, {} of one kind at most",
            last.map_or(0, |at| at.leased),
            last.map_or(0, |at| at.waiting),
            most.unwrap_or(0),
        );
        figure(
            "Load",
            [("leased", &leased), ("waiting", &waiting)],
            &labels,
            &said,
        )
    }

    /// On a logarithmic scale.
    fn waits(&self) -> String {
        const POWERS: [(f64, &str); 10] = [
            (1e-7, "0.1 µs"),
            (1e-6, "1 µs"),
            (1e-5, "10 µs"),
            (1e-4, "0.1 ms"),
            (1e-3, "1 ms"),
            (1e-2, "10 ms"),
            (1e-1, "0.1 s"),
            (1.0, "1 s"),
            (10.0, "10 s"),
            (100.0, "100 s"),
        ];
        let known = || self.points.iter().filter_map(|at| at.waits).flatten();
        // An axis of a millisecond to a second, where there is nothing to show.
        let least = known().min().map_or(1e-3, |least| least.as_secs_f64());
        let most = known().max().map_or(1.0, |most| most.as_secs_f64());
        let from = POWERS.iter().rposition(|&(power, _)| power <= least);
        let from = from.unwrap_or(0).min(POWERS.len() - 2);
        let to = POWERS.iter().position(|&(power, _)| power >= most);
        let to = to.unwrap_or(POWERS.len() - 1).max(from + 1);
        let (bottom, top) = (POWERS[from].0.log10(), POWERS[to].0.log10());
        let y = |seconds: f64| 100.0 * ((top - seconds.log10()) / (top - bottom)).clamp(0.0, 1.0);
        let quantile = |n: usize| self.path(|at| at.waits.map(|waits| y(waits[n].as_secs_f64())));
        let labels: String = POWERS[from..=to]
            .iter()
            .map(|&(seconds, text)| label(y(seconds), text))
            .collect();
        let said = known().next_back().map_or_else(
            || "nobody has waited".to_owned(),
            |last| format!("the last waits took {last:.1?} at the 99th percentile"),
        );
        figure(
            "Waits",
            [("p50", &quantile(0)), ("p99", &quantile(1))],
            &labels,
            &said,
        )
    }

    /// A line through what is known, the newest at the right edge; a dot where it stands alone.
    fn path(&self, y: impl Fn(&Point) -> Option<f64>) -> String {
        let mut path = String::new();
        let mut pen_is_down = false;
        for (n, point) in self.points.iter().enumerate() {
            let x = STEPS - self.points.len() + n + 1;
            let y = y(point);
            if let Some(y) = y {
                let _ = if pen_is_down {
                    write!(path, "L{x} {y:.1}")
                } else {
                    write!(path, "M{x} {y:.1}h0")
                };
            }
            pen_is_down = y.is_some();
        }
        path
    }
}

/// The quantile of what `new` has and `old` has not, as a bucket's upper bound.
fn quantile_since(old: &Histogram, new: &Histogram, percent: u64) -> Option<Duration> {
    let count = new.count() - old.count();
    let rank = (count * percent).div_ceil(100).max(1);
    let mut grown = new.buckets().zip(old.buckets());
    let (bucket, _) = grown.find(|((_, new), (_, old))| new - old >= rank)?;
    Some(bucket.0.min(new.max()))
}

fn figure(title: &str, lines: [(&str, &str); 2], labels: &str, said: &str) -> String {
    let keys = lines.map(|(name, _)| format!(r#"<span class="key {name}">{name}</span>"#));
    let paths = lines.map(|(name, path)| format!(r#"<path class="{name}" d="{path}"/>"#));
    format!(
        r#"<section><figure><figcaption><h2>{title}</h2>{}</figcaption>
        <div class="plot">{labels}<svg viewBox="0 0 {STEPS} 100" preserveAspectRatio="none" role="img"
        aria-label="{title}: {said}">{}</svg></div>
        <div class="axis"><span>{} minutes ago</span><span>now</span></div></figure></section>"#,
        keys.concat(),
        paths.concat(),
        STEPS / 60,
    )
}

/// Beside the picture, with a line through it.
fn label(y: f64, text: &str) -> String {
    format!(r#"<div class="level" style="top:{y:.1}%"><span>{text}</span></div>"#)
}

/// To an even number that is easy to read, 2 at least.
fn round_up(count: usize) -> usize {
    let mut power = 1;
    loop {
        for step in [2, 4, 10] {
            if step * power >= count {
                return step * power;
            }
        }
        power *= 10;
    }
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_number_that_is_easy_to_read() {
        for (count, expected) in [
            (0, 2),
            (2, 2),
            (3, 4),
            (5, 10),
            (10, 10),
            (11, 20),
            (41, 100),
        ] {
            assert_eq!(round_up(count), expected, "{count}");
        }
    }

    #[test]
    fn a_line_has_gaps_and_only_its_last_minutes() {
        let mut history = History::default();
        for leased in 0..=STEPS {
            let waits = None;
            history.points.push_back(Point {
                leased,
                waiting: 0,
                waits,
            });
        }
        history.add(&Stats::default());
        assert_eq!(history.points.len(), STEPS);
        let y = |at: &Point| (at.leased != 4).then_some(0.0);
        assert!(history.path(y).starts_with("M1 0.0h0L2 0.0M4 0.0h0L5 0.0"));
        assert!(history.path(y).ends_with("L300 0.0"));
        assert!(history.pictures().contains("nobody has waited"));
    }
}
