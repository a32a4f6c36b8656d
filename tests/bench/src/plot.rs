//! The plots, from what the rows leave here.

use std::error::Error;
use std::fs;
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

/// A curve: its name, its colour, and its values with their ranges.
struct Curve {
    name: &'static str,
    color: RGBColor,
    values: Vec<Spread>,
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
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
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
        .position(SeriesLabelPosition::LowerLeft)
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
        .position(SeriesLabelPosition::LowerRight)
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
