//! Outages, from their beginning to their end.

use super::*;

#[test]
fn another_factory_ends_an_outage() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.builder(true).build().unwrap();
        let callers = [
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.try_caller(&pool, Pool::allocate, Fit, |error| {
                error.is_full() || error.is_connect()
            }),
        ];
        pool.set_factory(world.door(false));
        join(callers);
        world.close(pool);
    });
}

/// No connect before its time, and nobody served later than the first success.
#[test]
fn an_outage_ends_and_everybody_is_served_at_once() {
    play(Time::Waits, || {
        let world = World::after_failures(2, 4);
        let pool = world.pool();
        join([(); 3].map(|()| {
            let (world, pool) = (Arc::clone(&world), pool.clone());
            thread::spawn(move || {
                let connection = pool.pull().unwrap();
                let first_success = world.note(|books| books.first_success);
                assert_eq!(first_success, Some(sync::elapsed()));
                world.work(connection, Fit);
            })
        }));
        world.note(|books| {
            let success = books.first_success.unwrap();
            let during = books.begun.iter().copied().filter(|&begun| begun < success);
            let (burst, later): (Vec<Duration>, _) = during.partition(Duration::is_zero);
            assert!(burst.len() <= 2, "{:?}", books.begun);
            let mut last = Duration::ZERO;
            for begun in later {
                assert!(begun >= last + SPACING, "{:?}", books.begun);
                last = begun;
            }
        });
        pool.free(0); // so that all connect again, and at once
        world.close(pool);
    });
}

#[test]
fn an_outage_that_does_not_end_is_tried_at_every_second_and_given_up_by_each_caller() {
    play(Time::Waits, || {
        let world = World::new(2);
        let backoff = Backoff::new().jitter(Jitter::None).retries(2);
        let pool = world.builder(true).backoff(backoff).build().unwrap();
        let exhausted = |error: &Error| matches!(error, Error::Exhausted { attempts: 3, .. });
        join([(); 2].map(|()| world.try_caller(&pool, Pool::pull, Fit, exhausted)));
        assert_eq!(sync::elapsed(), Duration::from_secs(4));
        let begun = world.note(|books| books.begun.len());
        assert!((5..=42).contains(&begun), "{begun} connects");
        world.balance(&pool);
        world.leave(pool);
    });
}

#[test]
fn an_outage_comes_and_goes_while_callers_time_out() {
    play(Time::Jumps, || {
        let world = World::after_failures(2, 3);
        let pool = world.pool();
        let gave_up = |error: &Error| !error.is_ended();
        join([
            world.caller(&pool, &[Fit]),
            world.try_caller(&pool, Pool::allocate, Broken, gave_up),
            world.try_caller(
                &pool,
                |pool| pool.pull_timeout(Duration::from_millis(300)),
                Deserted,
                gave_up,
            ),
        ]);
        world.note(|books| books.to_fail = 0);
        pool.set_factory(world.door(false));
        world.close(pool);
    });
}
