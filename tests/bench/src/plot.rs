//! The plots, from what the rows leave here.

use std::error::Error;
use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use crate::measure::Spread;
use crate::rows::burst::Burst;
use crate::rows::growth::Growth;
use crate::rows::pipeline::{Calls, PEERS};
use crate::rows::shared::{Rates, Waits};
use crate::rows::size::Cost;

/// What the rows have measured that is worth a picture.
#[derive(Debug, Default)]
pub(crate) struct Plots {
    /// Without work, and with one echo.
    pub(crate) unworked: Vec<Rates>,
    pub(crate) rates: Vec<Rates>,
    pub(crate) waits: Vec<Waits>,
    pub(crate) shared_echo: Vec<Calls>,
    pub(crate) shared_late: Vec<Calls>,
    pub(crate) sizes: Vec<Cost>,
    /// jackpot's and r2d2's.
    pub(crate) bursts: Option<(Burst, Burst)>,
    /// Milliseconds of each verb, and of the longest `stats()` beside it, by idle connections.
    pub(crate) verbs: Vec<Growth>,
    pub(crate) holds: Vec<Growth>,
    /// Milliseconds until a line is served, and of the longest `stats()` meanwhile, by waiters.
    pub(crate) served: Vec<Growth>,
    pub(crate) watched: Vec<Growth>,
    /// The work, and thousands of leases per second by threads, for each number of pools.
    pub(crate) split: Vec<(&'static str, Vec<Growth>)>,
    /// Answers in time by load, both in per cent of the capacity.
    pub(crate) goodput: Vec<Growth>,
}

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A curve: its name, its colour, and its values with their ranges.
struct Curve {
    name: &'static str,
    color: RGBColor,
    values: Vec<Spread>,
}

const JACKPOT: RGBColor = RGBColor(0xc2, 0x3b, 0x22);
const R2D2: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const LEASES: RGBColor = RGBColor(0xe0, 0x9a, 0x3e);
const ONE_EACH: RGBColor = RGBColor(0x77, 0x77, 0x77);
const CHANNEL: RGBColor = RGBColor(0x6a, 0x8f, 0x3c);

impl Plots {
    /// Draws whatever was measured into this folder.
    pub(crate) fn draw(&self, folder: &Path) -> Result {
        fs::create_dir_all(folder)?;
        if !self.unworked.is_empty() && !self.rates.is_empty() {
            self.draw_throughput(&folder.join("throughput.svg"))?;
        }
        if !self.waits.is_empty() {
            self.draw_waits(&folder.join("waits.svg"))?;
        }
        if !self.shared_echo.is_empty() {
            draw_calls(
                &self.shared_echo,
                "one echo",
                &folder.join("shared-echo.svg"),
            )?;
        }
        if !self.shared_late.is_empty() {
            draw_calls(
                &self.shared_late,
                "answers after 1 ms",
                &folder.join("shared-late.svg"),
            )?;
        }
        if !self.sizes.is_empty() {
            self.draw_sizes(&folder.join("sizes.svg"))?;
        }
        if let Some((jackpot, r2d2)) = &self.bursts {
            draw_burst(jackpot, r2d2, &folder.join("burst.svg"))?;
        }
        let milliseconds = "ms";
        if !self.verbs.is_empty() {
            let file = folder.join("growth-idle.svg");
            let root = canvas(&file)?;
            let (left, right) = root.split_horizontally(480);
            let x = "idle connections";
            draw_growth(&left, ["What a call takes", x, milliseconds], &self.verbs)?;
            let caption = "The longest stats() beside it";
            draw_growth(&right, [caption, x, milliseconds], &self.holds)?;
            root.present()?;
        }
        if !self.served.is_empty() {
            let file = folder.join("growth-waiters.svg");
            let root = canvas(&file)?;
            let (left, right) = root.split_horizontally(480);
            let x = "waiters, on four connections";
            draw_growth(
                &left,
                ["Until all are served", x, milliseconds],
                &self.served,
            )?;
            let caption = "The longest stats() in line";
            draw_growth(&right, [caption, x, milliseconds], &self.watched)?;
            root.present()?;
        }
        if let [left, right] = &self.split[..] {
            let file = folder.join("growth-threads.svg");
            let root = canvas(&file)?;
            let areas = root.split_horizontally(480);
            for (area, (work, curves)) in [areas.0, areas.1].iter().zip([left, right]) {
                draw_split(area, work, curves)?;
            }
            root.present()?;
        }
        if !self.goodput.is_empty() {
            draw_goodput(&self.goodput, &folder.join("goodput.svg"))?;
        }
        Ok(())
    }

    fn draw_throughput(&self, file: &Path) -> Result {
        let root = canvas(file)?;
        let (left, right) = root.split_horizontally(480);
        draw_rates(&left, "no work", &self.unworked)?;
        draw_rates(&right, "one echo round trip", &self.rates)?;
        Ok(root.present()?)
    }

    fn draw_waits(&self, file: &Path) -> Result {
        let root = canvas(file)?;
        let chosen = [8, 64].map(|threads| {
            let waits = self.waits.iter().find(|waits| waits.threads == threads);
            waits.ok_or("no waits for this many threads")
        });
        let (left, right) = root.split_horizontally(480);
        for (area, waits) in [left, right].iter().zip(chosen) {
            draw_distribution(area, waits?)?;
        }
        Ok(root.present()?)
    }

    fn draw_sizes(&self, file: &Path) -> Result {
        let root = canvas(file)?;
        let curve = |name, color, pick: fn(&Cost) -> Spread| Curve {
            name,
            color,
            values: self.sizes.iter().map(pick).collect(),
        };
        let curves = [
            curve("jackpot", JACKPOT, |cost| cost.jackpot),
            curve("r2d2", R2D2, |cost| cost.r2d2),
        ];
        let sizes: Vec<usize> = self.sizes.iter().map(|cost| cost.connections).collect();
        let titles = [
            "Cost by pool size, one thread",
            "idle connections",
            "ns for one pull and drop",
        ];
        draw_curves(&root, titles, &sizes, &curves)?;
        Ok(root.present()?)
    }
}

/// Rates at the left, p99.9 at the right, over threads.
fn draw_calls(calls: &[Calls], caption: &str, file: &Path) -> Result {
    const COLORS: [RGBColor; PEERS.len()] = [JACKPOT, LEASES, R2D2, CHANNEL, ONE_EACH];
    let root = canvas(file)?;
    let (left, right) = root.split_horizontally(480);
    let threads: Vec<usize> = calls.iter().map(|calls| calls.threads).collect();
    let curves = |pick: &dyn Fn(&Calls, usize) -> Spread| -> Vec<Curve> {
        let peers = PEERS.iter().zip(COLORS).enumerate();
        peers
            .map(|(peer, (&name, color))| Curve {
                name,
                color,
                values: calls.iter().map(|calls| pick(calls, peer)).collect(),
            })
            .collect()
    };
    let title = format!("Calls, {caption}");
    let titles = [
        &*title,
        "threads, on four connections",
        "thousand calls per second",
    ];
    draw_curves(
        &left,
        titles,
        &threads,
        &curves(&|calls, peer| thousands(calls.rates[peer])),
    )?;
    let titles = [
        "The slowest in a thousand",
        "threads, on four connections",
        "p99.9 of a call, ms",
    ];
    draw_logarithmic(
        &right,
        titles,
        &threads,
        &curves(&|calls, peer| calls.tails[peer]),
    )?;
    Ok(root.present()?)
}

/// As `draw_curves`, with a logarithmic axis.
fn draw_logarithmic(
    area: &Area<'_>,
    [caption, x, y]: [&str; 3],
    counts: &[usize],
    curves: &[Curve],
) -> Result {
    let medians = || {
        curves
            .iter()
            .flat_map(|curve| &curve.values)
            .map(|value| value.median)
    };
    let top = 10.0 * medians().fold(0.0, f64::max);
    let bottom = medians().fold(f64::MAX, f64::min) / 2.0;
    let right = counts.len() as f64;
    let mut chart = builder(area, caption)
        .build_cartesian_2d((-1.0..right).step(1.0), (bottom..top).log_scale())?;
    let label = |x: &f64| {
        let mut places = counts.iter().enumerate();
        let here = places.find(|(place, _)| (*place as f64 - x).abs() < 0.01);
        here.map_or_else(String::new, |(_, count)| count.to_string())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&label)
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    for curve in curves {
        let Curve { name, color, .. } = *curve;
        let line = curve
            .values
            .iter()
            .enumerate()
            .map(|(x, y)| (x as f64, y.median));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(swatch(color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

fn draw_rates(area: &Area<'_>, caption: &str, rates: &[Rates]) -> Result {
    let curve = |name, color, pick: fn(&Rates) -> Spread| Curve {
        name,
        color,
        values: rates.iter().map(|rates| thousands(pick(rates))).collect(),
    };
    let curves = [
        curve("jackpot", JACKPOT, |rates| rates.jackpot),
        curve("r2d2", R2D2, |rates| rates.r2d2),
        curve("channel", CHANNEL, |rates| rates.channel),
    ];
    let threads: Vec<usize> = rates.iter().map(|rates| rates.threads).collect();
    let titles = [
        &format!("Throughput, {caption}"),
        "threads, on four connections",
        "thousand leases per second",
    ];
    draw_curves(area, titles, &threads, &curves)
}

fn thousands(rate: Spread) -> Spread {
    Spread {
        median: rate.median / 1e3,
        low: rate.low / 1e3,
        high: rate.high / 1e3,
        ..rate
    }
}

/// Points joined by lines, each with its range, over equally spaced counts.
///
/// The titles are the plot's, the horizontal and the vertical axis's.
fn draw_curves(
    area: &Area<'_>,
    [caption, x, y]: [&str; 3],
    counts: &[usize],
    curves: &[Curve],
) -> Result {
    let medians = curves.iter().flat_map(|curve| &curve.values);
    let top = 1.5 * medians.map(|value| value.median).fold(0.0, f64::max);
    let right = counts.len() as f64;
    let mut chart = builder(area, caption).build_cartesian_2d((-1.0..right).step(1.0), 0.0..top)?;
    let label = |x: &f64| {
        let mut places = counts.iter().enumerate();
        let here = places.find(|(place, _)| (*place as f64 - x).abs() < 0.01);
        here.map_or_else(String::new, |(_, count)| count.to_string())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&label)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for curve in curves {
        let Curve { name, color, .. } = *curve;
        let points = || curve.values.iter().enumerate().map(|(x, y)| (x as f64, y));
        let line = points().map(|(x, y)| (x, y.median));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(swatch(color));
        chart.draw_series(
            points().map(|(x, y)| PathElement::new(vec![(x, y.low), (x, y.high.min(top))], color)),
        )?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// The share of waits that took longer, both axes logarithmic.
fn draw_distribution(area: &Area<'_>, waits: &Waits) -> Result {
    let caption = format!("Waits, {} threads on four connections", waits.threads);
    let (most, least) = (1e-5, 1.0);
    let mut chart = builder(area, &caption)
        .build_cartesian_2d((1e-4..1e4_f64).log_scale(), (most..least).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("wait, ms")
        .y_desc("share of leases that waited longer")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    for (name, color, histogram) in [
        ("jackpot", JACKPOT, &waits.jackpot),
        ("r2d2", R2D2, &waits.r2d2),
        ("channel", CHANNEL, &waits.channel),
    ] {
        let line = shares(histogram).filter(|&(_, share)| share >= most);
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(name)
            .legend(swatch(color));
    }
    legend(&mut chart, SeriesLabelPosition::LowerLeft)
}

/// Milliseconds, and the share of waits that were longer.
fn shares(histogram: &Histogram<u64>) -> impl Iterator<Item = (f64, f64)> + '_ {
    const POINTS: u32 = 200;
    // Evenly spaced on a logarithmic axis, down to one in a hundred thousand.
    (0..=POINTS).map(|point| {
        let share = 10_f64.powf(-5.0 * f64::from(point) / f64::from(POINTS));
        let wait = histogram.value_at_quantile(1.0 - share) as f64 / 1e6;
        (wait, share)
    })
}

fn draw_burst(jackpot: &Burst, r2d2: &Burst, file: &Path) -> Result {
    let root = canvas(file)?;
    let (left, right) = root.split_horizontally(480);
    let callers = [
        ("jackpot", JACKPOT, steps(0.0, &jackpot.served)),
        ("r2d2", R2D2, steps(0.0, &r2d2.served)),
    ];
    draw_steps(&left, "Burst: callers served", callers, 52.0)?;
    let connects = [
        ("jackpot", JACKPOT, steps(5.0, &jackpot.connects)),
        ("r2d2", R2D2, steps(5.0, &r2d2.connects)),
    ];
    draw_steps(
        &right,
        "Burst: connects begun, with the 5 idle",
        connects,
        52.0,
    )?;
    Ok(root.present()?)
}

/// A count that rises by one at each of these times.
fn steps(from: f64, times: &[f64]) -> Vec<(f64, f64)> {
    let mut points = vec![(0.0, from)];
    for (count, &time) in times.iter().enumerate() {
        let before = from + count as f64;
        points.extend([(time, before), (time, before + 1.0)]);
    }
    points
}

type Steps = (&'static str, RGBColor, Vec<(f64, f64)>);

fn draw_steps(area: &Area<'_>, caption: &str, curves: [Steps; 2], top: f64) -> Result {
    let last = |points: &[(f64, f64)]| points.last().map_or(0.0, |point| point.0);
    let end = curves
        .iter()
        .map(|curve| last(&curve.2))
        .fold(0.0, f64::max)
        * 1.1;
    let mut chart = builder(area, caption).build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("ms since the burst")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (name, color, mut points) in curves {
        points.push((end, points.last().map_or(0.0, |point| point.1)));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(swatch(color));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

const COLORS: [RGBColor; 7] = [
    JACKPOT,
    R2D2,
    CHANNEL,
    RGBColor(0xd9, 0x8e, 0x04),
    RGBColor(0x7a, 0x4f, 0xa0),
    RGBColor(0x1b, 0x99, 0x8b),
    RGBColor(0x77, 0x77, 0x77),
];

/// Curves over counts, both axes logarithmic.
fn draw_growth(area: &Area<'_>, [caption, x, y]: [&str; 3], curves: &[Growth]) -> Result {
    let values = || curves.iter().flat_map(|curve| &curve.costs);
    let right = values().map(|(count, _)| *count).max().unwrap_or(1) as f64;
    let top = values().map(|(_, cost)| cost.median).fold(0.0, f64::max) * 30.0;
    let bottom = values().map(|(_, cost)| cost.median).fold(top, f64::min) / 2.0;
    let mut chart = builder(area, caption)
        .build_cartesian_2d((0.8..right * 1.3).log_scale(), (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    for (curve, color) in curves.iter().zip(COLORS) {
        let points = || curve.costs.iter().map(|&(x, y)| (x as f64, y));
        let line = points().map(|(x, y)| (x, y.median));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(curve.name)
            .legend(swatch(color));
        chart.draw_series(points().map(|(x, y)| {
            let ends = [y.low.max(bottom), y.high.min(top)];
            PathElement::new(ends.map(|end| (x, end)).to_vec(), color)
        }))?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

fn draw_split(area: &Area<'_>, work: &str, curves: &[Growth]) -> Result {
    let counts: Vec<usize> = curves[0].costs.iter().map(|(count, _)| *count).collect();
    let curves: Vec<Curve> = curves
        .iter()
        .zip(COLORS)
        .map(|(curve, color)| Curve {
            name: curve.name,
            color,
            values: curve.costs.iter().map(|(_, rate)| *rate).collect(),
        })
        .collect();
    let titles = [
        &format!("8 connections in 1 to 8 pools, {work}"),
        "threads",
        "thousand leases per second",
    ];
    draw_curves(area, titles, &counts, &curves)
}

fn draw_goodput(curves: &[Growth], file: &Path) -> Result {
    let root = canvas(file)?;
    let right = curves[0].costs.iter().map(|(load, _)| *load).max();
    let right = right.unwrap_or(100) as f64;
    let caption = "Goodput: a server for 800 requests in a second, callers that wait for 100 ms";
    let mut chart = builder(&root, caption).build_cartesian_2d(0.0..right * 1.05, 0.0..115.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("offered load, per cent of the capacity")
        .y_desc("answers in time, per cent of the capacity")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    let ideal = [(0.0, 0.0), (100.0, 100.0), (right, 100.0)];
    let grey = RGBColor(0x99, 0x99, 0x99);
    chart
        .draw_series(LineSeries::new(ideal, grey.stroke_width(1)))?
        .label("what could be answered")
        .legend(swatch(grey));
    for (curve, color) in curves.iter().zip(COLORS) {
        let points = || curve.costs.iter().map(|&(x, y)| (x as f64, y));
        let line = points().map(|(x, y)| (x, y.median));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(curve.name)
            .legend(swatch(color));
        chart.draw_series(
            points().map(|(x, y)| PathElement::new(vec![(x, y.low), (x, y.high)], color)),
        )?;
    }
    legend(&mut chart, SeriesLabelPosition::MiddleRight)?;
    Ok(root.present()?)
}

fn canvas(file: &Path) -> Result<Area<'_>> {
    let root = SVGBackend::new(file, (960, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

fn builder<'a, 'b>(area: &'a Area<'b>, caption: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60);
    builder
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Result
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

fn swatch(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2))
}
