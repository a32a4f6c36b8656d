//! What errors say, and what can be got out of them.

use super::*;
use crate::support::on_threads;

#[test]
fn a_full_pool_says_so_in_every_kind_of_error() {
    let peer = Peer::new();
    let pool = peer.builder(1).backoff(one_retry()).build().unwrap();
    let held = pool.pull().unwrap();
    let line = line!() - 1;
    let state = "(limit 1: 0 idle, 1 leased, 0 connecting, 0 waiting)";
    let named = format!("{state}; 1 leased: 1 at {}:{line}", file!());

    let full = pool.allocate().unwrap_err();
    assert_eq!(full.to_string(), format!("the pool is full {state}"));
    assert!(full.source().is_none() && full.io_error().is_none());
    assert!(full.is_full() && !full.is_timeout());

    let exhausted = pool.pull().unwrap_err();
    let text = exhausted.to_string();
    assert!(
        text.starts_with("no connection after 2 tries in "),
        "{text}"
    );
    assert!(text.ends_with(&named), "{text}");
    assert!(exhausted.is_full() && !exhausted.is_timeout());
    assert_eq!(exhausted.source().unwrap().to_string(), full.to_string());

    let timed_out = pool.pull_timeout(Duration::from_millis(2)).unwrap_err();
    let text = timed_out.to_string();
    assert!(text.starts_with("no connection within "), "{text}");
    assert!(text.ends_with(&named), "{text}");
    assert!(timed_out.is_full() && timed_out.is_timeout());
    assert!(!timed_out.is_connect() && !timed_out.is_ended());
    drop(held);
}

#[test]
fn a_failed_connect_is_the_source_down_to_its_os_code() {
    let gone = refused();
    let os_error = TcpStream::connect(gone).unwrap_err();
    let pool = Pool::builder(move || TcpStream::connect(gone))
        .backoff(one_retry())
        .build()
        .unwrap();
    let connect = pool.allocate().unwrap_err();
    assert_eq!(connect.to_string(), "connect failed");
    let exhausted = pool.pull().unwrap_err();
    let timed_out = pool.pull_timeout(Duration::from_millis(2)).unwrap_err();
    for (error, depth) in [(connect, 1), (exhausted, 2), (timed_out, 2)] {
        assert!(error.is_connect() && !error.is_full(), "{error}");
        assert_eq!(error.is_timeout(), matches!(error, Error::TimedOut { .. }));
        let bottom = error.io_error().unwrap();
        assert_eq!(bottom.raw_os_error(), os_error.raw_os_error());
        assert_eq!(bottom.to_string(), os_error.to_string());
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        for _ in 0..depth {
            source = source.and_then(std::error::Error::source);
        }
        let found = source.and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(found.unwrap().kind(), ErrorKind::ConnectionRefused);
        assert!(!error.to_string().contains("refused"), "{error}");
    }
}

#[test]
fn a_failed_handshake_is_the_source_down_to_its_io_error() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .backoff(one_retry())
        .handshake(|_| Err::<Stream, _>(io::Error::from(ErrorKind::UnexpectedEof)))
        .build()
        .unwrap();
    for error in [pool.allocate().unwrap_err(), pool.pull().unwrap_err()] {
        assert!(error.is_connect(), "{error}");
        let bottom = error.io_error().expect("the handshake's io::Error");
        assert_eq!(bottom.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(io::Error::from(error).kind(), ErrorKind::UnexpectedEof);
    }
    let error = pool.allocate().unwrap_err();
    assert_eq!(error.to_string(), "handshake failed");
    assert_eq!(
        error.source().unwrap().to_string(),
        "unexpected end of file"
    );
}

#[test]
fn a_handshake_may_fail_with_anything_that_becomes_an_error() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|_| Err::<Stream, _>("wrong password"))
        .build()
        .unwrap();
    let error = pool.allocate().unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "wrong password");
    assert!(error.io_error().is_none());
    assert_eq!(io::Error::from(error).kind(), ErrorKind::Other);
}

#[test]
fn a_caller_behind_the_limit_hears_of_the_outage_and_not_of_a_full_pool() {
    let gone = refused();
    let pool = Pool::builder(move || TcpStream::connect(gone))
        .limit(1)
        .backoff(Backoff::new().min(NEVER).max(NEVER))
        .build()
        .unwrap();
    assert!(pool.allocate().unwrap_err().is_connect());
    let sleepers = on_threads(&pool, 2, |pool, _| pool.pull());
    eventually("they wait", || pool.stats().waiting == 2);
    for _ in 0..5 {
        let error = pool.allocate().unwrap_err();
        assert!(error.is_connect(), "nothing is open, but: {error}");
    }
    pool.end();
    for sleeper in sleepers {
        assert!(sleeper.join().is_err());
    }
}

#[test]
fn the_other_errors_read_well_too() {
    assert_eq!(Error::Ended.to_string(), "the pool has ended");
    assert!(Error::Ended.is_ended() && Error::Ended.source().is_none());
    let spawn = Error::Spawn(ErrorKind::OutOfMemory.into());
    assert_eq!(spawn.to_string(), "cannot start the reaper thread");
    assert_eq!(spawn.io_error().unwrap().kind(), ErrorKind::OutOfMemory);
    assert!(spawn.source().unwrap().is::<io::Error>());
    let timed_out = Error::TimedOut {
        elapsed: Duration::from_millis(20),
        last: None,
        stats: Box::default(),
    };
    let text = "no connection within 20 ms (limit 0: 0 idle, 0 leased, 0 connecting, 0 waiting)";
    assert_eq!(timed_out.to_string(), text);
    assert!(timed_out.is_timeout() && timed_out.source().is_none());
}

#[test]
fn every_error_becomes_an_io_error_that_keeps_it() {
    fn use_it(pool: &Pool) -> io::Result<u64> {
        let connection = pool.pull()?;
        Ok(Connection::id(&connection))
    }

    let peer = Peer::new();
    let pool = peer.builder(1).backoff(one_retry()).build().unwrap();
    assert_eq!(use_it(&pool).unwrap(), 1);
    let held = pool.pull().unwrap();
    let full = use_it(&pool).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::ResourceBusy);
    assert!(full.to_string().starts_with("no connection after 2 tries"));
    let timed_out = io::Error::from(pool.pull_timeout(Duration::ZERO).unwrap_err());
    assert_eq!(timed_out.kind(), ErrorKind::TimedOut);
    drop(held);
    pool.end();
    let ended = use_it(&pool).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::NotConnected);
    let kept = ended.into_inner().unwrap().downcast::<Error>().unwrap();
    assert!(kept.is_ended());

    let gone = refused();
    let pool = Pool::builder(move || TcpStream::connect(gone)).backoff(one_retry());
    let connect = use_it(&pool.build().unwrap()).unwrap_err();
    assert_eq!(connect.kind(), ErrorKind::ConnectionRefused);
    let invalid = io::Error::from(Pool::new(0, nowhere).unwrap_err());
    assert_eq!(invalid.kind(), ErrorKind::InvalidInput);
    let spawn = Error::Spawn(ErrorKind::OutOfMemory.into());
    assert_eq!(io::Error::from(spawn).kind(), ErrorKind::OutOfMemory);
}
