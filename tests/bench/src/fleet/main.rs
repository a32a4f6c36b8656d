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
/// Writes the tables and the plots of docs/FLEET.md; with --accepts it only prints.
#[derive(Parser)]
struct Arguments {
    /// Decides all but the delays, which are Backoff's own and seeded by the system.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often each row is run; the tables show the medians, and the widest spread.
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
    let mut page = String::new();
    let mut drawn = None;
    for accepts in speeds {
        let server = Server {
            accepts,
            backlog: arguments.backlog,
        };
        let rows = rows(server, &arguments);
        write_table(&mut page, server, &rows)?;
        drawn.get_or_insert(rows);
    }
    println!("{page}");
    if arguments.accepts.is_none() {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"));
        replace(&docs.join("FLEET.md"), &page)?;
        if let Some(rows) = drawn {
            picture::draw(&rows, &docs.join("plots"))?;
        }
    }
    Ok(())
}

fn rows(server: Server, arguments: &Arguments) -> Vec<Row> {
    let kinds = [
        ("backoff alone", CLIENTS, 1, false),
        ("the pool, 100,000 × 1", CLIENTS, 1, true),
        ("the pool, 1,000 × 100", CLIENTS / 100, 100, true),
    ];
    let jitters = [
        Jitter::None,
        Jitter::Equal,
        Jitter::Full,
        Jitter::Decorrelated,
    ];
    let mut rows = Vec::new();
    for (name, processes, callers, gate) in kinds {
        for jitter in jitters {
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

fn write_table(page: &mut String, server: Server, rows: &[Row]) -> std::fmt::Result {
    let columns: [fn(&Outcome) -> f64; 5] = [
        Outcome::knocking,
        |outcome| outcome.peak().into(),
        |outcome| {
            outcome
                .back_after(99, CLIENTS as usize)
                .unwrap_or(f64::INFINITY)
        },
        |outcome| outcome.refused as f64 / f64::from(CLIENTS),
        |outcome| outcome.timed_out as f64 / f64::from(CLIENTS),
    ];
    let accepts = grouped(server.accepts.into());
    writeln!(page, "\nThe server accepts {accepts} in a second:\n")?;
    writeln!(
        page,
        "| fleet | jitter | connects per second, late in the outage | peak connects per second \
         on return | 99 % back after | refused, per client | timed out, per client |\n\
         |---|---|---:|---:|---:|---:|---:|"
    )?;
    let mut widest: f64 = 0.0;
    for row in rows {
        let figures = columns.map(|figure| {
            let mut values: Vec<f64> = row.outcomes.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            let median = values[values.len() / 2];
            // A figure that the table shows as nearly nothing has no spread worth telling.
            if median >= 0.1 {
                let spread = values[values.len() - 1] - values[0];
                widest = widest.max(spread / median);
            }
            median
        });
        let [knocking, peak, back, refused, timed_out] = figures;
        writeln!(
            page,
            "| {} | `{:?}` | {} | {} | {} | {refused:.1} | {timed_out:.1} |",
            row.name,
            row.jitter,
            grouped(knocking),
            grouped(peak),
            if back.is_finite() {
                format!("{back:.1} s")
            } else {
                "not by the end".to_owned()
            },
        )?;
    }
    let runs = rows.first().map_or(0, |row| row.outcomes.len());
    writeln!(
        page,
        "\nMedians of {runs} runs; between the highest and the lowest run of a row lay at most \
         {:.0} % of any figure of 0.1 or more.",
        (widest * 100.0).ceil()
    )
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

/// Puts the tables where the document marks their place.
fn replace(file: &Path, tables: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("no place for the tables")?;
    let (_, after) = rest.split_once(END).ok_or("no end of the tables")?;
    fs::write(file, format!("{before}{BEGIN}\n{tables}\n{END}{after}"))?;
    Ok(())
}
