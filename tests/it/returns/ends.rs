//! Connections whose time or uses are over, and leases that are doomed.

use super::*;

#[test]
fn a_lifetime_ends_a_connection_between_leases_never_within_one() {
    let lifetime = Duration::from_millis(20);
    let (pool, mut lease, mut far) = one_lease_with(|b| b.max_lifetime(Some(lifetime)));
    eventually("it is too old", || pool.connections()[0].age > lifetime);
    assert_eq!(pool.reap(), 0);
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::MaxLifetime);
    assert_closed(&mut far);
}

#[test]
fn a_doomed_lease_works_on_and_closes_when_it_comes_back() {
    for (why, doom) in DOOMS {
        let (pool, mut lease, mut far) = one_lease();
        doom(&pool);
        lease.write_all(b"?").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        far.write_all(b"!").unwrap();
        lease.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(pool.stats().leased, 1);
        drop(lease);
        assert_left(&pool, why);
        assert_closed(&mut far);
    }
}

#[test]
fn a_limit_that_was_raised_again_in_time_closes_nothing() {
    let (pool, lease, _far) = one_lease();
    pool.set_limit(0);
    pool.set_limit(1);
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_connection_closes_when_its_last_use_comes_back() {
    let peer = Peer::new();
    let pool = peer.builder(1).max_uses(Some(3)).build().unwrap();
    let ids = [(); 7].map(|()| Connection::id(&pool.pull().unwrap()));
    assert_eq!(ids, [1, 1, 1, 2, 2, 2, 3]);
    assert_eq!(pool.stats().evicted(Eviction::MaxUses), 2);
}

#[test]
fn a_ping_does_not_count_as_one_of_the_uses() {
    let peer = Peer::new();
    let pool = peer
        .builder(2)
        .max_uses(Some(2))
        .ping(Duration::from_nanos(1), |_| Ok::<_, io::Error>(()))
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    for n in 2..6 {
        eventually("it is pinged", || {
            pool.reap();
            pool.connections()[0].leases >= n
        });
        eventually("it is idle", || pool.stats().idle == 1);
    }
    drop(pool.pull().unwrap());
    assert_eq!(pool.stats().evicted(Eviction::MaxUses), 1);
}
