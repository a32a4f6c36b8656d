//! jackpot against its peers, as ratios of things that run alternately in one process.

mod crowd;
mod descriptors;
mod measure;
mod peers;
mod plot;
mod report;
mod rows;
mod server;

use std::io;

use clap::{Parser, Subcommand};

use crate::plot::Plots;
use crate::report::Report;
use crate::rows::{Bench, GROUPS};

/// Measures jackpot against its peers; docs/BENCHMARKS.md says how to read the table.
#[derive(Parser)]
struct Arguments {
    /// Fewer rounds, less than a minute: for a first impression.
    #[arg(long)]
    quick: bool,
    /// Only these groups of rows.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[command(subcommand)]
    other: Option<Other>,
}

#[derive(Subcommand)]
enum Other {
    /// The echo server.
    #[command(hide = true)]
    Serve,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Other::Serve) = arguments.other {
        return server::serve();
    }
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
    print!("{}", bench.report.table());
    Ok(())
}
