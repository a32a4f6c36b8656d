//! A lease whose thread panics.

use super::*;

#[test]
fn a_lease_whose_thread_panics_is_closed_and_its_slot_is_free() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let lease = pool.allocate().unwrap();
    let mut far = peer.accept();
    let panicked = thread::spawn(move || {
        let _lease = lease;
        panic_quietly()
    });
    assert!(panicked.join().is_err());
    assert_left(&pool, Eviction::Panicked);
    assert_closed(&mut far);
    assert!(pool.allocate().is_ok());
}

#[test]
fn an_answered_lease_whose_thread_panics_is_closed() {
    let (pool, mut lease, mut far) = one_lease();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _lease = lease;
        panic_quietly()
    }));
    assert!(panicked.is_err());
    assert_left(&pool, Eviction::Panicked);
}

#[test]
fn a_lease_finished_while_its_thread_panics_is_closed() {
    struct Finishes(Option<Connection>);
    impl Drop for Finishes {
        fn drop(&mut self) {
            Connection::finish(self.0.take().unwrap());
        }
    }
    for only_finished in [false, true] {
        let peer = Peer::new();
        let builder = peer.builder(1).only_finished(only_finished);
        let pool = builder.build().unwrap();
        let lease = pool.pull().unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _lease = Finishes(Some(lease));
            panic_quietly()
        }));
        assert!(panicked.is_err());
        assert_left(&pool, Eviction::Panicked);
        assert!(pool.allocate().is_ok());
    }
}

#[test]
fn a_lease_that_survives_a_caught_panic_goes_back() {
    let (pool, lease, _far) = one_lease();
    assert!(catch_unwind(|| panic_quietly()).is_err());
    drop(lease);
    assert_back(&pool);
}
