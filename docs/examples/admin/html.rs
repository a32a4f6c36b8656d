//! The page: what is in `page.html`, filled in.

use std::fmt::Write;
use std::net::SocketAddr;

use jackpot::{ConnectionInfo, Eviction, Pool, State, Stats};

use crate::metrics::{Number, counters, gauges};

pub(crate) fn page<C: Send + 'static>(pool: &Pool<C>) -> String {
    let stats = pool.stats();
    let (class, condition) = match stats {
        _ if pool.is_ended() => ("bad", "ended"),
        Stats { limit: 0, .. } => ("busy", "suspended: the limit is 0"),
        Stats { waiting: 1.., .. } => ("busy", "running, and threads wait"),
        _ => ("good", "running"),
    };
    let now = gauges(&stats);
    let tiles: Vec<String> = now[..6].iter().map(tile).collect();
    let rows: Vec<String> = counters(&stats).iter().chain(&now[6..]).map(row).collect();
    include_str!("page.html")
        .replace("{class}", class)
        .replace("{condition}", condition)
        .replace("{bar}", &bar(&stats))
        .replace("{tiles}", &tiles.concat())
        .replace("{connections}", &connections(pool.connections()))
        .replace("{counters}", &rows.concat())
        .replace("{evictions}", &evictions(&stats))
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

fn tile(
    Number {
        name,
        value,
        meaning,
    }: &Number,
) -> String {
    format!(
        r#"<div class="tile {name}"><b id="{name}">{value}</b><h3>{name}</h3><p>{meaning}</p></div>"#
    )
}

fn row(
    Number {
        name,
        value,
        meaning,
    }: &Number,
) -> String {
    let title = name.trim_end_matches("_total").replace('_', " ");
    format!(r#"<tr><th>{title}</th><td id="{name}">{value}</td><td>{meaning}</td></tr>"#)
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
        let _ = write!(
            rows,
            r#"<tr><td>{}</td><td><mark class="{state}">{state}</mark> {:.1} s</td>
            <td>{:.1} s</td><td>{}</td><td>{}</td><td>{}</td></tr>"#,
            connection.id,
            connection.in_state.as_secs_f64(),
            connection.age.as_secs_f64(),
            connection.leases,
            address(connection.local),
            address(connection.peer),
        );
    }
    if rows.is_empty() {
        rows += r#"<tr><td class="none" colspan="6">There is none: the next caller makes one.</td></tr>"#;
    }
    rows
}

fn address(known: Option<SocketAddr>) -> String {
    known.map_or("–".to_owned(), |address| address.to_string())
}
