//! `Connection::finish`: what it overrides and what it does not, and pools that ask for it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use jackpot::{Builder, Connection, Eviction};

use crate::support::leases::{DOOMS, came_to_nothing, one_lease, one_lease_with, stall};
use crate::support::{
    assert_back, assert_left, background, eventually, panic_quietly, reset, shows_resets,
};

const MOMENT: Duration = Duration::from_millis(5);

#[test]
fn a_lease_may_be_finished_on_another_thread() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    background(move || lease.read_exact(&mut [0; 1]))
        .join()
        .unwrap();
    assert_back(&pool);

    let mut lease = pool.allocate().unwrap();
    lease.write_all(b"?").unwrap();
    background(move || drop(lease)).join();
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn with_only_finished_no_other_way_out_leads_back() {
    fn leaves_early(mut lease: Connection) -> io::Result<()> {
        lease.read_exact(&mut [0; 1])?;
        Err(io::Error::other("the reply says no"))?;
        Connection::finish(lease);
        Ok(())
    }
    fn forgets_a_branch(mut lease: Connection) {
        let mut reply = [0];
        lease.read_exact(&mut reply).unwrap();
        if reply != *b"!" {
            Connection::finish(lease);
        }
    }
    let ways: [(Eviction, fn(Connection)); 6] = [
        (Eviction::Unfinished, drop),
        (Eviction::Unfinished, |lease| {
            leaves_early(lease).unwrap_err();
        }),
        (Eviction::Unfinished, forgets_a_branch),
        (Eviction::Panicked, |lease| {
            let panicked = catch_unwind(AssertUnwindSafe(move || {
                let _lease = lease;
                panic_quietly()
            }));
            assert!(panicked.is_err());
        }),
        (Eviction::Discarded, Connection::discard),
        (Eviction::Detached, |lease| drop(Connection::detach(lease))),
    ];
    for (why, leave) in ways {
        let (pool, lease, mut far) = one_lease_with(|b| b.only_finished(true));
        far.write_all(b"!").unwrap();
        leave(lease);
        assert_left(&pool, why);
    }
}

#[test]
fn with_only_finished_what_is_finished_goes_back() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.only_finished(true));
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    Connection::finish(lease);
    assert_back(&pool);
    Connection::finish(pool.allocate().unwrap());
    assert_back(&pool);
}

#[test]
fn with_only_finished_what_is_broken_says_so() {
    let (pool, mut lease, far) = one_lease_with(|b| b.only_finished(true));
    drop(far);
    assert_eq!(lease.read(&mut [0; 1]).unwrap(), 0);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn finish_overrides_unanswered() {
    for only_finished in [false, true] {
        let settings = |b: Builder| b.only_finished(only_finished).read_timeout(Some(MOMENT));
        let (pool, mut lease, _far) = one_lease_with(settings);
        lease.write_all(b"no reply to this").unwrap();
        Connection::finish(lease);
        assert_back(&pool);

        let mut lease = pool.allocate().unwrap();
        assert!(came_to_nothing(&lease.read(&mut [0; 1])));
        Connection::finish(lease);
        assert_back(&pool);
    }
}

#[test]
fn what_finish_overrode_is_over() {
    let (pool, mut lease, _far) = one_lease();
    lease.write_all(b"no reply to this").unwrap();
    Connection::finish(lease);
    drop(pool.allocate().unwrap());
    assert_back(&pool);
}

#[test]
fn finish_overrides_nothing_else() {
    type Harm = fn(&mut Connection, TcpStream);
    let unfit: [(Eviction, Harm); 5] = [
        (Eviction::Broken, |lease, far| {
            drop(far);
            assert_eq!(lease.read(&mut [0; 1]).unwrap(), 0);
        }),
        (Eviction::Broken, |lease, far| {
            reset(far);
            assert!(lease.read(&mut [0; 1]).is_err() || !shows_resets());
        }),
        (Eviction::Broken, |lease, _| {
            lease.shutdown(Shutdown::Write).unwrap();
        }),
        (Eviction::Broken, |lease, _far| {
            lease.set_write_timeout(Some(MOMENT)).unwrap();
            stall(lease);
        }),
        (Eviction::HalfClosed, |lease, _far| {
            lease.tcp().shutdown(Shutdown::Write).unwrap();
        }),
    ];
    for (why, make_unfit) in unfit {
        for only_finished in [false, true] {
            let (pool, mut lease, far) = one_lease_with(|b| b.only_finished(only_finished));
            make_unfit(&mut lease, far);
            Connection::finish(lease);
            assert_left(&pool, why);
        }
    }
    for (why, doom) in DOOMS {
        for only_finished in [false, true] {
            let (pool, lease, _far) = one_lease_with(|b| b.only_finished(only_finished));
            doom(&pool);
            Connection::finish(lease);
            assert_left(&pool, why);
        }
    }
}

#[test]
fn finish_does_not_override_recycle_or_age() {
    let (pool, lease, _far) = one_lease_with(|b| b.recycle(|_| Err::<(), _>("no")));
    Connection::finish(lease);
    assert_left(&pool, Eviction::RecycleFailed);

    let (pool, lease, _far) = one_lease_with(|b| b.max_lifetime(Some(MOMENT)));
    eventually("it is too old", || pool.connections()[0].age > MOMENT);
    Connection::finish(lease);
    assert_left(&pool, Eviction::MaxLifetime);
}
