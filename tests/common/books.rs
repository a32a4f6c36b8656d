//! What the numbers of every pool add up to, in every snapshot.

use jackpot::{Eviction, Stats};

/// What does not add up.
pub(crate) fn imbalance(stats: &Stats) -> Option<String> {
    let evicted: u64 = Eviction::all().map(|why| stats.evicted(why)).sum();
    let sums = [
        (
            "open",
            stats.open as u64,
            (stats.idle + stats.leased) as u64,
        ),
        (
            "connects",
            stats.connects,
            stats.releases + stats.open as u64,
        ),
        ("releases", stats.releases, evicted),
    ];
    let wrong = sums.into_iter().find(|(_, total, parts)| total != parts)?;
    Some(format!("{wrong:?}: {stats}"))
}

/// The sums that hold at any time.
#[track_caller]
pub(crate) fn assert_sums(stats: &Stats) {
    assert_eq!(imbalance(stats), None);
}

/// The sums, and nobody has, makes or waits for a connection.
#[track_caller]
pub(crate) fn assert_at_rest(stats: &Stats) {
    assert_sums(stats);
    let busy = (stats.leased, stats.connecting, stats.waiting);
    assert_eq!(busy, (0, 0, 0), "{stats}");
}

/// The sums of a pool that has ended and of which nothing is left.
#[track_caller]
pub(crate) fn assert_over(stats: &Stats) {
    assert_at_rest(stats);
    assert_eq!((stats.open, stats.connects), (0, stats.releases), "{stats}");
}
