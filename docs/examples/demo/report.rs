//! What is printed: the progress and the summary.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jackpot::{Eviction, Stats};

use crate::args::Args;
use crate::load::{Books, Load};
use crate::server::Unruly;

pub(crate) type Histogram = hdrhistogram::Histogram<u64>;

/// For nanoseconds up to a minute, to three digits.
pub(crate) fn histogram() -> Histogram {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are valid")
}

/// Prints a line; that nobody reads it any more is no reason to stop.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints over the line before; a terminal that is too narrow shows its beginning.
pub(crate) fn redraw(text: &str) {
    let mut out = io::stdout();
    let _ = write!(out, "\r\x1b[?7l{text}\x1b[K\x1b[?7h");
    let _ = out.flush();
}

pub(crate) fn opening(args: &Args) -> String {
    let server = match &args.connect {
        Some(address) => format!("{address} ({})", args.protocol),
        None => format!("an unruly server (seed {})", args.seed),
    };
    format!(
        "{} threads, {} connections at most, {} s, against {server}",
        args.threads,
        args.limit,
        args.duration().as_secs()
    )
}

pub(crate) fn progress(load: &Load, elapsed: Duration) -> String {
    let stats = load.pool.stats();
    let mut line = format!(
        "{:5.1} s  {:>9} ok  {:>5} failed | {:>2} open {:>2} idle {:>2} leased {:>2} waiting",
        elapsed.as_secs_f64(),
        grouped(load.tally.answered.load(Relaxed)),
        grouped(load.tally.failed()),
        stats.open,
        stats.idle,
        stats.leased,
        stats.waiting,
    );
    let evicted = evictions(&stats)
        .filter(|&(_, count)| count > 0)
        .map(|(why, count)| format!("{} {why}", grouped(count)))
        .collect::<Vec<_>>();
    if !evicted.is_empty() {
        let _ = write!(line, " | evicted: {}", evicted.join(", "));
    }
    line
}

pub(crate) fn summary(
    load: &Load,
    took: Duration,
    pulls: &Histogram,
    books: &Books,
    server: Option<&Unruly>,
) -> String {
    let mut page = Page::default();
    requests(&mut page, load, took);
    page.title("pull");
    page.row("p50", &brief(pulls.value_at_quantile(0.50)));
    page.row("p99", &brief(pulls.value_at_quantile(0.99)));
    page.row("worst", &brief(pulls.max()));
    connections(&mut page, &books.after);
    if let Some(server) = server {
        page.title("the server");
        page.count("restarted", server.restarts());
        for (what, count) in server.record() {
            page.count(what, count);
        }
    }
    page.title("verdict");
    for (what, left, right) in books.entries() {
        if left != right {
            page.row(what, &format!("{left} and {right}"));
        }
    }
    if let Some(text) = load.tally.first_wrong() {
        page.row("first wrong reply", &text);
    }
    let books = if books.is_balanced() {
        "the books balance"
    } else {
        "THE BOOKS DO NOT BALANCE"
    };
    let replies = match load.tally.wrong() {
        0 => "no wrong reply".to_owned(),
        n => format!("{} WRONG REPLIES", grouped(n)),
    };
    let _ = write!(page.0, "  {replies}, {books}");
    page.0
}

fn requests(page: &mut Page, load: &Load, took: Duration) {
    let tally = &load.tally;
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    let answered = read(&tally.answered);
    page.title("requests");
    page.count("answered", answered);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is shown to the nearest whole number"
    )]
    let rate = (answered as f64 / took.as_secs_f64()).round() as u64;
    page.count("answered per second", rate);
    page.count("failed: connection lost", read(&tally.lost));
    page.count("failed: no reply in time", read(&tally.timed_out));
    page.count("failed: no connection", read(&tally.no_connection));
    page.count("failed: refused", read(&tally.refused));
    page.count("broken off by the caller", read(&tally.broken_off));
    page.count("wrong reply", tally.wrong());
}

fn connections(page: &mut Page, stats: &Stats) {
    page.title("connections");
    page.count("made", stats.connects);
    page.count("failed to connect", stats.connect_failures);
    page.count("evicted", stats.releases);
    for (why, count) in evictions(stats) {
        page.count(&format!("  {why}"), count);
    }
}

fn evictions(stats: &Stats) -> impl Iterator<Item = (Eviction, u64)> {
    Eviction::all().map(|why| (why, stats.evicted(why)))
}

/// Text in two columns.
#[derive(Default)]
struct Page(String);

impl Page {
    fn title(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}");
    }

    fn row(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "  {name:<28} {value:>12}");
    }

    /// A count; none at all is a dot, so that the others stand out.
    fn count(&mut self, name: &str, n: u64) {
        match n {
            0 => self.row(name, "·"),
            n => self.row(name, &grouped(n)),
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn brief(nanoseconds: u64) -> String {
    let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.001 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{:.1} µs", seconds * 1e6)
    }
}
