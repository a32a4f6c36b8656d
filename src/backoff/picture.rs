//! Draws the picture of the delays in the guide, and checks that it is still the right one.
//!
//! `JACKPOT_DRAW=1 cargo test --lib picture` draws it again.

use std::fmt::Write;
use std::time::Duration;

use super::{Backoff, Delays, Jitter, Random};

const CALLS: u16 = 40;
const END: Duration = Duration::from_secs(160);
const LEFT: f64 = 20.0;
const WIDTH: f64 = 640.0;
const ROW: f64 = 126.0;

/// The bench draws this one; in the guide it comes along in its link, as the other does.
#[test]
fn the_picture_of_the_goodput_in_the_guide_is_the_benchs() {
    let svg = include_str!("../../docs/plots/goodput.svg");
    let link = format!("[goodput]: data:image/svg+xml,{}\n\n", percent(svg));
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let path = format!("{docs}/goodput.svg.md");
    if std::env::var_os("JACKPOT_DRAW").is_some() {
        return std::fs::write(path, link).unwrap();
    }
    let hint = "take it over: JACKPOT_DRAW=1 cargo test --lib picture";
    assert!(link == std::fs::read_to_string(path).unwrap(), "{hint}");
}

#[test]
fn the_picture_in_the_guide_is_what_backoff_draws() {
    let svg = svg();
    let link = format!("[delays]: data:image/svg+xml,{}\n\n", percent(&svg));
    if std::env::var_os("JACKPOT_DRAW").is_some() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
        std::fs::write(format!("{docs}/backoff.svg"), svg).unwrap();
        std::fs::write(format!("{docs}/backoff.svg.md"), link).unwrap();
        return;
    }
    let hint = "draw it again: JACKPOT_DRAW=1 cargo test --lib picture";
    assert!(svg == include_str!("../../docs/backoff.svg"), "{hint}");
    assert!(link == include_str!("../../docs/backoff.svg.md"), "{hint}");
}

/// When each retry of forty calls comes, if all their first tries failed at one instant.
fn svg() -> String {
    let mut svg = String::new();
    svg += "<svg xmlns='http://www.w3.org/2000/svg' width='680' height='540' \
            viewBox='0 0 680 540' font-family='sans-serif' font-size='12'>\n";
    svg += "<rect width='680' height='540' fill='white'/>\n";
    let rows = [
        (Jitter::None, "None: all at once, every time"),
        (
            Jitter::Equal,
            "Equal, the default: half of each delay is chance",
        ),
        (Jitter::Full, "Full: all of each delay above min is chance"),
        (
            Jitter::Decorrelated,
            "Decorrelated: each delay is drawn from the one before",
        ),
    ];
    let mut top = 8.0;
    for (jitter, title) in rows {
        draw_row(&mut svg, jitter, title, top);
        top += ROW;
    }
    for seconds in (0..=160).step_by(20) {
        let at = x(Duration::from_secs(seconds));
        let y = top + 12.0;
        line(
            &mut svg,
            format_args!("<text x='{at:.1}' y='{y:.1}' text-anchor='middle'>{seconds} s</text>"),
        );
    }
    svg += "</svg>\n";
    svg
}

fn draw_row(svg: &mut String, jitter: Jitter, title: &str, top: f64) {
    let baseline = top + 12.0;
    line(
        svg,
        format_args!("<text x='{LEFT}' y='{baseline}'>{title}</text>"),
    );
    let (frame, height) = (top + 18.0, f64::from(CALLS) * 2.5 + 2.0);
    line(
        svg,
        format_args!(
            "<rect x='{LEFT}' y='{frame}' width='{WIDTH}' height='{height}' fill='#f4f4f4'/>"
        ),
    );
    let backoff = Backoff::new().jitter(jitter);
    let mut path = String::new();
    for call in 0..CALLS {
        let delays = Delays {
            random: Random(u64::from(call)),
            ..backoff.delays()
        };
        let y = frame + 1.0 + f64::from(call) * 2.5;
        let mut at = Duration::ZERO;
        for delay in delays {
            at += delay;
            write!(path, "M{:.1} {y:.1}v2", x(at)).unwrap();
        }
    }
    line(
        svg,
        format_args!("<path d='{path}' stroke='#0b5cad' stroke-width='2'/>"),
    );
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").unwrap();
}

fn x(at: Duration) -> f64 {
    LEFT + WIDTH * at.as_secs_f64() / END.as_secs_f64()
}

/// As it may stand in a link.
fn percent(text: &str) -> String {
    let mut link = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:=".contains(&byte) {
            link.push(char::from(byte));
        } else {
            write!(link, "%{byte:02X}").unwrap();
        }
    }
    link
}
