//! A server that accepts and hangs up.

use super::*;
use crate::support::on_threads;

#[test]
fn a_server_that_resets_every_handshake_is_asked_ten_times_a_second_at_most() {
    let bystander = Bystander::new();
    let server = Server::serving(|socket| {
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    });
    let pool = server
        .builder(5)
        .handshake(|mut stream| stream.read_exact(&mut [0; 4]).map(|()| stream))
        .build()
        .unwrap();
    let begun = Instant::now();
    let callers = on_threads(&pool, 10, |pool, _| {
        let error = pool.pull_timeout(4 * BOUND).unwrap_err();
        (error, Instant::now())
    });
    for caller in callers {
        let (error, at) = caller.join();
        assert!(error.is_timeout() && !error.is_full(), "{error}");
        assert!(at - begun < SOON / 2, "{:?}", at - begun);
    }
    assert_few_connects(&pool, begun, 0);
    assert_eq!(pool.stats().open, 0);
    bystander.assert_undisturbed();
}

/// At most ten connects a second, and those of one burst.
#[track_caller]
fn assert_few_connects<C: Send + 'static>(pool: &Pool<C>, begun: Instant, burst: u64) {
    let stats = pool.stats();
    let tenths = u64::try_from(begun.elapsed().as_millis() / 100).unwrap();
    let most = tenths + 1 + burst + stats.limit as u64;
    let connects = stats.connects + stats.connect_failures;
    assert!(connects <= most, "{connects}, not {most} at most: {stats}");
}

/// A server that accepts and hangs up at once, as long as it is told to.
fn fickle() -> (Server, Arc<AtomicBool>) {
    let hangs_up = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&hangs_up);
    let server = Server::serving(move |mut socket| {
        let mut bytes = [0; 64];
        while !told.load(SeqCst) {
            match socket.read(&mut bytes) {
                Ok(count @ 1..) if socket.write_all(&bytes[..count]).is_ok() => {}
                _ => return,
            }
        }
    });
    (server, hangs_up)
}

#[test]
fn a_server_that_hangs_up_on_everybody_is_asked_ten_times_a_second_at_most() {
    const CALLERS: usize = 20;
    let bystander = Bystander::new();
    let (server, hangs_up) = fickle();
    let pool = server
        .builder(5)
        .backoff(Backoff::new().retries(1000).max(Duration::from_secs(60)))
        .build()
        .unwrap();
    let begun = Instant::now();
    let (tell, told) = mpsc::channel();
    for _ in 0..CALLERS {
        let (pool, tell) = (pool.clone(), tell.clone());
        thread::spawn(move || {
            let answered = |mut lease: Connection| ask(&mut lease, "hello?").is_ok();
            while !pool.pull().is_ok_and(answered) {}
            tell.send(Instant::now())
        });
    }
    eventually("time has passed", || begun.elapsed() > 5 * BOUND);
    // One that hung up before the gate shut for each place, and ten that are tolerated.
    assert_few_connects(&pool, begun, 10);
    hangs_up.store(false, SeqCst);
    let mut times: Vec<Instant> = (0..CALLERS)
        .map(|_| told.recv_timeout(SOON).unwrap())
        .collect();
    times.sort_unstable();
    let spread = times[CALLERS - 1] - times[0];
    assert!(spread < Duration::from_secs(5), "{spread:?}");
    bystander.assert_undisturbed();
}

/// A pool whose server hung up on so many connections in a row.
fn hung_up_on(server: &Server, times: usize) -> Pool {
    let pool = pool(server.address(), 5);
    for _ in 0..times {
        hang_up(&pool);
    }
    pool
}

/// Takes a new connection and sees the other side hang up on it.
fn hang_up(pool: &Pool) {
    let mut lease = pool.allocate().unwrap();
    let left = lease.read(&mut [0; 8]);
    assert!(!left.as_ref().is_ok_and(|&count| count > 0));
    assert!(!came_to_nothing(&left));
}

#[test]
fn the_eleventh_hang_up_in_a_row_is_a_failed_connect_and_says_so() {
    let (server, hangs_up) = fickle();
    let pool = hung_up_on(&server, 10);
    let warnings = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&warnings);
    overhear(move |record| {
        if record.level() == log::Level::Warn {
            counter.fetch_add(1, SeqCst);
        }
    });
    hang_up(&pool);
    assert_eq!(warnings.load(SeqCst), 1);

    // As soon as a connect is due again it may start: until then the failure is shared.
    let error = pool.pull_timeout(Duration::ZERO).unwrap_err();
    let cause = error.io_error().unwrap();
    assert_eq!(cause.kind(), ErrorKind::ConnectionAborted);
    assert!(cause.to_string().contains("hung up"), "{cause}");
    assert!(error.is_timeout() && error.is_connect());
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.connect_failures), (11, 0));

    hangs_up.store(false, SeqCst);
    let mut lease = pool.pull().unwrap();
    assert!(is_shut(&pool), "a connect alone opens nothing");
    assert_eq!(ask(&mut lease, "hello?").unwrap(), "hello?");
    drop(lease);
    assert!(!is_shut(&pool));
}

/// Whether the pool takes the other side to be away.
fn is_shut<C: Send + 'static>(pool: &Pool<C>) -> bool {
    let leases: Vec<_> = (0..pool.stats().idle)
        .map(|_| pool.allocate().unwrap())
        .collect();
    let error = pool.pull_timeout(Duration::ZERO).unwrap_err();
    drop(leases);
    error.is_connect()
}

#[test]
fn a_lease_discarded_after_a_hang_up_counts_too() {
    let (server, _) = fickle();
    let pool = pool(server.address(), 1);
    for _ in 0..11 {
        assert!(!is_shut(&pool));
        let mut lease = pool.pull().unwrap();
        let _ = lease.read(&mut [0; 8]);
        Connection::discard(lease);
    }
    assert!(is_shut(&pool));
}

#[test]
fn a_hang_up_that_is_found_before_a_client_is_recycled_counts_too() {
    let range = Range::new(1, |b| b.recycle(|_| Ok::<_, io::Error>(())));
    for _ in 0..11 {
        assert!(!is_shut(&range.pool));
        let (lease, mut ends) = range.lease();
        ends.strike(Fault::Fin);
        drop(lease);
    }
    assert!(is_shut(&range.pool));
}

#[test]
fn a_sweep_tells_hang_ups_from_other_ends() {
    for (fault, is_hang_up) in [
        (Fault::Fin, true),
        (Fault::StrayFin, false),
        (Fault::OurHalfClose, false),
    ] {
        let range = Range::new(1, |b| b.min_idle(1));
        for _ in 0..11 {
            let mut ends = range.ends();
            eventually("it is idle", || range.pool.stats().idle == 1);
            ends.strike(fault);
            assert_eq!(range.pool.reap(), 1);
        }
        assert_eq!(range.pool.outage().is_some(), is_hang_up, "{fault:?}");
    }
}

#[test]
fn a_single_byte_sets_the_count_of_hang_ups_back_to_zero() {
    let (server, hangs_up) = fickle();
    let pool = hung_up_on(&server, 10);
    hangs_up.store(false, SeqCst);
    let mut lease = pool.allocate().unwrap();
    lease.write_all(b"?").unwrap();
    lease.read_exact(&mut [0]).unwrap();
    Connection::discard(lease);
    hangs_up.store(true, SeqCst);
    for _ in 0..10 {
        hang_up(&pool);
    }
    assert!(!is_shut(&pool));
    hang_up(&pool);
    assert!(is_shut(&pool));
}

#[test]
fn a_server_that_answers_and_closes_is_not_taken_for_one_that_hangs_up() {
    let server = Server::new(|_| Act::EchoFin);
    let pool = pool(server.address(), 1);
    for _ in 0..30 {
        let mut lease = pool.allocate().unwrap();
        assert_eq!(ask(&mut lease, "hello?").unwrap(), "hello?");
        assert_eq!(lease.read(&mut [0; 8]).unwrap(), 0);
    }
    assert_eq!(pool.stats().connects, 30);
}

#[test]
fn a_restart_is_not_taken_for_hang_ups() {
    let mut server = Server::echo();
    let pool = pool(server.address(), 30);
    let mut leases: Vec<_> = (0..30).map(|_| pool.allocate().unwrap()).collect();
    for lease in &mut leases {
        ask(lease, "before").unwrap();
    }
    server.die(true);
    server.come_back();
    for mut lease in leases {
        ask(&mut lease, "lost").unwrap_err();
    }
    let mut leases: Vec<_> = (0..30).map(|_| pool.allocate().unwrap()).collect();
    for lease in &mut leases {
        ask(lease, "after").unwrap();
    }
}

/// It never reads: what came back fit was of use, and what breaks later says nothing.
#[test]
fn a_caller_that_only_sends_is_not_slowed_by_a_restart() {
    let peer = Peer::new();
    let builder = peer.builder(20).allow_unanswered(true);
    let pool = builder.build().unwrap();
    let send = |pool: &Pool| {
        let mut leases: Vec<_> = (0..20).map(|_| pool.allocate().unwrap()).collect();
        for lease in &mut leases {
            lease.write_all(b"line\n").unwrap();
        }
        leases
    };
    drop(send(&pool));
    let mut leases = send(&pool);
    for _ in 0..20 {
        drop(peer.accept());
    }
    for lease in &mut leases {
        eventually("the write fails", || lease.write_all(b"line\n").is_err());
    }
    drop(leases);
    assert_eq!(pool.stats().evicted(Eviction::Broken), 20);
    assert!(!is_shut(&pool));
    drop(send(&pool));
    assert_eq!(pool.stats().connects, 40);
}

#[test]
fn a_lease_that_is_finished_was_not_hung_up_on() {
    let (server, _) = fickle();
    let pool = pool(server.address(), 1);
    for _ in 0..30 {
        let mut lease = pool.allocate().unwrap();
        let _ = lease.read(&mut [0; 8]); // that it closes is the answer
        Connection::finish(lease);
    }
    assert_eq!(pool.stats().connects, 30);
}

#[test]
fn what_we_end_ourselves_is_no_hang_up() {
    let server = Server::echo();
    let pool = pool(server.address(), 1);
    for _ in 0..15 {
        let mut lease = pool.allocate().unwrap();
        pool.free_with(0, Close::Hard);
        assert_eq!(lease.read(&mut [0; 8]).unwrap(), 0);
    }
    for _ in 0..15 {
        let mut lease = pool.allocate().unwrap();
        lease.shutdown(Shutdown::Write).unwrap();
        assert_eq!(lease.read(&mut [0; 8]).unwrap(), 0);
    }
    assert_eq!(pool.stats().connects, 30);
}

#[test]
fn another_factory_forgets_the_hang_ups() {
    let (server, _) = fickle();
    let pool = hung_up_on(&server, 11);
    assert!(is_shut(&pool));
    let good = Server::echo();
    let address = good.address();
    pool.set_factory(move || TcpStream::connect(address));
    assert!(!is_shut(&pool));
    let leases: Vec<Result<Connection, Error>> = (0..5).map(|_| pool.allocate()).collect();
    assert!(leases.iter().all(Result::is_ok));
}
