//! Loops to be looked at with callgrind and perf, and the instructions that callgrind counts: they
//! repeat exactly.

use std::io;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::crowd::{self, Outcome};
use crate::measure::Spread;
use crate::peers::{self, Channel, Floor, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;
use crate::work::round_trip;

/// What can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    Floor,
    Jackpot,
    JackpotUnprobed,
    R2d2,
    R2d2Unchecked,
    Channel,
}

const FEW: u32 = 1_000;
const MANY: u32 = 11_000;

/// Pulls and drops so often, and does nothing else: to be run under callgrind or perf.
pub(crate) fn cycle(peer: Peer, count: u32) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    match peer {
        Peer::Floor => {
            let floor = Floor::new(address);
            repeat(count, || floor.cycle());
        }
        Peer::Jackpot => over(count, &peers::jackpot(address, 1)),
        Peer::JackpotUnprobed => over(count, &peers::jackpot_unprobed(address, 1)),
        Peer::R2d2 => over(count, &peers::r2d2(address, 1, true)),
        Peer::R2d2Unchecked => over(count, &peers::r2d2(address, 1, false)),
        Peer::Channel => over(count, &Channel::new(address, 1)),
    }
    Ok(())
}

fn over(count: u32, source: &impl Source) {
    repeat(count, || drop(source.lease()));
}

fn repeat(count: u32, cycle: impl Fn()) {
    for _ in 0..count {
        cycle();
    }
}

/// Lets many threads share four connections for so long, and prints how they fared.
pub(crate) fn crowd(peer: Peer, threads: usize, how_long: Duration, echo: bool) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    let outcome = match peer {
        Peer::Jackpot => share(&peers::jackpot(address, 4), threads, how_long, echo),
        Peer::JackpotUnprobed => share(
            &peers::jackpot_unprobed(address, 4),
            threads,
            how_long,
            echo,
        ),
        Peer::R2d2 => share(&peers::r2d2(address, 4, true), threads, how_long, echo),
        Peer::R2d2Unchecked => share(&peers::r2d2(address, 4, false), threads, how_long, echo),
        Peer::Channel => share(&Channel::new(address, 4), threads, how_long, echo),
        Peer::Floor => return Err(io::Error::other("the floor is for one thread")),
    };
    println!(
        "{:.0} leases/s, p50 wait {} ns, p99.9 {} ns, busiest / idlest {:.2}",
        outcome.rate,
        outcome.waits.value_at_quantile(0.5),
        outcome.waits.value_at_quantile(0.999),
        outcome.unfairness
    );
    Ok(())
}

fn share(source: &impl Source, threads: usize, how_long: Duration, echo: bool) -> Outcome {
    crowd::time(source, threads, how_long, |lease| {
        if echo {
            round_trip(lease);
        }
    })
}

/// The rows: what a cycle costs in instructions, found by running few and many.
pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    for (peer, name) in [
        ("jackpot", "pull and drop, probed"),
        ("jackpot-unprobed", "pull and drop, probe_after(1 s)"),
        ("r2d2", "r2d2 with the peek"),
        ("r2d2-unchecked", "r2d2 unchecked"),
        ("channel", "channel with the peek"),
        ("floor", "the floor"),
    ] {
        let counts = (whole_run(peer, FEW)?, whole_run(peer, MANY)?);
        let each = match counts {
            (Some(few), Some(many)) => Some((many - few) / f64::from(MANY - FEW)),
            _ => None,
        };
        let measure = "instructions, callgrind";
        bench
            .report
            .add(name, measure, Goal::None, each.map(Spread::exact));
    }
    Ok(())
}

/// How many instructions a whole run of so many cycles takes; none where valgrind is missing.
fn whole_run(peer: &str, count: u32) -> io::Result<Option<f64>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["cycle", peer, &count.to_string()])
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    Ok(collected.and_then(|(_, count)| count.trim().parse().ok()))
}
