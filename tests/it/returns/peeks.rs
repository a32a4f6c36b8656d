//! What only asks the socket something, and whether that counts.

use super::*;

#[test]
fn a_peek_of_zero_length_means_nothing() {
    let (pool, mut lease, mut far) = one_lease();
    far.write_all(b"!").unwrap();
    assert_eq!(lease.peek(&mut []).unwrap(), 0);
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_peek_that_sees_the_end_breaks_it() {
    let (pool, lease, far) = one_lease();
    drop(far);
    assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 0);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_peek_that_fails_breaks_it() {
    let (pool, lease, far) = one_lease();
    reset(far);
    match lease.peek(&mut [0; 1]) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        Ok(count) => assert!(count == 0 && !shows_resets()),
    }
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn a_peek_that_sees_nothing_changes_nothing() {
    let (pool, lease, _far) = one_lease_with(|b| b.read_timeout(Some(MOMENT)));
    assert!(came_to_nothing(&lease.peek(&mut [0; 1])));
    drop(lease);
    assert_back(&pool);
}

#[test]
fn a_peek_is_no_answer() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!").unwrap();
    assert_eq!(lease.peek(&mut [0; 1]).unwrap(), 1);
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}

#[test]
fn a_pending_error_that_is_taken_breaks_it() {
    if !shows_resets() {
        return eprintln!("skipped: here, a reset leaves no error behind");
    }
    let (pool, lease, far) = one_lease();
    assert!(lease.take_error().unwrap().is_none());
    reset(far);
    eventually("the error is there", || {
        lease.take_error().unwrap().is_some()
    });
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn asking_for_an_error_that_is_not_there_changes_nothing() {
    let (pool, lease, _far) = one_lease();
    assert!(lease.take_error().unwrap().is_none());
    drop(lease);
    assert_back(&pool);
}
