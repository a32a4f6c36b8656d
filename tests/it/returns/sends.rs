//! Writes that stall, and clients that only send.

use super::*;

#[test]
fn with_allow_unanswered_a_client_may_only_send() {
    let (pool, mut lease, _far) =
        one_lease_with(|b| b.allow_unanswered(true).read_timeout(Some(MOMENT)));
    lease.write_all(b"requests:1|c\n").unwrap();
    drop(lease);
    assert_back(&pool);
    let mut lease = pool.allocate().unwrap();
    assert!(came_to_nothing(&lease.read(&mut [0; 1])));
    drop(lease);
    assert_back(&pool);
}

#[test]
fn with_allow_unanswered_a_write_that_stalled_closes_all_the_same() {
    let (pool, lease, _far) =
        one_lease_with(|b| b.allow_unanswered(true).write_timeout(Some(MOMENT)));
    assert!(matches!(
        stall(&lease),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));
    drop(lease);
    assert_left(&pool, Eviction::Broken);

    let (pool, lease, _far) = one_lease_with(|b| b.allow_unanswered(true));
    lease.set_nonblocking(true).unwrap();
    assert_eq!(stall(&lease), ErrorKind::WouldBlock);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn an_answer_does_not_mend_a_write_that_stalled() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.write_timeout(Some(MOMENT)));
    stall(&lease);
    far.write_all(b"what?").unwrap();
    lease.read_exact(&mut [0; 5]).unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_write_that_stalled_and_went_on_is_no_reason_to_close() {
    let (pool, mut lease, mut far) = one_lease_with(|b| b.allow_unanswered(true));
    lease.set_nonblocking(true).unwrap();
    assert_eq!(stall(&lease), ErrorKind::WouldBlock);
    let drain = background(move || io::copy(&mut far, &mut io::sink()));
    eventually("the rest is written", || lease.write(b"rest").is_ok());
    drop(lease);
    assert_back(&pool);
    pool.end();
    drain.join().unwrap();
}
