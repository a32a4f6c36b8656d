//! Steps that the walks do not take, each by itself: an abandoned lease, a sweep, what the pool only asks.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::report::error::Error;
use crate::report::event::{Close, Freed};
use crate::report::outcome::{Eviction, PeerSignal};
use crate::state::core::{self, Caller, Readiness, Rules, Turn};
use crate::state::slots::{Lease, SlotKey, Taker};

type Small = core::Core<u64, (), ()>;

fn small(limit: usize) -> Small {
    with_rules(limit, Rules::PLAIN)
}

fn with_rules(limit: usize, rules: Rules) -> Small {
    Small::new(limit, rules, Backoff::new(), Instant::now())
}

fn caller() -> Caller<()> {
    Caller::new((), true, Taker::default())
}

/// A connect is started for a new caller.
fn connecting(core: &mut Small) -> (Caller<()>, SlotKey) {
    let mut caller = caller();
    assert!(matches!(core.enter(&mut caller), Turn::Pending(_)));
    (caller, core.take_effects().connects[0].key)
}

fn leased(core: &mut Small, client: u64) -> Lease<u64> {
    let (mut caller, key) = connecting(core);
    core.connected(key, client, ());
    let Turn::Granted(lease) = core.poll(&mut caller) else {
        panic!("a connection was made");
    };
    core.take_effects();
    lease
}

/// The caller for whom it was made is gone by then.
fn idle(core: &mut Small, client: u64) -> SlotKey {
    let (mut caller, key) = connecting(core);
    core.leave(&mut caller);
    core.connected(key, client, ());
    key
}

fn refused() -> Arc<Error> {
    Arc::new(Error::Connect(io::ErrorKind::ConnectionRefused.into()))
}

#[test]
fn a_connect_that_a_thread_takes_is_started_on_no_other() {
    let mut core = small(1);
    let mut caller = caller();
    assert!(matches!(core.enter(&mut caller), Turn::Pending(_)));
    let connect = core.take_connect().expect("one is to start");
    assert!(core.take_connect().is_none());
    assert!(core.take_effects().connects.is_empty());
    core.connected(connect.key, 1, ());
    assert!(matches!(core.poll(&mut caller), Turn::Granted(_)));
}

#[test]
fn whoever_abandoned_a_lease_finds_its_own_again_once() {
    let mut core = small(2);
    let (first, second) = (leased(&mut core, 1), leased(&mut core, 2));
    core.abandon(first.key, 1);
    assert_eq!(core.take_abandoned(second.key), None);
    core.abandon(second.key, 2);
    assert_eq!(core.take_abandoned(second.key), Some(2));
    assert_eq!(core.take_abandoned(second.key), None);
    assert_eq!(core.take_abandoned(first.key), Some(1));
}

#[test]
fn an_abandoned_lease_makes_way_for_a_caller_that_finds_no_place() {
    let mut core = small(1);
    let lease = leased(&mut core, 1);
    core.abandon(lease.key, 1);
    assert!(core.take_effects().close.is_empty(), "nobody waits");
    core.enter(&mut caller());
    let effects = core.take_effects();
    let closed: Vec<_> = effects.close.iter().map(|closed| closed.why).collect();
    assert_eq!(closed, [Eviction::Unanswered]);
    assert_eq!(effects.connects.len(), 1);
}

#[test]
fn an_abandoned_lease_stays_where_a_connect_serves_those_who_wait() {
    let mut core = small(2);
    let lease = leased(&mut core, 1);
    core.abandon(lease.key, 1);
    connecting(&mut core);
    assert_eq!(core.take_abandoned(lease.key), Some(1));
}

#[test]
fn an_abandoned_lease_is_closed_where_others_are_doomed() {
    let mut core = small(2);
    let (left, held) = (leased(&mut core, 1), leased(&mut core, 2));
    core.abandon(left.key, 1);
    let freed = core.free(0, Close::Soft);
    let expected = Freed {
        kept: 0,
        closed: 1,
        doomed: 1,
    };
    assert_eq!(freed, expected);
    assert!(core.is_doomed(held.key));
    assert_eq!(core.take_abandoned(left.key), None);
}

#[test]
fn a_lower_limit_closes_abandoned_leases_first() {
    let mut core = small(2);
    let (left, held) = (leased(&mut core, 1), leased(&mut core, 2));
    core.abandon(left.key, 1);
    core.set_limit(1);
    assert_eq!(core.take_abandoned(left.key), None);
    assert!(!core.is_doomed(held.key));
}

#[test]
fn what_the_pool_asks_is_answered() {
    let mut core = small(1);
    assert!(!core.has_waiters());
    let (mut waiting, key) = connecting(&mut core);
    assert!(core.has_waiters());

    let began = core.now();
    assert!(core.outage().is_none());
    core.connect_failed(key, refused());
    let outage = core.outage().expect("a connect has failed");
    assert_eq!((outage.since, outage.failures), (began, 1));

    core.leave(&mut waiting);
    for timeouts in 1..=3 {
        core.time_out();
        assert_eq!(core.stats(0).timeouts, timeouts);
    }

    let other = Backoff::new().retries(7);
    assert_ne!(core.backoff(), &other);
    core.set_backoff(other.clone());
    assert_eq!(core.backoff(), &other);
}

#[test]
fn that_the_pool_is_drained_is_told_to_those_who_wait_for_it_only() {
    let mut core = small(1);
    let drained = |effects: core::Effects<u64, (), ()>| effects.drained;
    let lease = leased(&mut core, 1);
    core.give_back(lease.key, 1, None, PeerSignal::Heard);
    assert!(!drained(core.take_effects()), "nobody waits for it");
    let lease = core.take(true, Taker::default()).expect("it is idle");
    assert!(core.begin_draining());
    core.give_back(lease.key, 1, None, PeerSignal::Heard);
    assert!(drained(core.take_effects()));
}

/// To poll again at once and for ever would burn a processor.
#[test]
fn a_retry_that_is_due_and_finds_no_place_is_no_time_to_poll_again() {
    let mut core = small(2);
    let lease = leased(&mut core, 1);
    let (mut waiting, failing) = connecting(&mut core);
    core.connect_failed(failing, refused());
    core.leave(&mut waiting);
    core.set_limit(1);
    let number = core.begin_ready(1, ());
    // It is being closed, so nothing is open, and its place is not free.
    core.discard(lease.key, 1, PeerSignal::Heard);
    core.take_effects();
    let Readiness::Waits(Some(retry_at)) = core.poll_ready(number) else {
        panic!("the breaker is open");
    };
    core.advance(retry_at);
    assert!(matches!(core.poll_ready(number), Readiness::Waits(None)));
}

#[test]
fn a_connection_has_rested_unless_it_was_leased_when_it_was_made() {
    let mut core = small(3);
    let first = leased(&mut core, 1);
    assert!(!core.is_reused(first.key));
    core.give_back(first.key, 1, None, PeerSignal::Heard);
    let again = core.take(true, Taker::default()).expect("it is idle");
    assert!(core.is_reused(again.key), "at the same moment");

    idle(&mut core, 2);
    core.advance(core.now() + Duration::from_millis(1));
    let late = core.take(true, Taker::default()).expect("it is idle");
    assert!(core.is_reused(late.key), "its first lease");
    core.end(Close::Hard);
    assert!(core.is_reused(late.key), "it was aborted");
}

#[test]
fn lifetimes_are_spread_over_their_last_tenth() {
    let most = Duration::from_secs(100);
    let rules = Rules {
        max_lifetime: Some(most),
        ..Rules::PLAIN
    };
    let mut core = with_rules(50, rules);
    let mut lifetimes: Vec<Duration> = Vec::new();
    for client in 0..50 {
        let key = leased(&mut core, client).key;
        let expires = core.slots().get(key).and_then(|open| open.expires);
        lifetimes.push(
            expires
                .expect("it has a lifetime")
                .duration_since(core.now()),
        );
    }
    lifetimes.sort();
    assert!(lifetimes[0] >= most / 10 * 9 && lifetimes[49] <= most);
    assert!(lifetimes[49] > lifetimes[0] + most / 20, "{lifetimes:?}");
}

#[test]
fn a_batch_of_a_sweep_says_how_many_it_closed() {
    let rules = Rules {
        max_lifetime: Some(Duration::from_secs(1)),
        ..Rules::PLAIN
    };
    let mut core = with_rules(3, rules);
    let leases = [1, 2, 3].map(|client| leased(&mut core, client));
    for lease in &leases {
        core.give_back(lease.key, lease.client, None, PeerSignal::Heard);
    }
    core.advance(core.now() + Duration::from_secs(1));
    let closed = core.inspect(0..2, &mut Vec::new(), &mut Vec::new());
    assert_eq!(closed, 2);
    assert_eq!(core.inspect(0..3, &mut Vec::new(), &mut Vec::new()), 1);
}

#[test]
fn only_a_connection_that_nobody_had_and_that_ends_in_silence_is_a_hang_up() {
    let evict = |is_used: bool, is_silent: bool| {
        let mut core = small(1);
        if is_used {
            let lease = leased(&mut core, 1);
            core.give_back(lease.key, 1, None, PeerSignal::Silence);
        } else {
            idle(&mut core, 1);
        }
        let mut found = Vec::new();
        core.inspect(0..1, &mut found, &mut Vec::new());
        assert!(core.evict_idle(found[0].0, Eviction::PeerClosed, is_silent));
        core.breaker().hang_ups()
    };
    assert_eq!(evict(false, true), 1);
    assert_eq!(evict(false, false), 0);
    assert_eq!(evict(true, true), 0);
    assert_eq!(evict(true, false), 0);
}

#[test]
fn nothing_is_pinged_beside_a_waiter_or_another_ping() {
    let mut core = small(1);
    let lease = leased(&mut core, 1);
    let now = core.now();
    for _ in 0..100 {
        core.convoy().handed_off(now);
    }
    core.enter(&mut caller());
    // It becomes idle, for whoever comes by until the waiter's turn.
    core.give_back(lease.key, 1, None, PeerSignal::Heard);
    assert_eq!(core.slots().idle(), 1);
    assert!(core.next_ping(&mut Some(0), Duration::ZERO).is_none());

    assert!(core.begin_pinging());
    assert!(!core.begin_pinging());
    core.end_pinging();
    assert!(core.begin_pinging());
}
