//! A crowd that waits out an outage: it does not storm the server, spin or swell meanwhile, and is
//! served soon when the server is back.
//!
//! `JACKPOT_SCALE=full cargo test --release --test it scale:: -- --nocapture --test-threads 1` has
//! 1,000 threads wait for ten seconds, and prints what it measures.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::Pool;
use socket2::{Domain, Socket, Type};

use crate::support::{BlackHole, SOON, Server, alone, ask, assert_sums, eventually};

/// How many connects may start in a second of an outage.
const PER_SECOND: usize = 10;

/// How many connections may be hung up on before that is an outage.
const TOLERATED: usize = 10;

const LIMIT: usize = 20;
const MAX_CONNECTING: usize = 8;

#[test]
fn a_crowd_before_a_refused_port_neither_storms_nor_spins() {
    alone(
        "scale::a_crowd_before_a_refused_port_neither_storms_nor_spins",
        || {
            // Bound and not listening: nobody else can have the port.
            let claim = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            claim.bind(&any.into()).unwrap();
            let address = claim.local_addr().unwrap().as_socket().unwrap();
            wait_out("refused", address, MAX_CONNECTING);
        },
    );
}

#[test]
fn a_crowd_before_a_deaf_listener_neither_storms_nor_spins() {
    alone(
        "scale::a_crowd_before_a_deaf_listener_neither_storms_nor_spins",
        || wait_out("deaf", BlackHole::new().address(), MAX_CONNECTING),
    );
}

#[test]
fn a_crowd_that_is_hung_up_on_neither_storms_nor_spins() {
    alone(
        "scale::a_crowd_that_is_hung_up_on_neither_storms_nor_spins",
        || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            thread::spawn(move || {
                for socket in listener.incoming() {
                    drop(socket);
                }
            });
            // Each connect succeeds, so all places may be taken before the first caller sees how
            // it ended.
            wait_out("hangs up", address, LIMIT + TOLERATED);
        },
    );
}

/// Has a crowd pull while connects go to `away`, and then to a server.
///
/// So many connects may start in a `burst`, before the pool knows what is the matter.
fn wait_out(kind: &str, away: SocketAddr, burst: usize) {
    let (threads, window) = scale();
    let server = Server::echo();
    let way = Way::to(away);
    let pool = Pool::builder(way.factory())
        .limit(LIMIT)
        .max_connecting(MAX_CONNECTING)
        .read_timeout(Some(SOON))
        .build()
        .unwrap();
    let began = Instant::now();
    let crowd: Vec<_> = (0..threads)
        .map(|number| {
            let pool = pool.clone();
            thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(move || be_served(&pool, &number.to_string()))
                .unwrap()
        })
        .collect();
    eventually("everybody waits who has no connection", || {
        pool.stats().waiting + LIMIT >= threads
    });
    let before = (Usage::now(), way.started(), Instant::now());
    thread::sleep(window);
    let after = (Usage::now(), way.started(), Instant::now());
    let took = after.2 - before.2;
    let busy = after.0.busy.saturating_sub(before.0.busy);
    let swollen = after.0.resident_kib.saturating_sub(before.0.resident_kib);

    let (most, in_all) = (way.most_in_a_second(), way.started());
    let away_for = began.elapsed();
    way.turn_to(server.address());
    let back = Instant::now();
    let mut replies: Vec<Instant> = crowd
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    replies.sort_unstable();
    let (first, last) = (replies[0], replies[threads - 1]);
    println!(
        "{kind}, {threads} threads for {took:.1?}: {} connects, {most} at most in any second, \
         processor time {busy:?}, memory {} KiB and {swollen} KiB more, {} voluntary switches; \
         back: first reply after {:.1?}, the last {:.1?} later; {}",
        after.1 - before.1,
        before.0.resident_kib,
        after.0.switches - before.0.switches,
        first.saturating_duration_since(back),
        last - first,
        pool.stats()
    );

    let seconds = usize::try_from(away_for.as_secs()).unwrap() + 1;
    let allowed = PER_SECOND * seconds + burst;
    assert!(in_all <= allowed, "{in_all} in {away_for:?}");
    assert!(most <= PER_SECOND + burst, "{most} in a second");
    assert!(busy < took / 4, "busy for {busy:?} of {took:?}");
    assert!(swollen < 2048, "{swollen} KiB more");
    let spread = last - first;
    assert!(spread < SOON / 2, "the last was served {spread:?} late");
    pool.end();
    assert!(pool.drain(SOON));
    assert_sums(&pool.stats());
}

/// How many threads there are, and for how long they are watched while they wait.
fn scale() -> (usize, Duration) {
    if env::var_os("JACKPOT_SCALE").is_some_and(|scale| scale == "full") {
        (1000, Duration::from_secs(10))
    } else {
        (100, Duration::from_secs(1))
    }
}

/// When this thread has had its reply.
fn be_served(pool: &Pool, line: &str) -> Instant {
    let deadline = Instant::now() + SOON * 5;
    loop {
        let error = match pool.pull() {
            Ok(mut connection) => match ask(&mut *connection, line) {
                Ok(reply) => {
                    assert_eq!(reply, line);
                    return Instant::now();
                }
                Err(error) => error,
            },
            Err(error) => error.into(),
        };
        assert!(Instant::now() < deadline, "never served: {error}");
    }
}

/// Where connects go, and when each began.
#[derive(Clone)]
struct Way {
    address: Arc<Mutex<SocketAddr>>,
    starts: Arc<Mutex<Vec<Instant>>>,
}

impl Way {
    fn to(address: SocketAddr) -> Self {
        Self {
            address: Arc::new(Mutex::new(address)),
            starts: Arc::default(),
        }
    }

    fn turn_to(&self, address: SocketAddr) {
        *self.address.lock().unwrap() = address;
    }

    fn factory(&self) -> impl jackpot::Factory {
        let way = self.clone();
        move || {
            way.starts.lock().unwrap().push(Instant::now());
            let address = *way.address.lock().unwrap();
            TcpStream::connect_timeout(&address, Duration::from_millis(250))
        }
    }

    fn started(&self) -> usize {
        self.starts.lock().unwrap().len()
    }

    /// How many connects began within one second of one of them, at most.
    fn most_in_a_second(&self) -> usize {
        let starts = self.starts.lock().unwrap();
        let second = Duration::from_secs(1);
        let counts = starts.iter().enumerate().map(|(index, &start)| {
            let later = starts[index..].iter();
            later.take_while(|&&at| at < start + second).count()
        });
        counts.max().unwrap_or(0)
    }
}

/// What this process uses.
struct Usage {
    busy: Duration,
    resident_kib: u64,
    /// How often one of its threads has gone to sleep.
    switches: u64,
}

impl Usage {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        // The second field is the program's name, in brackets.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let of_tasks = tasks.filter_map(|task| {
            let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            field(&status, "voluntary_ctxt_switches:")
        });
        Self {
            // Linux shows hundredths of a second, whatever its clock.
            busy: Duration::from_millis(ticks * 10),
            resident_kib: field(&status, "VmRSS:").unwrap(),
            switches: of_tasks.sum(),
        }
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
