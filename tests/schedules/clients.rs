//! Clients with destructors.

use super::*;

/// A client that is not the plain stream: its destructor must find the socket shut down.
struct Client {
    stream: Stream,
    world: Arc<World>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.world.step();
        let sent = (&self.stream).write(b"goodbye");
        assert!(sent.is_err(), "a destructor sent something");
    }
}

/// Closes and returns leases of clients whose destructors are the user's, in a pool that ends.
fn clients(world: &Arc<World>, end: fn(&Pool<Client>)) {
    let maker = Arc::clone(world);
    let pool = world
        .builder(false)
        .handshake(move |stream| {
            let world = Arc::clone(&maker);
            Ok::<_, io::Error>(Client { stream, world })
        })
        .build()
        .unwrap();
    let callers = [Broken, Fit].map(|how| {
        let (world, pool) = (Arc::clone(world), pool.clone());
        thread::spawn(move || match pool.pull() {
            Ok(lease) if matches!(how, Broken) => Connection::discard(lease),
            Ok(lease) => {
                world.step();
                drop(lease);
            }
            Err(error) => assert!(error.is_ended(), "{error:?}"),
        })
    });
    end(&pool);
    join(callers);
    assert!(pool.drain(EVER));
    let stats = pool.stats();
    assert_eq!(stats.connects, stats.releases + stats.open as u64);
    drop(pool);
    let mut doors = world.doors.lock().unwrap();
    while *doors > 0 {
        doors = world.gone.wait(doors).unwrap();
    }
}

#[test]
fn clients_are_dropped_after_their_sockets_were_shut_down() {
    play(Time::Stands, || clients(&World::new(1), |_| ()));
}

#[test]
fn a_hard_end_meets_clients_with_destructors() {
    play(Time::Stands, || {
        clients(&World::new(1), |pool| pool.end_with(Close::Hard));
    });
}
