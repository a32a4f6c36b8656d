//! When the process has no descriptor left for another socket.

use super::*;

/// What the system says then: EMFILE, or WSAEMFILE.
const NO_DESCRIPTOR: i32 = if cfg!(windows) { 10024 } else { 24 };

/// A process with no descriptor left.
pub(crate) fn out_of_descriptors() -> io::Error {
    io::Error::from_raw_os_error(NO_DESCRIPTOR)
}

#[test]
fn out_of_descriptors_idle_connections_are_given_up_for_a_new_one() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(10);
    let leases: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
    let oldest = Connection::id(&leases[0]);
    let gate = Gate::default();
    let way = gate.clone();
    line.meets(move |call| {
        way.pass();
        if call < 5 {
            return Err(out_of_descriptors());
        }
        Ok(())
    });
    let queue = Queue::of(&pool, 1);
    eventually("it connects", || gate.waiting() == 1);
    drop(leases); // the first one goes to the waiter
    let (_, lease) = queue.next();
    assert_eq!(Connection::id(&lease), oldest);
    assert_eq!(pool.stats().idle, 3);
    gate.open();
    eventually("the connect is through", || pool.stats().connecting == 0);
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.connect_failures), (5, 0));
    assert_eq!(stats.evicted(Eviction::OverLimit), 1);
    let ids: Vec<u64> = pool.connections().iter().map(|c| c.id).collect();
    assert!(!ids.contains(&(oldest + 1)), "the least recently used one");
}

#[test]
fn out_of_descriptors_without_idle_connections_is_a_failure_like_others() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(10);
    let lease = pool.allocate().unwrap();
    line.meets(|_| Err(out_of_descriptors()));
    let error = pool.allocate().unwrap_err();
    assert_eq!(
        error.io_error().unwrap().raw_os_error(),
        Some(NO_DESCRIPTOR)
    );
    let queue = Queue::of(&pool, 1);
    drop(lease);
    assert_eq!(queue.next().0, 0);
}
