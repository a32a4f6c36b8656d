//! jackpot against its peers, as ratios of things that run alternately in one process.

mod crowd;
mod descriptors;
mod machine;
mod measure;
mod page;
mod peers;
mod plot;
mod profile;
mod report;
mod rows;
mod server;
mod work;

use std::error::Error;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::plot::Plots;
use crate::profile::Peer;
use crate::report::{Goal, Report};
use crate::rows::{Bench, GROUPS};

/// Measures jackpot against its peers; docs/BENCHMARKS.md says how to read the table.
///
/// A full run writes its table and its plots into docs/; with --quick or --rows it only prints,
/// unless --draw asks for the plots.
#[derive(Parser)]
struct Arguments {
    /// Fewer rounds, some three minutes: for a first impression.
    #[arg(long)]
    quick: bool,
    /// Only these groups: single, instructions, idle, echo, size, sweep, burst, cold, memcached,
    /// grow-idle, grow-waiters, grow-threads, lock, goodput,
    /// shared-echo, shared-late, shared-servers, build.
    #[arg(long, value_delimiter = ',', value_parser = GROUPS.map(|(name, _)| name))]
    rows: Vec<String>,
    /// Draws the plots of what was measured.
    #[arg(long)]
    draw: bool,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Subcommand)]
enum Other {
    /// Pulls and drops so often and nothing else: for callgrind and perf.
    Cycle {
        #[arg(value_enum)]
        peer: Peer,
        count: u32,
    },
    /// Shares four connections among many threads: for perf and strace.
    Crowd {
        #[arg(value_enum)]
        peer: Peer,
        threads: usize,
        milliseconds: u64,
        /// One round trip with each lease.
        #[arg(long)]
        echo: bool,
    },
    /// The echo server.
    #[command(hide = true)]
    Serve {
        /// Each answer comes so many microseconds after its request.
        #[arg(long)]
        late: Option<u64>,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.other {
        Some(Other::Cycle { peer, count }) => Ok(profile::cycle(peer, count)?),
        Some(Other::Crowd {
            peer,
            threads,
            milliseconds,
            echo,
        }) => {
            let how_long = Duration::from_millis(milliseconds);
            Ok(profile::crowd(peer, threads, how_long, echo)?)
        }
        Some(Other::Serve { late: None }) => Ok(server::serve()?),
        Some(Other::Serve { late: Some(late) }) => {
            Ok(server::serve_late(Duration::from_micros(late))?)
        }
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut bench = Bench {
        report: Report::default(),
        plots: Plots::default(),
        quick: arguments.quick,
    };
    for (name, run) in GROUPS {
        if arguments.rows.is_empty() || arguments.rows.iter().any(|row| row == name) {
            let started = Instant::now();
            eprintln!("{name}");
            run(&mut bench)?;
            eprintln!("  took {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    let machine = machine::describe();
    println!("{}\n{machine}", bench.report.table(|_| true));
    if arguments.rows.is_empty() && !arguments.quick {
        // The page shows what has a goal.
        let table = bench.report.table(|row| !matches!(row.goal, Goal::None));
        page::write(&table, &machine)?;
    }
    if arguments.draw || (arguments.rows.is_empty() && !arguments.quick) {
        bench.plots.draw(&page::folder().join("plots"))?;
    }
    Ok(())
}
