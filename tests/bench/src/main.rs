//! jackpot against its peers, as ratios of things that run alternately in one process.

mod crowd;
mod descriptors;
mod instructions;
mod machine;
mod measure;
mod page;
mod peers;
mod plot;
mod report;
mod rows;
mod server;

use std::error::Error;

use clap::{Parser, Subcommand};

use crate::instructions::Peer;
use crate::plot::Plots;
use crate::report::Report;
use crate::rows::{Bench, GROUPS};

/// Measures jackpot against its peers; docs/BENCHMARKS.md says how to read the table.
///
/// A full run writes its table and its plots into docs/; with --quick or --rows it only prints.
#[derive(Parser)]
struct Arguments {
    /// Fewer rounds, less than a minute: for a first impression.
    #[arg(long)]
    quick: bool,
    /// Only these groups: single, instructions, idle, echo, size, sweep, burst, cold, memcached,
    /// build.
    #[arg(long, value_delimiter = ',', value_parser = GROUPS.map(|(name, _)| name))]
    rows: Vec<String>,
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
    /// The echo server.
    #[command(hide = true)]
    Serve,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.other {
        Some(Other::Cycle { peer, count }) => Ok(instructions::cycle(peer, count)?),
        Some(Other::Serve) => Ok(server::serve()?),
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
            eprintln!("{name}");
            run(&mut bench)?;
        }
    }
    let machine = machine::describe();
    let table = bench.report.table();
    println!("{table}\n{machine}");
    if arguments.rows.is_empty() && !arguments.quick {
        page::write(&table, &machine)?;
        bench.plots.draw(&page::folder().join("plots"))?;
    }
    Ok(())
}
