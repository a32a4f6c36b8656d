//! Two commits of the library beside each other, and beside r2d2, in one run.
//!
//! Each commit has a program of its own, this one built against it, which is kept running and asked
//! for one short stretch at a time. So all share the same minutes, the same servers and the same
//! parent, and the ratios are taken round by round. Nothing here may need more of the library than its
//! oldest verbs, because the older commit gets this bench, newer than itself:
//!
//! ```text
//! git worktree add --detach ../before HEAD~1
//! git -C ../before checkout "$(git rev-parse HEAD)" -- tests/bench
//! (cd ../before && cargo build --release -p jackpot-bench --bin versus)
//! cargo build --release -p jackpot-bench --bin versus
//! target/release/versus ../before/target/release/versus           # all rows, two minutes
//! target/release/versus ../before/target/release/versus --rows echo-8,get-16 --rounds 41
//! target/release/versus target/release/versus                     # what is noise
//! git worktree remove --force ../before
//! ```
//!
//! Where others use the machine, `nice -n -15` before the command (as root) keeps most of them out.

#[expect(dead_code, reason = "jackpot-bench uses the rest")]
mod crowd;
#[expect(dead_code, reason = "jackpot-bench uses the rest")]
mod measure;
#[expect(dead_code, reason = "jackpot-bench uses the rest")]
mod peers;
mod report;
#[expect(dead_code, reason = "jackpot-bench uses the rest")]
mod server;
mod work;

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::crowd::Outcome;
use crate::measure::{Spread, nanoseconds_each};
use crate::peers::{Floor, Source};
use crate::report::{Goal, Report};
use crate::server::Server;
use crate::work::{Memcached, get, round_trip};

/// Measures this build of jackpot beside other builds of it, and beside r2d2.
///
/// What is printed are ratios, taken round by round, of this build to each other one and of every
/// build to r2d2. The head of tests/bench/src/versus.rs says how to build another one.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The `versus` programs of the other builds, best of commits before.
    ///
    /// This one itself shows what is noise.
    others: Vec<PathBuf>,
    /// Stretches of each build for each row.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Only these rows, `single`, or work and threads as in `none-8`, `echo-64`, `get-16`.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    #[command(subcommand)]
    other: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The echo server.
    #[command(hide = true)]
    Serve,
    /// Runs the stretches that its input asks for.
    #[command(hide = true)]
    Stretches {
        echo: SocketAddr,
        memcached: Option<SocketAddr>,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.other {
        Some(Part::Serve) => Ok(server::serve()?),
        Some(Part::Stretches { echo, memcached }) => Ok(stretches(echo, memcached)?),
        None => Ok(compare(&arguments)?),
    }
}

/// What the threads do with their leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// One thread, nanoseconds instead of rates.
    Single,
    None,
    Echo,
    Get,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    work: Work,
    threads: usize,
}

impl std::str::FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "single" {
            return Ok(SINGLE);
        }
        let (work, threads) = text.split_once('-').ok_or("work and threads: echo-8")?;
        let work = match work {
            "none" => Work::None,
            "echo" => Work::Echo,
            "get" => Work::Get,
            _ => return Err("the work is none, echo or get".to_owned()),
        };
        let threads = threads.parse().map_err(|_| "no number of threads")?;
        Ok(Self { work, threads })
    }
}

const SINGLE: Row = Row {
    work: Work::Single,
    threads: 1,
};
const CONNECTIONS: u32 = 4;
const CYCLES: u32 = 300;

fn all_rows() -> Vec<Row> {
    let rows = |work, threads: &[usize]| -> Vec<Row> {
        let row = |&threads| Row { work, threads };
        threads.iter().map(row).collect()
    };
    [
        vec![SINGLE],
        rows(Work::None, &[2, 4, 8, 16, 64]),
        rows(Work::Echo, &[2, 4, 8, 16, 64]),
        rows(Work::Get, &[8, 16]),
    ]
    .concat()
}

/// What a stretch brought.
#[derive(Clone, Copy, Debug)]
struct Figures {
    /// Leases per second; for one thread of its own, the floor's time over a lease's.
    rate: f64,
    /// Nanoseconds.
    tail: f64,
    unfairness: f64,
}

/// Another process, which measures one build.
struct Build {
    child: Child,
    orders: ChildStdin,
    figures: BufReader<ChildStdout>,
}

impl Build {
    fn start(program: &Path, echo: SocketAddr, memcached: Option<SocketAddr>) -> io::Result<Self> {
        // A bare name would be looked for elsewhere.
        let program = program
            .canonicalize()
            .unwrap_or_else(|_| program.to_owned());
        let mut command = Command::new(&program);
        command.arg("stretches").arg(echo.to_string());
        command.args(memcached.map(|address| address.to_string()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        let orders = child.stdin.take().expect("standard input is piped");
        let figures = child.stdout.take().expect("standard output is piped");
        Ok(Self {
            child,
            orders,
            figures: BufReader::new(figures),
        })
    }

    fn stretch(&mut self, peer: &str, row: Row) -> io::Result<Figures> {
        let Row { work, threads } = row;
        writeln!(self.orders, "{peer} {work:?} {threads}")?;
        let mut line = String::new();
        self.figures.read_line(&mut line)?;
        let figures: Vec<f64> = line
            .split_whitespace()
            .filter_map(|figure| figure.parse().ok())
            .collect();
        let [rate, tail, unfairness] = figures[..] else {
            return Err(io::Error::other(format!("a build said: {line:?}")));
        };
        Ok(Figures {
            rate,
            tail,
            unfairness,
        })
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compare(arguments: &Arguments) -> io::Result<()> {
    let echo = Server::start()?;
    let memcached = Memcached::start()
        .inspect_err(|error| eprintln!("no memcached here: {error}"))
        .ok();
    let memcached = memcached.as_ref().map(Memcached::address);
    let own = std::env::current_exe()?;
    let mut builds = Vec::new();
    for program in std::iter::once(&own).chain(&arguments.others) {
        builds.push(Build::start(program, echo.address(), memcached)?);
    }
    let rows = if arguments.rows.is_empty() {
        all_rows()
    } else {
        arguments.rows.clone()
    };
    let mut report = Report::default();
    for row in rows {
        if row.work == Work::Get && memcached.is_none() {
            continue;
        }
        measure_row(row, arguments.rounds, &mut builds, &mut report)?;
    }
    for (number, other) in arguments.others.iter().enumerate() {
        println!("build {}: {}", number + 1, other.display());
    }
    println!("{}", report.table(|_| true));
    Ok(())
}

fn measure_row(
    row: Row,
    rounds: usize,
    builds: &mut [Build],
    report: &mut Report,
) -> io::Result<()> {
    // Every build in turn, then r2d2, in the process of the build whose turn was first.
    let turns = builds.len() + 1;
    let mut figures = vec![Vec::with_capacity(rounds); turns];
    // Rows of one thread need more stretches and take no time.
    let rounds = if row.work == Work::Single {
        rounds * 40
    } else {
        rounds
    };
    for round in 0..=rounds {
        for turn in 0..turns {
            let who = (round + turn) % turns;
            let (build, peer) = match builds.get_mut(who) {
                Some(build) => (build, "jackpot"),
                None => (&mut builds[round % (turns - 1)], "r2d2"),
            };
            let found = build.stretch(peer, row)?;
            if round > 0 {
                figures[who].push(found);
            }
        }
    }
    let name = row.name();
    let r2d2 = figures.pop().expect("r2d2 had its turns");
    let ratio = |dividend: &[Figures], divisor: &[Figures], pick: fn(&Figures) -> f64| {
        let pick = |figures: &[Figures]| figures.iter().map(pick).collect::<Vec<_>>();
        Spread::of_ratios(&pick(dividend), &pick(divisor))
    };
    for (number, build) in figures.iter().enumerate() {
        if number > 0 {
            let measure = format!("rate, this / build {number}");
            let spread = ratio(&figures[0], build, |figures| figures.rate);
            report.add(&name, measure, Goal::None, spread);
            if row.has_waits() {
                let measure = format!("p99.9 wait, this / build {number}");
                let spread = ratio(&figures[0], build, |figures| figures.tail);
                report.add(&name, measure, Goal::None, spread);
            }
        }
    }
    for (number, build) in figures.iter().enumerate() {
        let who = match number {
            0 => "this".to_owned(),
            number => format!("build {number}"),
        };
        let spread = ratio(build, &r2d2, |figures| figures.rate);
        report.add(
            &name,
            format!("rate, {who} / r2d2"),
            row.rate_goal(),
            spread,
        );
        if row.has_waits() {
            let spread = ratio(build, &r2d2, |figures| figures.tail);
            let measure = format!("p99.9 wait, {who} / r2d2");
            report.add(&name, measure, Goal::AtMost(0.35), spread);
            let spread = Spread::of(build.iter().map(|figures| figures.unfairness).collect());
            report.add(
                &name,
                format!("busiest / idlest, {who}"),
                Goal::None,
                spread,
            );
        }
    }
    Ok(())
}

impl Row {
    fn name(self) -> String {
        let Self { work, threads } = self;
        match work {
            Work::Single => "1 thread, no work".to_owned(),
            Work::None => format!("{threads} threads, no work"),
            Work::Echo => format!("{threads} threads, one echo"),
            Work::Get => format!("{threads} threads, memcached get"),
        }
    }

    /// Where nobody waits for a lease, the tail is the scheduler's.
    fn has_waits(self) -> bool {
        matches!(self.work, Work::Echo | Work::Get) && self.threads > CONNECTIONS as usize
    }

    fn rate_goal(self) -> Goal {
        match self.work {
            Work::Single => Goal::None,
            _ => Goal::AtLeast(1.0),
        }
    }
}

/// Runs the stretches that standard input asks for, until it ends.
fn stretches(echo: SocketAddr, memcached: Option<SocketAddr>) -> io::Result<()> {
    let floor = Floor::new(echo);
    let jackpot = peers::jackpot(echo, CONNECTIONS as usize);
    let r2d2 = peers::r2d2(echo, CONNECTIONS, true);
    let memcached = memcached.map(|address| {
        let jackpot = peers::jackpot(address, CONNECTIONS as usize);
        (jackpot, peers::r2d2(address, CONNECTIONS, true))
    });
    for order in io::stdin().lines() {
        let order = order?;
        let words: Vec<&str> = order.split(' ').collect();
        let [peer, work, threads] = words[..] else {
            return Err(io::Error::other("a peer, its work, and how many threads"));
        };
        let threads = threads.parse().map_err(io::Error::other)?;
        let figures = match (peer, work, &memcached) {
            ("jackpot", "Get", Some((jackpot, _))) => stretch(jackpot, work, threads, &floor),
            ("r2d2", "Get", Some((_, r2d2))) => stretch(r2d2, work, threads, &floor),
            ("jackpot", ..) => stretch(&jackpot, work, threads, &floor),
            _ => stretch(&r2d2, work, threads, &floor),
        };
        let Figures {
            rate,
            tail,
            unfairness,
        } = figures;
        println!("{rate} {tail} {unfairness}");
    }
    Ok(())
}

fn stretch(source: &impl Source, work: &str, threads: usize, floor: &Floor) -> Figures {
    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_millis(250);
    let figures = |outcome: Outcome| Figures {
        rate: outcome.rate,
        tail: outcome.waits.value_at_quantile(0.999) as f64,
        unfairness: outcome.unfairness,
    };
    match work {
        "Single" => {
            let least = nanoseconds_each(CYCLES, || floor.cycle());
            let each = nanoseconds_each(CYCLES, || drop(source.lease()));
            Figures {
                rate: least / each,
                tail: 0.0,
                unfairness: 0.0,
            }
        }
        "None" => figures(crowd::count(threads, SHORT, || drop(source.lease()))),
        "Echo" => figures(crowd::time(source, threads, LONG, round_trip)),
        _ => figures(crowd::time(source, threads, LONG, get)),
    }
}
