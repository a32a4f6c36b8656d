//! Convoys, in which newcomers may overtake for a while.

use super::*;

/// Makes the pool believe that hand-offs have followed close upon each other.
fn form_convoy(pool: &Pool) {
    pool.shared().with(|core| {
        for _ in 0..100 {
            core.convoy().handed_off(sync::now());
        }
    });
}

/// A connection that lies idle while a waiter may be overtaken is taken up when that time is over.
#[test]
fn nobody_in_a_convoy_is_overtaken_for_longer_than_may_be() {
    play(Time::Waits, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        join([
            world.caller(&pool, &[Fit, Fit, Fit]),
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Fit, Broken]),
        ]);
        assert!(sync::elapsed() < Duration::from_millis(20));
        world.close(pool);
    });
}

#[test]
fn a_return_in_a_convoy_meets_the_end_of_barging() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        let held = pool.allocate().unwrap();
        world.note(|books| books.leases += 1);
        let caller = world.caller(&pool, &[Fit]);
        drop(held);
        join([caller]);
        world.close(pool);
    });
}

#[test]
fn a_convoy_meets_time_outs_and_one_that_asks_only_once() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        join([
            world.caller(&pool, &[Fit, Fit]),
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
            world.try_caller(&pool, Pool::allocate, Deserted, Error::is_full),
        ]);
        world.close(pool);
    });
}

#[test]
fn end_meets_a_convoy() {
    play(Time::Waits, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, briefly, Fit, Error::is_ended),
        ];
        pool.end();
        join(callers);
        assert!(sync::elapsed() < Duration::from_millis(10));
        world.balance(&pool);
        world.leave(pool);
    });
}
