//! The plots, from what the rows leave here.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::Spread;
use crate::rows::burst::Burst;
use crate::rows::shared::{Rates, Waits};
use crate::rows::size::Cost;

/// What the rows have measured that is worth a picture.
#[derive(Debug, Default)]
pub(crate) struct Plots {
    /// Without work, and with one echo.
    pub(crate) unworked: Vec<Rates>,
    pub(crate) rates: Vec<Rates>,
    pub(crate) waits: Vec<Waits>,
    pub(crate) sizes: Vec<Cost>,
    /// jackpot's and r2d2's.
    pub(crate) bursts: Option<(Burst, Burst)>,
}

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A curve: its name, its colour, and its points with their ranges.
struct Curve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, Spread)>,
}

/// What stands along an axis.
struct Axis {
    title: &'static str,
    range: Range<f64>,
}

const JACKPOT: RGBColor = RGBColor(0xc2, 0x3b, 0x22);
const R2D2: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
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
        if !self.sizes.is_empty() {
            self.draw_sizes(&folder.join("sizes.svg"))?;
        }
        if let Some((jackpot, r2d2)) = &self.bursts {
            draw_burst(jackpot, r2d2, &folder.join("burst.svg"))?;
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
            points: self
                .sizes
                .iter()
                .map(|cost| (cost.connections as f64, pick(cost)))
                .collect(),
        };
        let curves = [
            curve("jackpot", JACKPOT, |cost| cost.jackpot),
            curve("r2d2", R2D2, |cost| cost.r2d2),
        ];
        let x = Axis {
            title: "idle connections",
            range: 8.0..13_000.0,
        };
        let y = Axis {
            title: "ns for one pull and drop",
            range: 0.0..1.2 * highest(&curves),
        };
        draw_curves(&root, "Cost by pool size, one thread", x, y, &curves)?;
        Ok(root.present()?)
    }
}

fn draw_rates(area: &Area<'_>, caption: &str, rates: &[Rates]) -> Result {
    let curve = |name, color, pick: fn(&Rates) -> Spread| Curve {
        name,
        color,
        points: rates
            .iter()
            .map(|rates| (rates.threads as f64, thousands(pick(rates))))
            .collect(),
    };
    let curves = [
        curve("jackpot", JACKPOT, |rates| rates.jackpot),
        curve("r2d2", R2D2, |rates| rates.r2d2),
        curve("channel", CHANNEL, |rates| rates.channel),
    ];
    let x = Axis {
        title: "threads, on four connections",
        range: 1.8..72.0,
    };
    let y = Axis {
        title: "thousand leases per second",
        range: 0.0..1.2 * highest(&curves),
    };
    draw_curves(area, &format!("Throughput, {caption}"), x, y, &curves)
}

fn thousands(Spread { median, low, high }: Spread) -> Spread {
    Spread {
        median: median / 1e3,
        low: low / 1e3,
        high: high / 1e3,
    }
}

fn highest(curves: &[Curve]) -> f64 {
    let all = curves.iter().flat_map(|curve| &curve.points);
    all.map(|(_, spread)| spread.high).fold(0.0, f64::max)
}

/// Points joined by lines, each with its range; the horizontal axis is logarithmic.
fn draw_curves(area: &Area<'_>, caption: &str, x: Axis, y: Axis, curves: &[Curve]) -> Result {
    let mut chart = builder(area, caption).build_cartesian_2d(x.range.log_scale(), y.range)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(x.title)
        .y_desc(y.title)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for Curve {
        name,
        color,
        points,
    } in curves
    {
        let line = points.iter().map(|&(x, spread)| (x, spread.median));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(swatch(*color));
        chart.draw_series(points.iter().map(|&(x, spread)| {
            PathElement::new(vec![(x, spread.low), (x, spread.high)], *color)
        }))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
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
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
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
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
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

fn swatch(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2))
}
