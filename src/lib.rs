//! A fault-tolerant pool of blocking TCP connections, for programs without an async runtime.
//!
//! A [`Pool`] hands out live sockets, notices dead ones by itself, and rides out restarts of the
//! other side. A connection is never released by hand: it goes back when its guard is dropped, if
//! and only if it is fit for the next caller.
//!
//! The crate is not for async programs, and not for protocols whose replies come in any order
//! (HTTP/2, multiplexed RPC): a lease is exclusive, and its thread blocks. Where they come in order,
//! see [shared calls](#shared-calls). How to choose the settings, and what to do when something goes
//! wrong: the [`guide`].
//!
//! # Hello
//!
//! A pool takes a limit and a way to connect. [`pull`](Pool::pull) gives a [`Connection`], which
//! reads and writes as the socket does.
//!
//! ```
//! # use std::net::TcpListener;
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?.to_string();
//! # std::thread::spawn(move || {
//! #     let (mut peer, _) = server.accept().unwrap();
//! #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
//! # });
//! use jackpot::{Connector, Pool};
//! use std::io::{Read, Write};
//!
//! let pool = Pool::new(20, Connector::new(address))?; // "host:port"
//! {
//!     let mut connection = pool.pull()?;
//!     connection.write_all(b"hello")?;
//!     let mut reply = [0; 5];
//!     connection.read_exact(&mut reply)?;
//!     assert_eq!(&reply, b"hello");
//! } // goes back here
//! assert_eq!(pool.stats().idle, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where connections come from
//!
//! Every `Fn() -> io::Result<TcpStream>` is a [`Factory`]. A [`Connector`] is the one for most
//! programs: on each connect it resolves the name again and tries every address within one time
//! budget. It turns on no-delay, and keepalive, which finds a peer that has vanished.
//!
//! ```
//! # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! use jackpot::{Connector, Pool};
//! use std::net::TcpStream;
//! use std::time::Duration;
//!
//! let simple = Pool::new(20, move || TcpStream::connect(address))?;
//! assert_eq!(simple.pull()?.peer_addr()?, address);
//!
//! let connector = Connector::new(address.to_string()).connect_timeout(Duration::from_secs(2));
//! let careful = Pool::new(20, connector)?;
//! assert!(careful.pull()?.nodelay()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A factory runs on a thread of the pool's own, never on the caller's. So a caller takes whichever
//! comes first, the connection made for it or one that another caller gives back.
//!
//! # Allocating and pulling
//!
//! The ways to ask for a connection differ only in how long they go on trying.
//!
//! | | tries | blocks |
//! |---|---|---|
//! | [`allocate`](Pool::allocate) | once: an idle connection, else a new one, else [`Error::Full`] | while it connects |
//! | [`pull`](Pool::pull) | again and again, as the [`Backoff`] says | for the tries and the delays between them |
//! | [`pull_timeout`](Pool::pull_timeout), [`pull_until`](Pool::pull_until) | as `pull` | until the given time at most |
//!
//! The limit is hard: idle, leased and connecting together never exceed it.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! use jackpot::Pool;
//! use std::time::Duration;
//!
//! let pool = Pool::new(1, move || TcpStream::connect(address))?;
//! let only = pool.allocate()?;
//! assert!(pool.allocate().unwrap_err().is_full()); // at once
//!
//! let error = pool.pull_timeout(Duration::from_millis(20)).unwrap_err();
//! assert!(error.is_timeout() && error.is_full());
//! # drop(only);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Waiting
//!
//! Waiting is first come, first served. A connection that comes back is handed to the caller that
//! has waited longest, and so is the place of a connection that closed. The delays of the
//! [`Backoff`] only bound how long a caller goes on trying: it is woken from them as soon as it can
//! have a connection.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # use jackpot::{Connection, Pool};
//! let pool = Pool::new(1, move || TcpStream::connect(address))?;
//! let held = pool.pull()?;
//! let id = Connection::id(&held);
//! let waiter = std::thread::spawn({
//!     let pool = pool.clone(); // a handle: cheap to clone, for every thread
//!     move || pool.pull().map(|connection| Connection::id(&connection))
//! });
//! while pool.stats().waiting == 0 {
//!     std::thread::yield_now();
//! }
//! drop(held); // handed to the waiter, which sleeps no longer
//! assert_eq!(waiter.join().unwrap()?, id);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What goes back
//!
//! A connection is used again only if the conversation on it is over. Its [`Stream`] remembers what
//! was done: after a write, or a read that timed out, a reply is outstanding, which the next caller
//! would take for its own. Such a connection is closed, and so is one that broke, one with unread
//! bytes, and one whose holder panicked.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! use jackpot::{Eviction, Pool};
//! use std::io::{Read, Write};
//! use std::time::Duration;
//!
//! let pool = Pool::new(20, move || TcpStream::connect(address))?;
//! let mut connection = pool.pull()?;
//! connection.set_read_timeout(Some(Duration::from_millis(10)))?;
//! connection.write_all(b"are you there?")?;
//! assert!(connection.read(&mut [0; 8]).is_err()); // no answer in time
//! drop(connection); // closed: nobody gets a late answer
//! assert_eq!(pool.stats().evicted(Eviction::Unanswered), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where this rule cannot tell, the caller does: with [`Connection::finish`] if the conversation is
//! over although it ended with a write, with [`Connection::discard`] if it is not over, after half
//! a reply or after the first of two replies for instance. With [`Builder::only_finished`] a
//! connection goes back by `finish` only.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
//! use jackpot::Connection;
//! use std::io::Write;
//!
//! let mut connection = pool.pull()?;
//! connection.write_all(b"verbosity 1 noreply\r\n")?;
//! Connection::finish(connection);
//! assert_eq!(pool.stats().idle, 1);
//! Connection::discard(pool.pull()?);
//! assert_eq!(pool.stats().open, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Time-outs, no-delay, blocking mode and TTL that a caller changes are put back for the next one.
//!
//! # Shared calls
//!
//! Where each request has one reply, and they come in order, a [`Pipeline`] sends the requests of
//! many threads one behind the other on a few connections. Nobody holds one, and nobody gives one
//! back.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # std::thread::spawn(move || {
//! #     let (mut peer, _) = server.accept().unwrap();
//! #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
//! # });
//! use jackpot::{Pipeline, Pool};
//! use std::io::{self, BufRead};
//!
//! fn read_reply(reply: &mut dyn BufRead) -> io::Result<String> {
//!     let mut line = String::new();
//!     reply.read_line(&mut line)?;
//!     Ok(line)
//! }
//!
//! let pool = Pool::new(4, move || TcpStream::connect(address))?;
//! let lines = Pipeline::new(pool, read_reply);
//! assert_eq!(lines.call(b"get greeting\r\n")?, "get greeting\r\n"); // from any thread
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! When a connection breaks, all requests in flight on it are lost, and their [`CallError`] says so:
//! read about [`Pipeline`] before you choose it.
//!
//! # Liveness
//!
//! Every connection is probed before a caller gets it: one system call that asks the kernel and
//! sends nothing. The caller passes over a dead one and tries the next at once. The first dead one
//! also wakes the reaper, a thread that probes all the others and closes the dead: after a restart
//! of the server one caller pays for closing one dead socket, not for closing all of them. When a
//! connection dies within a lease, its holder sees a failed read or write.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! use jackpot::{Connection, Eviction, Pool};
//!
//! let pool = Pool::new(20, move || TcpStream::connect(address))?;
//! let first = Connection::id(&pool.pull()?);
//! drop(server.accept()?); // the server closes it
//! # while pool.stats().idle > 0 { pool.reap(); }
//! let second = pool.pull()?;
//! assert_ne!(Connection::id(&second), first);
//! assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The reaper also closes what has been idle for [`idle_timeout`](Builder::idle_timeout) or is
//! older than [`max_lifetime`](Builder::max_lifetime), keeps [`min_idle`](Builder::min_idle)
//! connections ready, and has connections [`ping`](Builder::ping)ed, for servers that hang without
//! closing.
//!
//! # Outages
//!
//! While connects fail, the pool makes one at a time and at most ten in a second, however many
//! threads ask; they share the failure. As long as somebody waits, the pool tries at least once a
//! second, and the first success serves everybody. The pool never gives up; each call does, by its
//! own backoff. A server that accepts connections and hangs up on one after the other, without a
//! byte, is treated as if it had refused them, until it sends a byte or hangs up on none for a
//! second.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # use jackpot::Pool;
//! use std::io::{Error, ErrorKind};
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicBool, Ordering};
//!
//! let up = Arc::new(AtomicBool::new(false));
//! let server_is_up = Arc::clone(&up);
//! let pool = Pool::new(20, move || {
//!     if !server_is_up.load(Ordering::SeqCst) {
//!         return Err(Error::from(ErrorKind::ConnectionRefused));
//!     }
//!     TcpStream::connect(address)
//! })?;
//! let caller = std::thread::spawn({
//!     let pool = pool.clone();
//!     move || pool.pull().map(drop)
//! });
//! while pool.stats().connect_failures == 0 {
//!     std::thread::yield_now();
//! }
//! up.store(true, Ordering::SeqCst);
//! caller.join().unwrap()?; // it never saw the outage
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An [`Error`] is a diagnosis: what was tried, how often, for how long, and the pool's state. The
//! cause is its source, down to the [`io::Error`](std::io::Error) of the connect.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! use jackpot::{Backoff, Pool};
//! use std::io::ErrorKind;
//!
//! let pool = Pool::new(20, move || TcpStream::connect(address))?; // nobody listens there
//! pool.set_backoff(Backoff::new().retries(0))?;
//! let error = pool.pull().unwrap_err();
//! assert!(error.to_string().starts_with("no connection after 1 try in "));
//! assert_eq!(error.io_error().unwrap().kind(), ErrorKind::ConnectionRefused);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Deadlines and repetition
//!
//! [`set_deadline`](Stream::set_deadline) bounds all reads and writes of a lease together, through
//! every client on top. The pool repeats no request by itself; [`retry_until`](Pool::retry_until) is
//! for requests that may be executed twice: it pulls, gives the lease the deadline, and runs the
//! request again on another connection if the one it had broke before a byte of a reply came.
//! [`buffered`](Builder::buffered) makes leases of a [`BufStream`], with which a request of many
//! small writes is one system call, and a reply is read by lines.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # std::thread::spawn(move || {
//! #     let (mut peer, _) = server.accept().unwrap();
//! #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
//! # });
//! use jackpot::Pool;
//! use std::io::{self, BufRead, Write};
//! use std::time::{Duration, Instant};
//!
//! let pool = Pool::builder(move || TcpStream::connect(address)).buffered().build()?;
//! let line = pool.retry_until(Instant::now() + Duration::from_secs(2), |lease| {
//!     writeln!(lease, "get {}", "key")?;
//!     let mut line = String::new();
//!     lease.read_line(&mut line)?;
//!     if line.ends_with('\n') {
//!         Ok(line)
//!     } else {
//!         Err(io::Error::from(io::ErrorKind::UnexpectedEof)) // std says `Ok` to a line cut off
//!     }
//! })?;
//! assert_eq!(line, "get key\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Clients on top
//!
//! A [`handshake`](Builder::handshake) turns each new socket into what callers work with: a
//! `BufReader`, a TLS session, a protocol client. A probe cannot see what a client holds in buffers
//! of its own, other than a [`BufStream`]: a [`recycle`](Builder::recycle) function can.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # std::thread::spawn(move || {
//! #     let (mut peer, _) = server.accept().unwrap();
//! #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
//! # });
//! use jackpot::Pool;
//! use std::io::{self, BufRead, BufReader, Write};
//!
//! let pool = Pool::builder(move || TcpStream::connect(address))
//!     .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
//!     .recycle(|lines| match lines.buffer() {
//!         [] => Ok(()),
//!         _ => Err("bytes that nobody read"),
//!     })
//!     .build()?;
//! let mut lines = pool.pull()?;
//! lines.get_mut().write_all(b"one line\n")?;
//! let mut line = String::new();
//! lines.read_line(&mut line)?;
//! assert_eq!(line, "one line\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Shutting down
//!
//! [`end`](Pool::end) closes what is idle, wakes everybody who waits with [`Error::Ended`], and is
//! final. Leases that are out work on until dropped; [`drain`](Pool::drain) waits for them, and
//! [`Close::Hard`] cuts them. Dropping the last handle ends the pool too. [`free`](Pool::free)
//! closes connections and leaves the pool running.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
//! use jackpot::Close;
//! use std::time::Duration;
//!
//! let connection = pool.pull()?;
//! pool.end();
//! assert!(pool.pull().unwrap_err().is_ended());
//! assert!(!pool.drain(Duration::from_millis(10))); // one lease is out
//! pool.end_with(Close::Hard); // whoever reads from it sees its end
//! drop(connection);
//! assert!(pool.drain(Duration::from_secs(1)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Observing a pool
//!
//! [`stats`](Pool::stats) has the counters, and a [`Histogram`] each of waits and of connects;
//! [`connections`](Pool::connections) lists the connections, with the place in the code at which
//! each lease was taken; [`on_event`](Builder::on_event) reports what happens when it happens. Each
//! snapshot adds up: `open = idle + leased`, `connects = releases + open`, and the releases are the
//! sum of the evictions.
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! use jackpot::{Event, Eviction, Pool, State};
//! use std::sync::mpsc;
//!
//! let (tell, events) = mpsc::channel();
//! let pool = Pool::builder(move || TcpStream::connect(address))
//!     .on_event(move |event| {
//!         if let Event::Evicted { why, .. } = event {
//!             let _ = tell.send(*why);
//!         }
//!     })
//!     .build()?;
//! drop(pool.pull()?);
//! assert_eq!(pool.connections()[0].state, State::Idle);
//!
//! pool.free(0);
//! assert_eq!(events.try_recv()?, Eviction::Freed);
//! let stats = pool.stats();
//! assert_eq!(stats.connects, stats.releases + stats.open as u64);
//! println!("{stats}"); // one line, for a log
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The log contract
//!
//! Everything goes to the [`log`] crate under the target `jackpot`, and never while the pool's lock
//! is held.
//!
//! | level | what |
//! |---|---|
//! | `error` | an event function or a destructor of yours panicked |
//! | `warn` | what an operator should see: a connect or handshake failed, the server hangs up on one connection after the other, a lease is overdue ([`leak_after`](Builder::leak_after)), a thread for pings or for dropping clients could not be started |
//! | `debug` | the life of each connection: made, left and why, a failed probe, ping, recycle or shutdown; `free` and `end` |
//!
//! ```
//! # use std::net::{TcpListener, TcpStream};
//! # use std::sync::Mutex;
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?;
//! # struct Collector;
//! # static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
//! # impl log::Log for Collector {
//! #     fn enabled(&self, _: &log::Metadata<'_>) -> bool { true }
//! #     fn log(&self, record: &log::Record<'_>) {
//! #         let line = format!("{} {}: {}", record.level(), record.target(), record.args());
//! #         LINES.lock().unwrap().push(line);
//! #     }
//! #     fn flush(&self) {}
//! # }
//! # log::set_logger(&Collector).unwrap();
//! # log::set_max_level(log::LevelFilter::Debug);
//! # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
//! use jackpot::Connection;
//!
//! Connection::discard(pool.pull()?);
//! # let lines = LINES.lock().unwrap().clone();
//! assert!(lines[0].starts_with("DEBUG jackpot: connection 1 made in "));
//! assert!(lines[1].starts_with("DEBUG jackpot: connection 1 left after "));
//! assert!(lines[1].ends_with(": discarded"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads
//!
//! A pool has one thread of its own, `jackpot-reaper`, unless
//! [`reap_interval`](Builder::reap_interval) is `None`. `jackpot-connect` threads live as long as
//! there is something to connect, at most [`max_connecting`](Builder::max_connecting) at once, and
//! a `jackpot-ping` thread as long as there is something to ping. Clients that a
//! [`handshake`](Builder::handshake) made are dropped on a `jackpot-close` thread, one at a time.
//! None of these threads keeps a pool alive that has no handle left, and no drop waits for one.
//!
//! Build pools after forking or daemonising: after `fork` without `exec` the child has none of these
//! threads, perhaps a lock that stays locked, and the parent's sockets, on which each reads the
//! other's replies. Running another program is harmless: the sockets are close-on-exec.
//!
//! # Platforms
//!
//! Linux, macOS, FreeBSD and Windows. The tests run on Linux, and as Windows programs under Wine;
//! macOS and FreeBSD have been type-checked only. What differs:
//!
//! | | |
//! |---|---|
//! | the probe | one `recv` with `MSG_PEEK` and `MSG_DONTWAIT`; Windows has no such flag, so there the socket is switched to non-blocking for the peek and back, between leases only; a duplicate of the socket is switched with it |
//! | [`user_timeout`](Connector::user_timeout) | Linux and Android; ignored elsewhere: set a [`write_timeout`](Builder::write_timeout) and rely on keepalive there |
//! | aborting a lease or a handshake ([`Close::Hard`]) | by `shutdown`, which wakes a blocked thread; not for Windows programs under Wine, where it wakes nobody |
//! | keepalive | the count of probes needs Windows 10, version 1703; below that the system's own count stays |
//! | the socket itself | `AsFd` and `AsRawFd` on Unix, `AsSocket` and `AsRawSocket` on Windows |
#![warn(missing_docs)]

mod backoff;
mod builder;
#[cfg(test)]
#[path = "../tests/explore/mod.rs"]
mod explore;
#[cfg(test)]
#[path = "../tests/model/mod.rs"]
mod model;
mod net;
mod pipeline;
mod pool;
mod report;
mod runtime;
#[cfg(all(test, jackpot_shuttle))]
#[path = "../tests/schedules/mod.rs"]
mod schedules;
mod state;
mod sync;

pub use backoff::{Backoff, Delays, Jitter};
pub use builder::Builder;
pub use net::buffered::BufStream;
pub use net::connector::{Connector, Factory};
pub use net::stream::Stream;
pub use pipeline::{Pipeline, PipelineBuilder};
pub use pool::Pool;
pub use report::call_error::CallError;
pub use report::error::Error;
pub use report::event::{Close, Event, Freed, Outage};
pub use report::histogram::Histogram;
pub use report::outcome::Eviction;
pub use report::pipeline_stats::PipelineStats;
pub use report::stats::{ConnectionInfo, State, Stats};
pub use runtime::connection::Connection;

// The guide links its pictures by relative paths, which rustdoc does not have: these files define
// the links again, with the pictures in them.
#[cfg(any(doc, doctest))]
#[cfg_attr(not(doctest), doc = include_str!("../docs/backoff.svg.md"))]
#[cfg_attr(not(doctest), doc = include_str!("../docs/goodput.svg.md"))]
#[doc = include_str!("../docs/GUIDE.md")]
pub mod guide {}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

#[cfg(doctest)]
#[doc = include_str!("../docs/MIGRATING.md")]
struct MigratingDoctests;

#[cfg(doctest)]
#[doc = include_str!("../docs/FLEET.md")]
struct FleetDoctests;
