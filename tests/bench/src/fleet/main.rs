//! A fleet of clients whose server goes away for a minute: what docs/FLEET.md says, computed.

mod picture;
mod simulation;

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use clap::Parser;
use jackpot::{Backoff, Jitter};

use crate::simulation::{Fleet, Outcome, Server};

const CLIENTS: u32 = 100_000;
const BEGIN: &str = "<!-- written by fleet: begin -->";
const END: &str = "<!-- written by fleet: end -->";

/// Simulates 100,000 clients whose server goes away for a minute, and how they come back.
///
/// Writes the table and the plots of docs/FLEET.md; with --accepts it only prints.
#[derive(Parser)]
struct Arguments {
    /// Decides all but the delays, which are Backoff's own and seeded by the system.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often each row is run; the table shows the medians, and the widest spread.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    runs: u8,
    /// A server that accepts so many connections in a second, instead of those in the document.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    accepts: Option<u32>,
    /// How many connections may wait to be accepted.
    #[arg(long, default_value_t = 4096)]
    backlog: u32,
}

/// A row: a kind of fleet, with a jitter.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) jitter: Jitter,
    pub(crate) outcomes: Vec<Outcome>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let speeds = arguments.accepts.map_or(vec![10_000, 2_000], |n| vec![n]);
    let servers = speeds.into_iter().map(|accepts| Server {
        accepts,
        backlog: arguments.backlog,
    });
    let fleets: Vec<(Server, Vec<Row>)> = servers
        .map(|server| (server, rows(server, &arguments)))
        .collect();
    let mut page = String::new();
    write_table(&mut page, &fleets)?;
    println!("{page}");
    if arguments.accepts.is_none() {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"));
        replace(&docs.join("FLEET.md"), &page)?;
        picture::draw(&fleets[0].1, &docs.join("plots"))?;
    }
    Ok(())
}

fn rows(server: Server, arguments: &Arguments) -> Vec<Row> {
    let all: &[Jitter] = &[
        Jitter::None,
        Jitter::Equal,
        Jitter::Full,
        Jitter::Decorrelated,
    ];
    // Of single callers the breaker alone decides: the default stands for all.
    let default: &[Jitter] = &[Jitter::Equal];
    let kinds = [
        ("backoff alone", CLIENTS, 1, false, all),
        ("the pool, 100,000 × 1", CLIENTS, 1, true, default),
        ("the pool, 1,000 × 100", CLIENTS / 100, 100, true, all),
    ];
    let mut rows = Vec::new();
    for (name, processes, callers, gate, jitters) in kinds {
        for &jitter in jitters {
            let fleet = Fleet {
                processes,
                callers,
                gate,
                backoff: Backoff::new().retries(u32::MAX).jitter(jitter),
            };
            let seeds = (0..u64::from(arguments.runs)).map(|run| arguments.seed + run);
            rows.push(Row {
                name,
                jitter,
                outcomes: seeds
                    .map(|seed| simulation::run(&fleet, server, seed))
                    .collect(),
            });
        }
    }
    rows
}

fn write_table(page: &mut String, fleets: &[(Server, Vec<Row>)]) -> std::fmt::Result {
    let head = "| fleet | jitter | connects per second, late in the outage | refused, per client |";
    write!(page, "\n{head}")?;
    for (server, _) in fleets {
        let accepts = grouped(server.accepts.into());
        write!(
            page,
            " accepts {accepts} a second: peak | 99 % back after | timed out, per client |"
        )?;
    }
    writeln!(page, "\n|---|---|{}", "---:|".repeat(2 + 3 * fleets.len()))?;
    let mut widest: f64 = 0.0;
    let mut median = |row: &Row, figure: fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = row.outcomes.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        // A figure that the table shows as nearly nothing has no spread worth telling.
        if median >= 0.1 {
            let spread = values[values.len() - 1] - values[0];
            widest = widest.max(spread / median);
        }
        median
    };
    let (_, rows) = &fleets[0];
    for (number, row) in rows.iter().enumerate() {
        // Of the outage, which no server's speed changes.
        let knocking = grouped(median(row, Outcome::knocking));
        let refused = median(row, |outcome| per_client(outcome.refused));
        write!(
            page,
            "| {} | `{:?}` | {knocking} | {refused:.1} |",
            row.name, row.jitter
        )?;
        for (_, rows) in fleets {
            let row = &rows[number];
            let peak = grouped(median(row, |outcome| outcome.peak().into()));
            let back = median(row, |outcome| {
                let back = outcome.back_after(99, CLIENTS as usize);
                back.unwrap_or(f64::INFINITY)
            });
            let back = if back.is_finite() {
                format!("{back:.1} s")
            } else {
                "not by the end".to_owned()
            };
            let timed_out = median(row, |outcome| per_client(outcome.timed_out));
            write!(page, " {peak} | {back} | {timed_out:.1} |")?;
        }
        writeln!(page)?;
    }
    let runs = rows[0].outcomes.len();
    writeln!(
        page,
        "\nMedians of {runs} runs; between the highest and the lowest run of a row lay at most \
         {:.0} % of any figure of 0.1 or more.",
        (widest * 100.0).ceil()
    )
}

fn per_client(connects: u64) -> f64 {
    connects as f64 / f64::from(CLIENTS)
}

/// With a comma between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Puts the table where the document marks its place.
fn replace(file: &Path, table: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("no place for the table")?;
    let (_, after) = rest.split_once(END).ok_or("no end of the table")?;
    fs::write(file, format!("{before}{BEGIN}\n{table}\n{END}{after}"))?;
    Ok(())
}
