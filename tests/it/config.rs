//! Settings that are refused, errors as their readers see them, and what the types promise.

use std::cell::Cell;
use std::error::Error as _;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::thread;
use std::time::Duration;

use jackpot::{
    Backoff, Builder, Close, Connection, ConnectionInfo, Connector, Delays, Error, Event, Eviction,
    Factory, Freed, Jitter, Pool, State, Stats, Stream,
};

use crate::support::{
    Events, Gate, NEVER, Peer, Server, ask, background, eventually, one_retry, refused,
};

fn nowhere() -> io::Result<TcpStream> {
    Err(ErrorKind::ConnectionRefused.into())
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_by_its_name_and_value() {
    let new = || Pool::builder(nowhere);
    let zero = Some(Duration::ZERO);
    let backoff = Backoff::new();
    let cases = [
        (new().limit(0), &["limit", "not 0"][..]),
        (new().limit(3).min_idle(5), &["min_idle", "5", "3"]),
        (new().max_connecting(0), &["max_connecting", "not 0"]),
        (new().read_timeout(zero), &["read_timeout", "not 0ns"]),
        (new().write_timeout(zero), &["write_timeout", "not 0ns"]),
        (new().reap_interval(zero), &["reap_interval", "not 0ns"]),
        (
            new().ping(Duration::ZERO, |_| Ok::<_, io::Error>(())),
            &["ping interval", "not 0ns"],
        ),
        (
            new().backoff(backoff.clone().factor(0.99)),
            &["backoff factor", "not 0.99"],
        ),
        (
            new().backoff(backoff.clone().factor(f64::NAN)),
            &["backoff factor", "not NaN"],
        ),
        (
            new().backoff(backoff.clone().factor(f64::INFINITY)),
            &["backoff factor", "not inf"],
        ),
        (
            new().backoff(backoff.clone().min(NEVER)),
            &["backoff min", "3600s", "60s"],
        ),
    ];
    for (builder, parts) in cases {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)), "{error:?}");
        assert!(error.source().is_none());
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let error = Pool::new(0, nowhere).unwrap_err();
    assert_eq!(error.to_string(), "limit must be at least 1, not 0");
}

#[test]
fn a_ping_or_recycle_before_the_handshake_is_refused() {
    let fine = |_: &mut Stream| Ok::<_, io::Error>(());
    for (builder, name) in [
        (Pool::builder(nowhere).ping(NEVER, fine), "ping"),
        (Pool::builder(nowhere).recycle(fine), "recycle"),
    ] {
        let builder = builder.handshake(Ok::<_, io::Error>);
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("handshake"), "{text}");
    }
    let builder = Pool::builder(nowhere).handshake(Ok::<_, io::Error>);
    builder.ping(NEVER, fine).recycle(fine).build().unwrap();
}

#[test]
fn a_handshake_leaves_the_other_settings_as_they_were() {
    let events = Events::default();
    let builder = Pool::builder(nowhere)
        .limit(7)
        .min_idle(3)
        .max_connecting(2)
        .backoff(one_retry())
        .idle_timeout(Some(Duration::from_secs(11)))
        .max_lifetime(Some(Duration::from_secs(12)))
        .reap_interval(None)
        .probe_after(Duration::from_secs(13))
        .read_timeout(Some(Duration::from_secs(14)))
        .write_timeout(Some(Duration::from_secs(15)))
        .only_finished(true)
        .allow_unread(true)
        .allow_unanswered(true)
        .leak_after(Some(Duration::from_secs(16)))
        .on_event(events.listener());
    let before = format!("{builder:?}");
    let builder = builder.handshake(|_| Ok::<_, io::Error>(Cell::new(1)));
    assert_eq!(format!("{builder:?}"), before);
    let pool = builder.build().unwrap();
    assert_eq!((pool.limit(), pool.backoff()), (7, one_retry()));
    pool.end();
    eventually("its end is told", || events.count("ended") == 1);
}

#[test]
fn settings_may_be_extreme() {
    let server = Server::echo();
    let address = server.address();
    let ever = Duration::MAX;
    let pool = Pool::builder(move || TcpStream::connect(address))
        .limit(usize::MAX)
        .min_idle(1)
        .max_connecting(usize::MAX)
        .backoff(
            Backoff::new()
                .retries(u32::MAX)
                .factor(f64::MAX)
                .min(ever)
                .max(ever),
        )
        .idle_timeout(Some(ever))
        .max_lifetime(Some(ever))
        .reap_interval(Some(ever))
        .probe_after(ever)
        .read_timeout(Some(ever))
        .write_timeout(Some(ever))
        .leak_after(Some(ever))
        .ping(ever, |_| Ok::<_, io::Error>(()))
        .build()
        .unwrap();
    let mut connection = pool.pull_timeout(ever).unwrap();
    assert_eq!(ask(&mut *connection, "hello").unwrap(), "hello");
    pool.reap();
    drop(connection);
    eventually("min_idle is filled", || pool.stats().connecting == 0);
    let open = pool.stats().open;
    assert_eq!(pool.free(usize::MAX).kept, open);
    assert!(pool.drain(ever));
}

#[test]
fn the_largest_limit_may_all_be_kept_idle_while_somebody_waits() {
    let gate = Gate::default();
    let pool = Pool::builder({
        let gate = gate.clone();
        move || {
            gate.pass();
            nowhere()
        }
    })
    .limit(usize::MAX)
    .min_idle(usize::MAX)
    .max_connecting(1)
    .build()
    .unwrap();
    let caller = thread::spawn({
        let pool = pool.clone();
        move || pool.allocate().map(drop)
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    gate.open();
    assert!(caller.join().unwrap().unwrap_err().is_connect());
}

#[test]
fn lapses_of_zero_are_allowed() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .idle_timeout(Some(Duration::ZERO))
        .max_lifetime(Some(Duration::ZERO))
        .leak_after(Some(Duration::ZERO))
        .backoff(
            Backoff::new()
                .retries(0)
                .min(Duration::ZERO)
                .max(Duration::ZERO),
        )
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    assert_eq!(pool.stats().evicted(Eviction::MaxLifetime), 1);
}

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
    let sleepers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            background(move || pool.pull())
        })
        .collect();
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

#[test]
fn debug_shows_the_outside_whatever_the_client_is() {
    struct Opaque;

    let peer = Peer::new();
    let builder = peer.builder(3).handshake(|_| Ok::<_, io::Error>(Opaque));
    let shown = format!("{builder:?}");
    assert!(shown.contains("limit: 3"), "{shown}");
    let pool = builder.build().unwrap();
    let connection = pool.pull().unwrap();
    let port = peer.address().port().to_string();
    let shown = format!("{connection:?}");
    assert!(shown.contains("id: 1") && shown.contains(&port), "{shown}");
    let shown = format!("{:?}", Connection::stream(&connection));
    assert!(
        shown.starts_with("Stream") && shown.contains(&port),
        "{shown}"
    );
    let shown = format!("{pool:?}");
    assert!(
        shown.contains("leased: 1") && shown.contains("ended: false"),
        "{shown}"
    );
}

#[test]
fn stats_are_one_line() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    Connection::discard(pool.pull().unwrap());
    let line = pool.stats().to_string();
    assert!(!line.contains('\n'), "{line}");
    for part in [
        "limit 2: 0 idle, 0 leased, 0 connecting, 0 waiting",
        "1 allocations, 1 connects",
        "1 discarded",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_factory_may_be_a_closure_a_function_or_a_type_of_ones_own() {
    struct Fixed(SocketAddr);

    impl Factory for Fixed {
        fn connect(&self) -> io::Result<TcpStream> {
            TcpStream::connect(self.0)
        }
    }

    let peer = Peer::new();
    let address = peer.address();
    let connector = Connector::new(address.to_string())
        .connect_timeout(NEVER)
        .nodelay(false)
        .keepalive(None)
        .user_timeout(None);
    let pools = [
        Pool::new(1, Fixed(address)).unwrap(),
        Pool::new(1, move || TcpStream::connect(address)).unwrap(),
        Pool::new(1, connector.clone()).unwrap(),
        Pool::builder(connector).limit(1).build().unwrap(),
    ];
    for pool in pools {
        assert_eq!(pool.pull().unwrap().peer_addr().unwrap(), address);
    }
    let pool = Pool::new(1, nowhere).unwrap();
    assert!(pool.allocate().unwrap_err().is_connect());
    pool.set_factory(Fixed(address));
    assert!(pool.pull().is_ok());
}

/// Compiles only if a lease reads and writes with no more bounds than these.
fn answer<C: BufRead + Write>(connection: &mut Connection<C>) -> io::Result<String> {
    let mut line = String::new();
    connection.write_all(b"question\n")?;
    connection.flush()?;
    connection.read_line(&mut line)?;
    Ok(line)
}

fn first_byte<C: Read>(connection: &mut Connection<C>) -> io::Result<u8> {
    let mut byte = [0];
    connection.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn bare<C>(connection: Connection<C>) -> (u64, SocketAddr, C) {
    let address = Connection::stream(&connection).peer_addr().unwrap();
    (
        Connection::id(&connection),
        address,
        Connection::detach(connection),
    )
}

/// A buffered client that can be written to.
struct Lines(BufReader<Stream>);

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Lines {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl Write for Lines {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

#[test]
fn a_lease_reads_and_writes_as_its_client_does() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .handshake(|stream| Ok::<_, io::Error>(Lines(BufReader::new(stream))))
        .build()
        .unwrap();
    let mut connection = pool.pull().unwrap();
    assert_eq!(answer(&mut connection).unwrap(), "question\n");
    connection.write_all(b"!\n").unwrap();
    assert_eq!(first_byte(&mut connection).unwrap(), b'!');
    assert_eq!(connection.0.buffer(), b"\n", "C's own fields and methods");
    let (id, peer, mut lines) = bare(connection);
    assert_eq!((id, peer), (1, address));
    assert_eq!(first_line(&mut lines), "\n");
}

fn first_line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line
}

#[test]
fn a_stream_reads_and_writes_through_a_shared_reference() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(1, move || TcpStream::connect(address)).unwrap();
    let connection = pool.pull().unwrap();
    let mut shared: &Stream = &connection;
    assert_eq!(ask(&mut shared, "shared").unwrap(), "shared");
    #[cfg(unix)]
    {
        use std::os::fd::{AsFd, AsRawFd};

        assert_eq!(shared.as_fd().as_raw_fd(), shared.as_raw_fd());
    }
}

#[test]
fn the_types_keep_their_promises() {
    fn crosses_threads<T: Send + Sync>() {}
    fn can_be_sent<T: Send>() {}
    fn survives_unwinding<T: UnwindSafe + RefUnwindSafe>() {}
    fn is_a_small_value<T: Copy + Debug + Eq + Hash + Send + Sync>() {}
    fn can_be_shown<T: Debug>() {}
    fn is_data<T: Clone + Debug + PartialEq + Default>() {}
    fn can_be_copied<T: Clone + Debug>() {}
    fn reads_well<T: Display + std::error::Error>() {}
    fn gives_delays<T: Iterator<Item = Duration> + Clone + Debug>() {}
    fn compares<T: Copy + Eq>() {}

    crosses_threads::<Pool>();
    crosses_threads::<Pool<Cell<u8>>>(); // a client need not be `Sync`
    crosses_threads::<Connection>();
    can_be_sent::<Connection<Cell<u8>>>();
    crosses_threads::<Stream>();
    crosses_threads::<Builder>();
    crosses_threads::<Error>();
    crosses_threads::<Event>();
    crosses_threads::<Stats>();
    crosses_threads::<ConnectionInfo>();
    crosses_threads::<Connector>();
    crosses_threads::<Backoff>();
    survives_unwinding::<Pool>();
    survives_unwinding::<Pool<Cell<u8>>>();
    is_a_small_value::<Jitter>();
    is_a_small_value::<Close>();
    is_a_small_value::<State>();
    is_a_small_value::<Eviction>();
    can_be_shown::<Event>();

    is_data::<Backoff>();
    is_data::<Stats>();
    can_be_copied::<Pool<Cell<u8>>>();
    can_be_copied::<Connector>();
    can_be_copied::<ConnectionInfo>();
    can_be_copied::<Freed>();
    reads_well::<Error>();
    gives_delays::<Delays>();
    compares::<Freed>();
}
