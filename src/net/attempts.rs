//! In which order a name's addresses are tried, and how much time each of them gets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What each address gets at least: enough for a handshake to the other side of the world.
const LEAST_SHARE: Duration = Duration::from_millis(250);
/// A failed address is avoided for so many times what its failure took, ...
const AVOIDED_TIMES: u32 = 100;
/// ... and at least for so long.
const AVOIDED_LEAST: Duration = Duration::from_secs(1);

/// How long the next address may take, with so much time and so many addresses left.
///
/// An even share; but among forty addresses that is too short for a distant one to answer.
pub(crate) fn share(left: Duration, untried: usize) -> Duration {
    let untried = u32::try_from(untried).unwrap_or(u32::MAX).max(1);
    (left / untried).max(LEAST_SHARE).min(left)
}

/// The addresses that failed lately, in the order in which they failed.
///
/// They are tried after all others, so a dead address costs its share of the time once and not at
/// each connect. A failure is forgotten after a hundred times as long as it took, and no sooner than
/// after a second: so a server that is back is used again, and looking whether it is costs a
/// hundredth of the time at most.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Failure>);

#[derive(Debug)]
struct Failure {
    address: SocketAddr,
    /// When it is forgotten; `None` where that is beyond the clock's range.
    until: Option<Instant>,
}

impl Failures {
    /// The addresses in the order in which to try them, those that failed last.
    ///
    /// Of the others the one at `start`, counted modulo their number, comes first.
    pub(crate) fn order(
        &mut self,
        addresses: Vec<SocketAddr>,
        start: u64,
        now: Instant,
    ) -> Vec<SocketAddr> {
        self.0
            .retain(|failure| failure.until.is_none_or(|until| now < until));
        let rank = |address: &SocketAddr| self.0.iter().position(|f| f.address == *address);
        let (mut failed, mut order): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|address| rank(address).is_some());
        if let Ok(start) = usize::try_from(start % order.len().max(1) as u64) {
            order.rotate_left(start);
        }
        failed.sort_by_key(rank);
        order.append(&mut failed);
        order
    }

    pub(crate) fn failed(&mut self, address: SocketAddr, took: Duration, now: Instant) {
        self.worked(address);
        let avoided = took.saturating_mul(AVOIDED_TIMES).max(AVOIDED_LEAST);
        self.0.push(Failure {
            address,
            until: now.checked_add(avoided),
        });
    }

    pub(crate) fn worked(&mut self, address: SocketAddr) {
        self.0.retain(|failure| failure.address != address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        let address = |&port| SocketAddr::from(([127, 0, 0, 1], port));
        ports.iter().map(address).collect()
    }

    fn address(port: u16) -> SocketAddr {
        addresses(&[port])[0]
    }

    #[test]
    fn forty_addresses_had_an_eighth_of_a_second_each() {
        let mut left = 5 * SECOND;
        for untried in (21..=40).rev() {
            assert_eq!(share(left, untried), LEAST_SHARE);
            left -= LEAST_SHARE;
        }
        assert_eq!(left, Duration::ZERO);
    }

    #[test]
    fn few_addresses_share_the_time_evenly() {
        assert_eq!(share(6 * SECOND, 3), 2 * SECOND);
        assert_eq!(share(6 * SECOND, 1), 6 * SECOND);
        assert_eq!(share(SECOND / 10, 2), SECOND / 10);
        assert_eq!(share(Duration::MAX, usize::MAX), Duration::MAX / u32::MAX);
    }

    #[test]
    fn what_failed_last_is_tried_last() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let all = || addresses(&[1, 2, 3]);
        assert_eq!(failures.order(all(), 0, now), all());
        failures.failed(address(1), SECOND, now);
        assert_eq!(failures.order(all(), 0, now), addresses(&[2, 3, 1]));
        failures.failed(address(2), SECOND, now);
        assert_eq!(failures.order(all(), 0, now), addresses(&[3, 1, 2]));
        failures.failed(address(1), SECOND, now);
        assert_eq!(failures.order(all(), 0, now), addresses(&[3, 2, 1]));
        failures.worked(address(2));
        assert_eq!(failures.order(all(), 0, now), addresses(&[2, 3, 1]));
    }

    #[test]
    fn a_failure_is_forgotten_after_a_hundred_times_its_cost() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        failures.failed(address(1), 2 * SECOND, now);
        failures.failed(address(2), SECOND / 1000, now);
        for (later, expected) in [
            (SECOND * 9 / 10, [3, 1, 2]),
            (SECOND, [2, 3, 1]),
            (199 * SECOND, [2, 3, 1]),
            (200 * SECOND, [1, 2, 3]),
        ] {
            let order = failures.order(addresses(&[1, 2, 3]), 0, now + later);
            assert_eq!(order, addresses(&expected), "after {later:?}");
        }
        assert!(failures.0.is_empty());
    }

    #[test]
    fn a_random_start_skips_what_failed() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        failures.failed(address(2), SECOND, now);
        for (start, expected) in [(0, [1, 3, 2]), (1, [3, 1, 2]), (u64::MAX, [3, 1, 2])] {
            let order = failures.order(addresses(&[1, 2, 3]), start, now);
            assert_eq!(order, addresses(&expected));
        }
        assert_eq!(failures.order(Vec::new(), 7, now), []);
        assert_eq!(failures.order(addresses(&[2]), 7, now), addresses(&[2]));
    }
}
