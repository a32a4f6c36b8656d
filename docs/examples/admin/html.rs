//! The page: what is in `page.html`, filled in.

use std::error::Error;
use std::fmt::{Display, Write};
use std::net::SocketAddr;

use jackpot::{ConnectionInfo, Eviction, Outage, State, Stats};

use crate::Site;

pub(crate) fn page(site: &Site) -> String {
    let stats = site.pool.stats();
    let outage = site.pool.outage();
    let (class, condition) = match stats {
        _ if site.pool.is_ended() => ("bad", "ended"),
        _ if outage.is_some() => ("bad", "the server is away"),
        Stats { limit: 0, .. } => ("busy", "suspended: the limit is 0"),
        Stats { waiting: 1.., .. } => ("busy", "running, and threads wait"),
        _ => ("good", "running"),
    };
    let banner = outage.map_or(String::new(), |outage| banner(&site.upstream, &outage));
    include_str!("page.html")
        .replace("{class}", class)
        .replace("{condition}", condition)
        .replace("{banner}", &banner)
        .replace("{limit}", &stats.limit.to_string())
        .replace("{bar}", &bar(&stats))
        .replace("{tiles}", &tiles(&stats))
        .replace("{pictures}", &site.history().pictures())
        .replace("{counters}", &counters(&stats))
        .replace("{evictions}", &evictions(&stats))
        .replace("{connections}", &connections(site.pool.connections()))
}

fn banner(upstream: &str, outage: &Outage) -> String {
    let first: &dyn Error = &*outage.error;
    let causes = std::iter::successors(Some(first), |&cause| cause.source());
    let causes: Vec<String> = causes.map(text).collect();
    format!(
        r#"<p id="outage" role="alert">No connection to <b>{}</b> for {:.0} s, in {} tries. <span>{}</span></p>"#,
        text(upstream),
        outage.since.elapsed().as_secs_f64(),
        outage.failures,
        causes.join(": "),
    )
}

/// How the limit is used up, to scale.
fn bar(stats: &Stats) -> String {
    let used = stats.open + stats.connecting;
    let parts = [
        ("leased", stats.leased),
        ("idle", stats.idle),
        ("connecting", stats.connecting),
        ("free", stats.limit.saturating_sub(used)),
    ];
    let part = |(class, count)| format!(r#"<i class="{class}" style="flex:{count}"></i>"#);
    parts.map(part).concat()
}

/// How it stands.
fn tiles(stats: &Stats) -> String {
    let tile = |(name, value, meaning)| {
        format!(
            r#"<div class="tile {name}"><b id="{name}">{value}</b><h3>{name}</h3><p>{meaning}</p></div>"#
        )
    };
    [
        ("limit", stats.limit, "connections it may have"),
        ("open", stats.open, "connections it has: idle and leased"),
        ("idle", stats.idle, "wait for somebody to use them"),
        ("leased", stats.leased, "are in use right now"),
        ("connecting", stats.connecting, "are being made"),
        (
            "waiting",
            stats.waiting,
            "threads that wait for a connection",
        ),
    ]
    .map(tile)
    .concat()
}

/// What only ever grows.
fn counters(stats: &Stats) -> String {
    let row = |(name, value, meaning): (&str, u64, _)| {
        let title = name.replace('-', " ");
        format!(r#"<tr><th>{title}</th><td id="{name}">{value}</td><td>{meaning}</td></tr>"#)
    };
    let times = |(title, times): (_, &jackpot::Histogram)| {
        format!(
            "<tr><th>{title}</th><td>{:.1?}</td><td>p99 {:.1?}, {:.1?} at most</td></tr>",
            times.quantile(0.5),
            times.quantile(0.99),
            times.max()
        )
    };
    [
        (
            "allocations",
            stats.allocations,
            "times a connection was handed out",
        ),
        ("connects", stats.connects, "connections that were made"),
        (
            "failed-connects",
            stats.connect_failures,
            "could not be made",
        ),
        ("releases", stats.releases, "connections that left the pool"),
        ("waits", stats.waits, "times a thread had to wait for one"),
        ("timeouts", stats.timeouts, "got none in time"),
        ("refusals", stats.refusals, "found too many waiting already"),
    ]
    .map(row)
    .concat()
        + &[
            ("a wait, p50", &stats.wait_times),
            ("a connect, p50", &stats.connect_times),
            ("a lease, p50", &stats.lease_times),
        ]
        .map(times)
        .concat()
}

fn evictions(stats: &Stats) -> String {
    let mut rows = String::new();
    for why in Eviction::all().filter(|why| stats.evicted(*why) > 0) {
        let count = stats.evicted(why);
        let _ = write!(rows, "<tr><th>{why}</th><td>{count}</td></tr>");
    }
    if rows.is_empty() {
        rows += r#"<tr><td class="none">No connection has left the pool yet.</td></tr>"#;
    }
    rows
}

fn connections(mut all: Vec<ConnectionInfo>) -> String {
    all.sort_by_key(|connection| connection.id);
    let mut rows = String::new();
    for connection in all {
        let state = match connection.state {
            State::Connecting => "connecting",
            State::Idle => "idle",
            State::Leased => "leased",
            _ => "other",
        };
        let taken_at = connection.taken_at.map_or("–".to_owned(), |at| {
            format!("{}:{}", text(at.file()), at.line())
        });
        let _ = write!(
            rows,
            r#"<tr><td data-name="number">{}</td>
            <td data-name="state"><mark class="{state}">{state}</mark> {:.1} s</td>
            <td data-name="taken at" class="site">{taken_at}</td>
            <td data-name="age">{:.1} s</td><td data-name="times used">{}</td>
            <td data-name="our end">{}</td><td data-name="server's end">{}</td></tr>"#,
            connection.id,
            connection.in_state.as_secs_f64(),
            connection.age.as_secs_f64(),
            connection.leases,
            address(connection.local),
            address(connection.peer),
        );
    }
    if rows.is_empty() {
        rows += r#"<tr><td class="none" colspan="7">There is none: the next caller makes one.</td></tr>"#;
    }
    rows
}

fn address(known: Option<SocketAddr>) -> String {
    known.map_or("–".to_owned(), |address| address.to_string())
}

/// What others have written, so that it stays text.
fn text(foreign: &(impl Display + ?Sized)) -> String {
    let text = foreign.to_string();
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('"', "&quot;")
}
