//! The end of a pool, of connections and of places, while callers are at work.

use super::*;

#[test]
fn end_meets_a_connect_under_way() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::allocate, Fit, Error::is_ended),
        ];
        pool.end();
        assert!(pool.pull().unwrap_err().is_ended());
        join(callers);
        world.balance(&pool);
        assert_eq!(pool.stats().open, 0);
        world.leave(pool);
    });
}

#[test]
fn end_wakes_everyone() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        let held = pool.pull().unwrap();
        world.note(|books| books.leases += 1);
        let (drained, its_pool) = (Arc::clone(&world), pool.clone());
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            thread::spawn(move || {
                assert!(its_pool.drain(EVER));
                drained.step();
            }),
        ];
        pool.end();
        drop(held);
        join(callers);
        world.balance(&pool);
        assert_eq!(pool.stats().open, 0);
        world.leave(pool);
    });
}

#[test]
fn a_hard_end_cuts_what_is_out() {
    play(Time::Stands, || {
        let world = World::cutting(2);
        let pool = world.pool();
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Broken, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
        ];
        pool.end_with(Close::Hard);
        assert_eq!(pool.stats().open, 0);
        assert!(pool.drain(EVER));
        join(callers);
        world.balance(&pool);
        world.leave(pool);
    });
}

#[test]
fn free_meets_pulls() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.caller(&pool, &[Fit, Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Fit]),
        ];
        pool.free(0);
        pool.free(1);
        join(callers);
        world.close(pool);
    });
}

/// A connection that is cut is no longer below the limit, so there is one place for each caller.
#[test]
fn a_hard_free_meets_pulls() {
    play(Time::Stands, || {
        let world = World::cutting(3);
        let pool = world.builder(false).limit(1).build().unwrap();
        let callers = [world.caller(&pool, &[Fit]), world.caller(&pool, &[Broken])];
        pool.free_with(0, Close::Hard);
        join(callers);
        world.close(pool);
    });
}

#[test]
fn the_limit_is_lowered_while_all_is_leased() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.caller(&pool, &[Fit, Fit]),
            world.caller(&pool, &[Fit, Fit]),
        ];
        pool.set_limit(1);
        join(callers);
        world.close(pool);
    });
}

#[test]
fn the_limit_is_lowered_to_nothing_and_raised_again() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Fit]),
        ];
        pool.set_limit(0);
        world.step();
        pool.set_limit(1);
        join(callers);
        world.close(pool);
    });
}

#[test]
fn a_sweep_refills_and_pings_while_callers_pull() {
    play(Time::Stands, || {
        let world = World::new(2);
        let ping = |_: &mut Stream| Ok::<(), io::Error>(());
        let builder = world.builder(false).min_idle(1).ping(SPACING, ping);
        let pool = builder.build().unwrap();
        let callers = [
            world.caller(&pool, &[Deserted]),
            world.caller(&pool, &[Fit]),
        ];
        sync::pass(SPACING);
        pool.reap();
        join(callers);
        world.balance(&pool);
        world.leave(pool);
    });
}

/// The reaper is a thread of the scene's, which comes once and at any time.
#[test]
fn the_dead_are_left_to_the_reaper_and_each_is_told_of_once() {
    play(Time::Stands, || {
        let world = World::new(3);
        let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let tellers = Arc::clone(&told);
        let builder = world.builder(false).on_event(move |event| {
            tellers.fetch_add(u64::from(matches!(event, Event::Evicted { .. })), SeqCst);
        });
        let pool = builder.build().unwrap();
        let all: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        for connection in all {
            world.work(connection, Deserted);
        }
        let (waker, _woken) = crossbeam_channel::bounded(1);
        pool.shared().set_reaper(waker);
        let callers = [world.caller(&pool, &[Fit]), world.caller(&pool, &[Broken])];
        let reaper = {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.reap();
            })
        };
        join(callers);
        reaper.join().unwrap();
        world.balance(&pool);
        world.leave(pool);
        world.note(|books| assert_eq!(told.load(SeqCst), books.made));
    });
}
