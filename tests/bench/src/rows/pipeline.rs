//! Shared calls against leases, other pools and a connection for each thread: whole calls, over the
//! same four sockets (a connection for each thread has as many as there are threads).

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::crowd::{self, Outcome};
use crate::measure::{Spread, alternate};
use crate::peers::{self, Channel, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::rows::redis::Redis;
use crate::server::Server;
use crate::work::Memcached;

const THREADS: [usize; 7] = [1, 2, 4, 8, 16, 64, 256];
const CONNECTIONS: u32 = 4;
const REQUEST: [u8; 64] = [b'x'; 64];

/// The contestants, in the order in which everything here names them.
pub(crate) const PEERS: [&str; 5] = ["shared calls", "leases", "r2d2", "channel", "one each"];

/// What was measured at one count of threads, for the plot: rates, and p99.9 in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) threads: usize,
    pub(crate) rates: [Spread; PEERS.len()],
    pub(crate) tails: [Spread; PEERS.len()],
}

/// A server to ask: its address, the request, and the reply.
struct Question<'a> {
    name: &'a str,
    address: SocketAddr,
    request: &'a [u8],
    reply: Vec<u8>,
}

/// An echo server on this machine.
pub(crate) fn echo(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let question = Question::echo("one echo", server.address());
    for threads in THREADS {
        let all = question.ask(bench, threads);
        let name = question.row(threads);
        bench.plots.shared_echo.push(all.calls(threads));
        if threads <= 4 {
            bench.report.add(
                &name,
                "rate / leases",
                Goal::AtLeast(0.97),
                all.rate_over(1),
            );
        }
        let (over_r2d2, over_one_each, tail) = match threads {
            16 => (Goal::AtLeast(1.9), Goal::None, Goal::None),
            64 => (Goal::AtLeast(3.0), Goal::AtLeast(1.4), Goal::AtMost(0.125)),
            _ => (Goal::None, Goal::None, Goal::None),
        };
        all.report(bench, &name, over_r2d2, over_one_each, tail);
        if threads >= 8 {
            bench.report.add(
                &name,
                "busiest / idlest caller",
                Goal::AtMost(1.2),
                all.unfairness(),
            );
        }
    }
    Ok(())
}

/// A server that answers each request a millisecond after it came.
pub(crate) fn late(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start_late(Duration::from_millis(1))?;
    let question = Question::echo("an answer after 1 ms", server.address());
    for threads in THREADS {
        let all = question.ask(bench, threads);
        let name = question.row(threads);
        bench.plots.shared_late.push(all.calls(threads));
        let (over_r2d2, over_one_each) = match threads {
            64 => (Goal::AtLeast(15.0), Goal::AtLeast(1.1)),
            _ => (Goal::None, Goal::None),
        };
        all.report(bench, &name, over_r2d2, over_one_each, Goal::None);
        if threads == 16 {
            bench
                .report
                .add(&name, "p99, ms", Goal::AtMost(1.5), all.p99());
        }
    }
    Ok(())
}

/// memcached and Redis.
pub(crate) fn servers(bench: &mut Bench) -> io::Result<()> {
    let value = [b'v'; 100];
    match Memcached::start() {
        Ok(server) => {
            let mut setup = peers::connect(server.address())?;
            setup.write_all(&[b"set jackpot 0 0 100\r\n", &value[..], b"\r\n"].concat())?;
            setup.read_exact(&mut [0; 8])?;
            let reply = [b"VALUE jackpot 0 100\r\n", &value[..], b"\r\nEND\r\n"].concat();
            ask_server(
                bench,
                "memcached get",
                server.address(),
                b"get jackpot\r\n",
                reply,
            );
        }
        Err(error) => missing(bench, "memcached", &error),
    }
    match Redis::start() {
        Ok(server) => {
            let mut setup = peers::connect(server.address())?;
            setup.write_all(
                &[
                    b"*3\r\n$3\r\nSET\r\n$7\r\njackpot\r\n$100\r\n",
                    &value[..],
                    b"\r\n",
                ]
                .concat(),
            )?;
            setup.read_exact(&mut [0; 5])?;
            let reply = [b"$100\r\n", &value[..], b"\r\n"].concat();
            let get = b"*2\r\n$3\r\nGET\r\n$7\r\njackpot\r\n";
            ask_server(bench, "redis GET", server.address(), get, reply);
        }
        Err(error) => missing(bench, "redis-server", &error),
    }
    Ok(())
}

fn missing(bench: &mut Bench, program: &str, error: &io::Error) {
    bench.report.add(
        program,
        format!("cannot be started: {error}"),
        Goal::None,
        None,
    );
}

fn ask_server(bench: &mut Bench, name: &str, address: SocketAddr, request: &[u8], reply: Vec<u8>) {
    let question = Question {
        name,
        address,
        request,
        reply,
    };
    for (threads, goal) in [
        (8, Goal::None),
        (
            64,
            Goal::AtLeast(if name.starts_with('m') { 1.9 } else { 2.8 }),
        ),
    ] {
        let all = question.ask(bench, threads);
        all.report(bench, &question.row(threads), goal, Goal::None, Goal::None);
    }
}

impl<'a> Question<'a> {
    fn echo(name: &'a str, address: SocketAddr) -> Self {
        Self {
            name,
            address,
            request: &REQUEST,
            reply: REQUEST.to_vec(),
        }
    }

    fn row(&self, threads: usize) -> String {
        let s = if threads == 1 { "" } else { "s" };
        format!("{threads} thread{s}, {}", self.name)
    }

    /// Lets all contestants ask in turn.
    fn ask(&self, bench: &Bench, threads: usize) -> All {
        let size = CONNECTIONS as usize;
        let pool = peers::jackpot(self.address, size);
        let expected = self.reply.clone();
        let pipeline = jackpot::Pipeline::new(
            peers::jackpot(self.address, size),
            move |reply: &mut dyn BufRead| {
                let mut bytes = [0; 256];
                let bytes = &mut bytes[..expected.len()];
                reply.read_exact(bytes)?;
                Ok(bytes == expected)
            },
        );
        let r2d2 = peers::r2d2(self.address, CONNECTIONS, true);
        let channel = Channel::new(self.address, size);
        let how_long = Duration::from_millis(if bench.quick { 150 } else { 300 });
        let outcomes = alternate(
            bench.rounds(3, 13),
            [
                &mut || {
                    crowd::whole(
                        threads,
                        how_long,
                        || (),
                        |()| {
                            assert!(pipeline.call(self.request).expect("the server answers"));
                        },
                    )
                },
                &mut || self.lease_from(&pool, threads, how_long),
                &mut || self.lease_from(&r2d2, threads, how_long),
                &mut || self.lease_from(&channel, threads, how_long),
                &mut || {
                    let connect =
                        || peers::connect_and_greet(self.address).expect("the server accepts");
                    let connect = || {
                        if self.request == REQUEST {
                            connect()
                        } else {
                            peers::connect(self.address).expect("the server accepts")
                        }
                    };
                    crowd::whole(threads, how_long, connect, |socket: &mut TcpStream| {
                        self.exchange(socket);
                    })
                },
            ],
        );
        All(outcomes)
    }

    fn lease_from(&self, source: &impl Source, threads: usize, how_long: Duration) -> Outcome {
        let call = |(): &mut ()| self.exchange(&mut source.lease());
        crowd::whole(threads, how_long, || (), call)
    }

    fn exchange(&self, lease: &mut dyn peers::Talk) {
        let mut received = [0; 256];
        let received = &mut received[..self.reply.len()];
        lease.write_all(self.request).expect("the server reads");
        lease.read_exact(received).expect("the server answers");
        assert_eq!(received, self.reply);
    }
}

/// What the contestants made of one question.
struct All([Vec<Outcome>; PEERS.len()]);

impl All {
    fn rates(&self, peer: usize) -> Vec<f64> {
        self.0[peer].iter().map(|outcome| outcome.rate).collect()
    }

    fn quantiles(&self, peer: usize, quantile: f64) -> Vec<f64> {
        let at = |waits: &Histogram<u64>| waits.value_at_quantile(quantile) as f64 / 1e6;
        self.0[peer]
            .iter()
            .map(|outcome| at(&outcome.waits))
            .collect()
    }

    fn rate_over(&self, peer: usize) -> Spread {
        Spread::of_ratios(&self.rates(0), &self.rates(peer))
    }

    fn p99(&self) -> Spread {
        Spread::of(self.quantiles(0, 0.99))
    }

    fn unfairness(&self) -> Spread {
        Spread::of(self.0[0].iter().map(|outcome| outcome.unfairness).collect())
    }

    fn report(
        &self,
        bench: &mut Bench,
        name: &str,
        over_r2d2: Goal,
        over_one_each: Goal,
        tail: Goal,
    ) {
        let thousands = |peer| Spread::of(self.rates(peer).iter().map(|rate| rate / 1e3).collect());
        let report = &mut bench.report;
        report.add(name, "thousand calls in a second", Goal::None, thousands(0));
        report.add(name, "rate / r2d2", over_r2d2, self.rate_over(2));
        report.add(name, "rate / channel", Goal::None, self.rate_over(3));
        report.add(
            name,
            "rate / a connection per thread",
            over_one_each,
            self.rate_over(4),
        );
        let tails = Spread::of_ratios(&self.quantiles(0, 0.999), &self.quantiles(2, 0.999));
        report.add(name, "p99.9 of the call / r2d2's", tail, tails);
    }

    fn calls(&self, threads: usize) -> Calls {
        Calls {
            threads,
            rates: std::array::from_fn(|peer| Spread::of(self.rates(peer))),
            tails: std::array::from_fn(|peer| Spread::of(self.quantiles(peer, 0.999))),
        }
    }
}
