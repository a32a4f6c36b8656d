//! Callers that share places, and how long they wait.

use super::*;

#[test]
fn two_callers_share_one_place() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit, Fit]),
            world.caller(&pool, &[Fit]),
        ]);
        assert_eq!(world.note(|books| books.made), 1);
        world.close(pool);
    });
}

#[test]
fn two_callers_share_one_place_and_break_what_they_get() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Broken, Fit]),
            world.caller(&pool, &[Broken]),
        ]);
        world.close(pool);
    });
}

#[test]
fn three_callers_share_one_place_with_every_kind_of_return() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Deserted]),
        ]);
        world.close(pool);
    });
}

#[test]
fn three_callers_share_two_places_with_one_that_asks_only_once() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit, Broken]),
            world.caller(&pool, &[Deserted]),
            world.try_caller(&pool, Pool::allocate, Fit, Error::is_full),
        ]);
        world.close(pool);
    });
}

#[test]
fn connects_queue_behind_the_most_at_once() {
    play(Time::Stands, || {
        let world = World::new(3);
        let pool = world.builder(false).max_connecting(1).build().unwrap();
        join([
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Fit]),
        ]);
        world.close(pool);
    });
}

#[test]
fn a_waiter_times_out_while_it_is_being_served() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
            world.try_caller(&pool, briefly, Broken, Error::is_timeout),
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
        ]);
        world.close(pool);
    });
}

#[test]
fn a_waiter_times_out_on_a_connection_that_proves_dead() {
    play(Time::Jumps, || {
        let world = World::new(2);
        let pool = world.pool();
        join([
            world.try_caller(&pool, briefly, Deserted, Error::is_timeout),
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
            world.try_caller(&pool, briefly, Deserted, Error::is_timeout),
        ]);
        world.close(pool);
    });
}

/// A time-out passes the wake-up on: who waits for ever gets what the one who left does not take.
#[test]
fn one_waiter_times_out_and_another_waits_for_ever() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit]),
            world.try_caller(&pool, briefly, Broken, Error::is_timeout),
            world.caller(&pool, &[Fit]),
        ]);
        world.close(pool);
    });
}

#[test]
fn a_time_out_is_kept_to_the_instant() {
    play(Time::Waits, || {
        let world = World::new(1);
        let pool = world.pool();
        let held = pool.allocate().unwrap();
        world.note(|books| books.leases += 1);
        join([10, 20, 20].map(|ms| {
            let pool = pool.clone();
            thread::spawn(move || {
                let timeout = Duration::from_millis(ms);
                assert!(pool.pull_timeout(timeout).unwrap_err().is_timeout());
                assert_eq!(sync::elapsed(), timeout);
            })
        }));
        drop(held);
        world.close(pool);
    });
}
