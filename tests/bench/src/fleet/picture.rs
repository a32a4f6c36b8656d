//! The plots: when the fleet connects, and when it is back.

use std::error::Error;
use std::fs;
use std::path::Path;

use jackpot::Jitter;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::simulation::RETURN;
use crate::{CLIENTS, Row};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Curve = (String, RGBColor, Vec<(f64, f64)>);

const COLORS: [RGBColor; 4] = [
    RGBColor(0x55, 0x55, 0x55),
    RGBColor(0xc2, 0x3b, 0x22),
    RGBColor(0x1f, 0x5f, 0xa8),
    RGBColor(0x6a, 0x8f, 0x3c),
];

/// Draws both plots into this folder, from the first run of each row.
pub(crate) fn draw(rows: &[Row], folder: &Path) -> Result {
    fs::create_dir_all(folder)?;
    let (alone, pools) = rows.split_at(4);
    let by_jitter = |pick: fn(&Row) -> Vec<(f64, f64)>| -> Vec<Curve> {
        let rows = alone.iter().zip(COLORS);
        rows.map(|(row, color)| (format!("{:?}", row.jitter), color, pick(row)))
            .collect()
    };
    // The pools' rows hardly differ by jitter: the default's stand for all.
    let by_shape = |pick: fn(&Row) -> Vec<(f64, f64)>| -> Vec<Curve> {
        let rows = pools.iter().filter(|row| row.jitter == Jitter::Equal);
        let rows = rows.zip(&COLORS[1..]);
        rows.map(|(row, &color)| (row.name.to_owned(), color, pick(row)))
            .collect()
    };

    let file = folder.join("fleet-connects.svg");
    let (left, right, root) = halves(&file)?;
    draw_connects(&left, "Connects, backoff alone", &by_jitter(connects))?;
    draw_connects(
        &right,
        "Connects, with the pool's gate",
        &by_shape(connects),
    )?;
    root.present()?;

    let file = folder.join("fleet-back.svg");
    let (left, right, root) = halves(&file)?;
    draw_back(&left, "Back, backoff alone", 90.0, &by_jitter(back))?;
    draw_back(&right, "Back, with the pool's gate", 30.0, &by_shape(back))?;
    Ok(root.present()?)
}

fn halves(file: &Path) -> Result<(Area<'_>, Area<'_>, Area<'_>)> {
    let root = SVGBackend::new(file, (960, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(480);
    Ok((left, right, root))
}

/// Seconds, and the connects begun in each; none counts as one half, for the logarithm's sake.
fn connects(row: &Row) -> Vec<(f64, f64)> {
    let seconds = row.outcomes[0].begun.chunks(10).enumerate();
    seconds
        .map(|(second, tenths)| {
            let begun: u32 = tenths.iter().sum();
            (second as f64 + 0.5, f64::from(begun).max(0.5))
        })
        .collect()
}

/// Seconds since the return, and the per cent of all clients that are back.
fn back(row: &Row) -> Vec<(f64, f64)> {
    let back = &row.outcomes[0].back;
    let each = (back.len() / 400).max(1);
    let mut points = vec![(0.0, 0.0)];
    points.extend(
        back.iter()
            .enumerate()
            .step_by(each)
            .map(|(count, ms)| (ms / 1_000.0, count as f64 / f64::from(CLIENTS) * 100.0)),
    );
    points.extend(back.last().map(|ms| (ms / 1_000.0, 100.0)));
    points
}

fn draw_connects(area: &Area<'_>, caption: &str, curves: &[Curve]) -> Result {
    let end = 150.0;
    let mut chart =
        builder(area, caption).build_cartesian_2d(0.0..end, (0.5..1e6_f64).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the server went away; it is back after 60")
        .y_desc("connects begun in each second")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    let home = f64::from(RETURN) / 1_000.0;
    chart.draw_series([PathElement::new(vec![(home, 0.5), (home, 1e6)], BLACK)])?;
    for (name, color, points) in curves {
        let line = points.iter().copied().filter(|&(x, _)| x <= end);
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(name)
            .legend(swatch(*color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

fn draw_back(area: &Area<'_>, caption: &str, end: f64, curves: &[Curve]) -> Result {
    let mut chart = builder(area, caption).build_cartesian_2d(0.0..end, 0.0..102.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the server came back")
        .y_desc("per cent of clients that are back")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (name, color, points) in curves {
        let mut line: Vec<_> = points.iter().copied().filter(|&(x, _)| x <= end).collect();
        line.extend(line.last().map(|&(_, share)| (end, share)));
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(name)
            .legend(swatch(*color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

fn builder<'a, 'b>(area: &'a Area<'b>, caption: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70);
    builder
}

fn swatch(color: RGBColor) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2))
}
