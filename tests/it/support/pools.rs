//! What pools hold, and what became of their connections.

use std::time::Duration;

use jackpot::{Backoff, Connection, Eviction, Pool};

/// The one connection that this pool has made is idle again.
#[track_caller]
pub(crate) fn assert_back<C: Send + 'static>(pool: &Pool<C>) {
    let stats = pool.stats();
    assert_eq!(
        (stats.idle, stats.open, stats.releases),
        (1, 1, 0),
        "{stats}"
    );
}

/// The one connection that this pool has made has left it, for this reason.
#[track_caller]
pub(crate) fn assert_left<C: Send + 'static>(pool: &Pool<C>, why: Eviction) {
    let stats = pool.stats();
    let found = (stats.evicted(why), stats.releases, stats.open);
    assert_eq!(found, (1, 1, 0), "not only {why}: {stats}");
}

/// One retry after a moment: for tests of what happens when `pull` gives up.
pub(crate) fn one_retry() -> Backoff {
    Backoff::new()
        .retries(1)
        .min(Duration::from_millis(10))
        .max(Duration::from_millis(20))
}

/// So many leases, in the order in which their connections were made.
pub(crate) fn lease<C: Send + 'static>(pool: &Pool<C>, count: usize) -> Vec<Connection<C>> {
    let mut leases: Vec<_> = (0..count).map(|_| pool.allocate().unwrap()).collect();
    leases.sort_by_key(Connection::id);
    leases
}

/// The connections that are idle, by their numbers.
pub(crate) fn idle<C: Send + 'static>(pool: &Pool<C>) -> Vec<u64> {
    let mut ids: Vec<u64> = pool
        .connections()
        .iter()
        .filter(|connection| connection.state == jackpot::State::Idle)
        .map(|connection| connection.id)
        .collect();
    ids.sort_unstable();
    ids
}
