//! Socket options: what each lease starts with, and what is put back when it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use jackpot::{Builder, Connection, Pool, Stream};

use crate::support::{Peer, SOON, assert_back, background, eventually};

const MOMENT: Duration = Duration::from_millis(5);

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What a caller can see of a socket's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    nodelay: bool,
    ttl: u32,
    nonblocking: bool,
}

impl Options {
    fn of(stream: &Stream) -> Self {
        Self {
            read_timeout: stream.read_timeout().unwrap(),
            write_timeout: stream.write_timeout().unwrap(),
            nodelay: stream.nodelay().unwrap(),
            ttl: stream.ttl().unwrap(),
            nonblocking: is_nonblocking(stream),
        }
    }

    fn set_on(self, stream: &Stream) {
        stream.set_read_timeout(self.read_timeout).unwrap();
        stream.set_write_timeout(self.write_timeout).unwrap();
        stream.set_nodelay(self.nodelay).unwrap();
        stream.set_ttl(self.ttl).unwrap();
        stream.set_nonblocking(self.nonblocking).unwrap();
    }

    fn set_behind_the_back(self, tcp: &TcpStream) {
        tcp.set_read_timeout(self.read_timeout).unwrap();
        tcp.set_write_timeout(self.write_timeout).unwrap();
        tcp.set_nodelay(self.nodelay).unwrap();
        tcp.set_ttl(self.ttl).unwrap();
        tcp.set_nonblocking(self.nonblocking).unwrap();
    }
}

#[cfg(unix)]
fn is_nonblocking(stream: &Stream) -> bool {
    socket2::SockRef::from(stream).nonblocking().unwrap()
}

/// Windows cannot be asked.
#[cfg(not(unix))]
fn is_nonblocking(_: &Stream) -> bool {
    false
}

/// Nothing here is the system's default, but where probes switch the blocking mode anyway.
const STRANGE: Options = Options {
    read_timeout: Some(seconds(7)),
    write_timeout: Some(seconds(8)),
    nodelay: true,
    ttl: 9,
    nonblocking: cfg!(all(unix, not(jackpot_switching))),
};

/// A pool of one, its socket left by the factory as `left` says, else as the system made it.
fn pool_with(left: Option<Options>, settings: impl FnOnce(Builder) -> Builder) -> (Peer, Pool) {
    let peer = Peer::new();
    let address = peer.address();
    let builder = Pool::builder(move || {
        let tcp = TcpStream::connect(address)?;
        if let Some(options) = left {
            options.set_behind_the_back(&tcp);
        }
        Ok(tcp)
    });
    let pool = settings(builder.limit(1).reap_interval(None))
        .build()
        .unwrap();
    (peer, pool)
}

#[test]
fn no_caller_inherits_another_callers_options() {
    for left in [None, Some(STRANGE)] {
        let (_peer, pool) = pool_with(left, |b| b);
        let lease = pool.pull().unwrap();
        let before = Options::of(&lease);
        let changes: [fn(&Stream); 6] = [
            |stream| stream.set_read_timeout(Some(seconds(3))).unwrap(),
            |stream| stream.set_write_timeout(Some(seconds(3))).unwrap(),
            |stream| stream.set_nodelay(!stream.nodelay().unwrap()).unwrap(),
            |stream| stream.set_ttl(3).unwrap(),
            |stream| stream.set_nonblocking(!is_nonblocking(stream)).unwrap(),
            |stream| {
                let other = Options {
                    read_timeout: None,
                    write_timeout: Some(seconds(3)),
                    nodelay: false,
                    ttl: 3,
                    nonblocking: false,
                };
                other.set_on(stream);
            },
        ];
        drop(lease);
        let changes = changes.into_iter().enumerate();
        // Windows does not tell what the blocking mode is.
        for (_, change) in changes.filter(|&(n, _)| n != 4 || cfg!(unix)) {
            let lease = pool.pull().unwrap();
            change(&lease);
            assert_ne!(Options::of(&lease), before);
            drop(lease);
            assert_eq!(Options::of(&pool.pull().unwrap()), before);
        }
        assert_back(&pool);
    }
}

#[test]
fn an_option_changed_twice_goes_back_to_what_it_was_before_the_lease() {
    let (_peer, pool) = pool_with(Some(STRANGE), |b| b);
    let lease = pool.pull().unwrap();
    for n in 1..3 {
        let step = Options {
            read_timeout: Some(seconds(n)),
            write_timeout: Some(seconds(n)),
            nodelay: n % 2 == 0,
            ttl: 20,
            nonblocking: n % 2 == 0,
        };
        step.set_on(&lease);
    }
    drop(lease);
    assert_eq!(Options::of(&pool.pull().unwrap()), STRANGE);
}

#[test]
fn finish_puts_options_back_too() {
    let settings: [fn(Builder) -> Builder; 3] = [
        |b| b,
        |b| b.only_finished(true),
        |b| b.allow_unanswered(true),
    ];
    for settings in settings {
        let (_peer, pool) = pool_with(None, settings);
        let mut lease = pool.pull().unwrap();
        let before = Options::of(&lease);
        STRANGE.set_on(&lease);
        lease.write_all(b"no reply to this").unwrap();
        Connection::finish(lease);
        assert_eq!(Options::of(&pool.pull().unwrap()), before);
    }
}

#[test]
fn an_option_set_behind_the_pools_back_stays() {
    let (_peer, pool) = pool_with(None, |b| b);
    let lease = pool.pull().unwrap();
    STRANGE.set_behind_the_back(lease.tcp());
    drop(lease);
    let lease = pool.pull().unwrap();
    assert_eq!(Options::of(&lease), STRANGE);

    // Only what is changed through `Stream` is put back, not its neighbours.
    lease.set_ttl(3).unwrap();
    lease.tcp().set_read_timeout(Some(seconds(3))).unwrap();
    drop(lease);
    let expected = Options {
        read_timeout: Some(seconds(3)),
        ..STRANGE
    };
    assert_eq!(Options::of(&pool.pull().unwrap()), expected);
}

#[test]
fn what_the_factory_left_is_kept() {
    let (_peer, pool) = pool_with(Some(STRANGE), |b| b);
    for _ in 0..3 {
        assert_eq!(Options::of(&pool.pull().unwrap()), STRANGE);
    }
    assert_eq!(pool.reap(), 0);
    assert_eq!(Options::of(&pool.pull().unwrap()), STRANGE);
    assert_back(&pool);
}

#[test]
fn every_lease_starts_with_the_builders_timeouts() {
    let timeouts = |b: Builder| {
        b.read_timeout(Some(seconds(4)))
            .write_timeout(Some(seconds(5)))
    };
    for left in [None, Some(STRANGE)] {
        let (_peer, pool) = pool_with(left, timeouts);
        for _ in 0..3 {
            let lease = pool.pull().unwrap();
            assert_eq!(lease.read_timeout().unwrap(), Some(seconds(4)));
            assert_eq!(lease.write_timeout().unwrap(), Some(seconds(5)));
            lease.set_read_timeout(None).unwrap();
            lease.set_write_timeout(Some(seconds(1))).unwrap();
        }
        assert_back(&pool);
    }
}

#[test]
fn a_builders_timeout_of_none_overrides_the_factory() {
    let (_peer, pool) = pool_with(Some(STRANGE), |b| b.read_timeout(None).write_timeout(None));
    let lease = pool.pull().unwrap();
    assert_eq!(lease.read_timeout().unwrap(), None);
    assert_eq!(lease.write_timeout().unwrap(), None);
}

#[test]
fn each_timeout_is_set_on_its_own() {
    let (_peer, pool) = pool_with(Some(STRANGE), |b| b.read_timeout(Some(seconds(4))));
    let lease = pool.pull().unwrap();
    assert_eq!(lease.read_timeout().unwrap(), Some(seconds(4)));
    assert_eq!(lease.write_timeout().unwrap(), STRANGE.write_timeout);
}

#[test]
fn the_builders_timeouts_hold_during_the_handshake() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .read_timeout(Some(MOMENT))
        .handshake(|mut stream| stream.read_exact(&mut [0; 1]).map(|()| stream))
        .build()
        .unwrap();
    let error = background(move || pool.allocate().unwrap_err()).join();
    assert!(matches!(error, jackpot::Error::Handshake(_)), "{error}");
}

#[test]
fn what_recycle_changed_is_put_back() {
    let (_peer, untouched) = pool_with(None, |b| b);
    let expected = Options::of(&untouched.pull().unwrap());
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .recycle(|stream| {
            STRANGE.set_on(stream);
            Ok::<_, std::io::Error>(())
        })
        .build()
        .unwrap();
    assert_eq!(Options::of(&pool.pull().unwrap()), expected);
    assert_eq!(Options::of(&pool.pull().unwrap()), expected);
    assert_back(&pool);
}

#[test]
fn what_a_ping_changed_is_put_back() {
    let (pinged, pings) = std::sync::mpsc::channel();
    let (_peer, pool) = pool_with(None, |builder| {
        builder.ping(Duration::from_nanos(1), move |stream| {
            STRANGE.set_on(stream);
            pinged.send(())
        })
    });
    let expected = Options::of(&pool.pull().unwrap());
    pool.reap();
    pings.recv_timeout(SOON).unwrap();
    assert_eq!(Options::of(&pool.pull().unwrap()), expected);
    assert_back(&pool);
}

#[test]
fn options_changed_by_the_client_itself_are_put_back() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|stream| Ok::<_, std::io::Error>(std::io::BufReader::new(stream)))
        .build()
        .unwrap();
    let lease = pool.pull().unwrap();
    let before = Options::of(Connection::stream(&lease));
    STRANGE.set_on(lease.get_ref());
    drop(lease);
    let lease = pool.pull().unwrap();
    assert_eq!(Options::of(lease.get_ref()), before);
}

#[test]
fn a_refused_option_changes_nothing() {
    let (_peer, pool) = pool_with(Some(STRANGE), |b| b);
    let lease = pool.pull().unwrap();
    for refused in [
        lease.set_read_timeout(Some(Duration::ZERO)),
        lease.set_write_timeout(Some(Duration::ZERO)),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    drop(lease);
    assert_eq!(Options::of(&pool.pull().unwrap()), STRANGE);
    assert_back(&pool);
}

#[test]
fn what_is_detached_keeps_its_callers_options() {
    let (_peer, pool) = pool_with(None, |b| b);
    let lease = pool.pull().unwrap();
    STRANGE.set_on(&lease);
    let stream = Connection::detach(lease);
    drop(pool);
    assert_eq!(Options::of(&stream), STRANGE);
}

#[test]
fn a_caller_may_work_without_blocking() {
    let (peer, pool) = pool_with(None, |b| b);
    let mut lease = pool.pull().unwrap();
    let mut far = peer.accept();
    lease.set_nonblocking(true).unwrap();
    lease.write_all(b"?").unwrap();
    let error = lease.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    far.write_all(b"!").unwrap();
    eventually("the answer comes", || lease.read(&mut [0; 8]).is_ok());
    drop(lease);
    assert_back(&pool);

    // The next caller's read blocks again: for its time-out.
    let mut lease = pool.pull().unwrap();
    lease.set_read_timeout(Some(10 * MOMENT)).unwrap();
    let started = std::time::Instant::now();
    lease.read(&mut [0; 8]).unwrap_err();
    assert!(started.elapsed() >= 9 * MOMENT);
}

#[test]
#[cfg(unix)]
fn a_socket_that_the_factory_made_non_blocking_is_probed_and_stays_so() {
    let (peer, pool) = pool_with(Some(STRANGE), |b| b);
    let first = Connection::id(&pool.pull().unwrap());
    let far = peer.accept();
    let mut lease = pool.pull().unwrap();
    assert_eq!(Connection::id(&lease), first);
    let error = lease.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    Connection::finish(lease);
    assert_eq!(pool.reap(), 0);
    drop(far);
    eventually("its end is found", || {
        let lease = pool.pull().unwrap();
        Connection::id(&lease) != first
    });
}
