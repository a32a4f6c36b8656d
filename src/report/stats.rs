//! What the pool counts, and what it knows of each connection.

use std::fmt;
use std::net::SocketAddr;
use std::panic::Location;
use std::time::Duration;

use crate::report::histogram::Histogram;
use crate::report::outcome::Eviction;

/// The pool's numbers at one instant, from [`Pool::stats`](crate::Pool::stats).
///
/// They are taken under one lock, so the sums hold in every snapshot: `open = idle + leased`, and
/// `connects = releases + open`. Gauges come first, then counters that only ever grow. `Display`
/// prints one line for a log.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
/// let connection = pool.pull()?;
/// let stats = pool.stats();
/// assert_eq!((stats.open, stats.idle, stats.leased), (1, 0, 1));
/// assert_eq!(stats.connects, stats.releases + stats.open as u64);
/// # drop(connection);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many connections the pool may have: idle, leased and connecting together.
    pub limit: usize,
    /// Connections that are open: `idle + leased`.
    pub open: usize,
    /// Connections that wait for somebody to use them.
    pub idle: usize,
    /// Connections that are out: with a caller, being probed for one, or in a ping.
    pub leased: usize,
    /// Connects and handshakes under way.
    pub connecting: usize,
    /// Threads blocked in `allocate` or `pull`, asleep in a backoff too.
    pub waiting: usize,
    /// Leases handed out, ever.
    pub allocations: u64,
    /// Connections that left the pool, for whatever cause, ever.
    pub releases: u64,
    /// Connects that succeeded, handshake included, ever.
    pub connects: u64,
    /// Connects that failed, handshake included, ever.
    pub connect_failures: u64,
    /// Calls that had to wait, ever; a call that is still waiting is not counted yet.
    pub waits: u64,
    /// How long those calls waited, together.
    pub wait_total: Duration,
    /// How long the longest of them waited.
    pub wait_max: Duration,
    /// Calls that ended with [`Error::TimedOut`](crate::Error::TimedOut), ever; of
    /// [`wait_ready`](crate::Pool::wait_ready) none.
    pub timeouts: u64,
    /// Calls that ended with [`Error::QueueFull`](crate::Error::QueueFull), ever.
    pub refusals: u64,
    /// How long calls waited, one by one.
    ///
    /// Its sum is [`wait_total`](Stats::wait_total) and its longest [`wait_max`](Stats::wait_max). A
    /// call that waits on because its connection proved dead has two entries here.
    pub wait_times: Histogram,
    /// How long connects took that succeeded, handshake included, from when they were started.
    pub connect_times: Histogram,
    /// How long leases lasted that are over; only with
    /// [`lease_events`](crate::Builder::lease_events).
    pub lease_times: Histogram,
    pub(crate) evictions: Evictions,
    /// Those of the leases that are out; collected for errors only.
    pub(crate) call_sites: CallSites,
}

impl Stats {
    /// How many connections left the pool for this reason, ever.
    ///
    /// The sum over all reasons is [`releases`](Stats::releases).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use jackpot::{Connection, Eviction};
    ///
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// Connection::discard(pool.pull()?);
    /// assert_eq!(pool.stats().evicted(Eviction::Discarded), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn evicted(&self, why: Eviction) -> u64 {
        self.evictions.0[why as usize]
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; {} allocations, {} connects, {} failed connects, {} releases",
            self.state(),
            self.allocations,
            self.connects,
            self.connect_failures,
            self.releases
        )?;
        for why in Eviction::all() {
            if self.evicted(why) > 0 {
                write!(f, ", {} {why}", self.evicted(why))?;
            }
        }
        write!(
            f,
            "; {} waits, {} in all, {} at most; {} timeouts, {} refusals",
            self.waits,
            Brief(self.wait_total),
            Brief(self.wait_max),
            self.timeouts,
            self.refusals
        )
    }
}

impl Stats {
    /// The state in the words that the errors use.
    pub(crate) fn state(&self) -> String {
        format!(
            "limit {}: {} idle, {} leased, {} connecting, {} waiting",
            self.limit, self.idle, self.leased, self.connecting, self.waiting
        )
    }
}

/// The most frequent places at which leases were taken, with their counts; `Display` lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallSites {
    leased: usize,
    most_frequent: Vec<(&'static str, u32, usize)>,
}

impl CallSites {
    /// How many of them an error's text names.
    const NAMED: usize = 3;

    pub(crate) fn new(leased: usize, all: &[&'static Location<'static>]) -> Self {
        let mut lines: Vec<_> = all.iter().map(|at| (at.file(), at.line())).collect();
        lines.sort_unstable();
        let mut counted: Vec<_> = lines
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0].0, same[0].1, same.len()))
            .collect();
        counted.sort_by_key(|&(_, _, count)| std::cmp::Reverse(count));
        counted.truncate(Self::NAMED);
        Self {
            leased,
            most_frequent: counted,
        }
    }
}

impl fmt::Display for CallSites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (file, line, count)) in self.most_frequent.iter().enumerate() {
            if n == 0 {
                write!(f, "; {} leased: ", self.leased)?;
            } else {
                f.write_str(", ")?;
            }
            write!(f, "{count} at {file}:{line}")?;
        }
        Ok(())
    }
}

/// One count for each [`Eviction`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evictions([u64; Eviction::COUNT]);

impl Evictions {
    pub(crate) fn count(&mut self, why: Eviction) {
        self.0[why as usize] += 1;
    }
}

/// What the pool knows of one connection, from [`Pool::connections`](crate::Pool::connections).
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// use jackpot::{Connection, State};
///
/// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
/// let connection = pool.pull()?;
/// let all = pool.connections();
/// assert_eq!(all[0].id, Connection::id(&connection));
/// assert_eq!(all[0].state, State::Leased);
/// assert_eq!(all[0].peer, Some(address));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's number: unique within its pool, never used again.
    pub id: u64,
    /// What it is doing.
    pub state: State,
    /// Our end's address; `None` while connecting, or where the system no longer knows it.
    pub local: Option<SocketAddr>,
    /// The other end's address; `None` while connecting, or where the system no longer knows it.
    pub peer: Option<SocketAddr>,
    /// Time since its connect was started (while connecting) or had succeeded (after that).
    pub age: Duration,
    /// Time since it entered its state, at most one reap interval too long.
    ///
    /// The pool reads the clock once for each lease, not twice. So either the time leased or the
    /// time idle counts from when it read the clock before:
    ///
    /// - The time leased, unless [`leak_after`](crate::Builder::leak_after),
    ///   [`lease_events`](crate::Builder::lease_events) or
    ///   [`probe_after`](crate::Builder::probe_after) is set, which make it exact.
    /// - With `probe_after` the time idle, unless `lease_events` is set, or `idle_timeout`,
    ///   `max_lifetime` or the ping's interval is below ten reap intervals.
    ///
    /// Without a reaper thread both are exact.
    pub in_state: Duration,
    /// How often it has been leased, pings included.
    pub leases: u64,
    /// Where the lease that is out was taken: the call of [`pull`](crate::Pool::pull) or its like.
    ///
    /// `None` while the connection is not leased, while it is still on its way to a caller that
    /// waited, and for a ping.
    pub taken_at: Option<&'static Location<'static>>,
}

/// What a connection is doing.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
/// drop(pool.pull()?);
/// assert_eq!(pool.connections()[0].state, jackpot::State::Idle);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Its connect or its handshake is under way.
    Connecting,
    /// It waits for somebody to use it.
    Idle,
    /// It is with a caller, or in a ping.
    Leased,
}

/// A duration as people say it: `4.2 s`, `350 ms`, `80 µs`.
pub(crate) struct Brief(pub(crate) Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= Duration::from_secs(1) {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        } else if self.0 >= Duration::from_millis(1) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{} µs", self.0.as_micros())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_one_line_and_name_only_the_evictions_that_happened() {
        let mut stats = Stats {
            limit: 20,
            ..Stats::default()
        };
        stats.evictions.count(Eviction::PeerClosed);
        let line = stats.to_string();
        assert!(!line.contains('\n'));
        assert!(line.contains("limit 20: 0 idle, 0 leased, 0 connecting, 0 waiting"));
        assert!(line.contains("1 closed by the peer"));
        assert!(!line.contains("idle too long"));
    }

    #[test]
    fn the_most_frequent_call_sites_come_first_and_a_line_counts_once() {
        let here = || Location::caller();
        let (a, b) = (here(), Location::caller());
        #[rustfmt::skip]
        let (same, line) = (Location::caller(), Location::caller());
        assert_ne!(same.column(), line.column());
        let others = [Location::caller()];
        let all = [b, same, line, a, same, a, a, a, others[0]];
        let shown = CallSites::new(20, &all).to_string();
        let file = file!();
        let first = format!("; 20 leased: 4 at {file}:{}", a.line());
        let second = format!(", 3 at {file}:{}, 1 at ", same.line());
        assert!(shown.starts_with(&(first + &second)), "{shown}");
        assert_eq!(shown.matches(" at ").count(), 3);
        assert_eq!(CallSites::new(3, &[]).to_string(), "");
    }

    #[test]
    fn durations_are_brief() {
        let brief = |d| Brief(d).to_string();
        assert_eq!(brief(Duration::from_millis(4234)), "4.2 s");
        assert_eq!(brief(Duration::from_millis(350)), "350 ms");
        assert_eq!(brief(Duration::from_micros(80)), "80 µs");
    }
}
