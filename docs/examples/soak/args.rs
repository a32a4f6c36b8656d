//! The command line. What is wrong with it is said in one line.

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum, value_parser};

use crate::random;

/// Every method of the pool, from many threads, at random, against a server that misbehaves.
///
/// The first fifth of the time, a minute at most, is for warming up. Then everything is counted
/// while nothing is open: descriptors, threads, bytes on the heap. At the end it is counted again.
#[derive(Parser, Debug)]
#[command(name = "soak", after_help = AFTER_HELP, verbatim_doc_comment)]
pub(crate) struct Args {
    /// How long to run, in seconds
    #[arg(long, value_name = "N", default_value_t = 60,
        value_parser = value_parser!(u64).range(2..=604_800))]
    seconds: u64,

    /// How many threads act
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = value_parser!(u64).range(1..=1000))]
    pub(crate) threads: u64,

    /// How many more threads share connections, with a deadline for most of their calls
    #[arg(long, value_name = "N", default_value_t = 48,
        value_parser = value_parser!(u64).range(1..=1000))]
    pub(crate) callers: u64,

    /// What the server and the threads do, as a number; another one each time if not given
    #[arg(long, value_name = "N", default_value_t = random::fresh_seed(), hide_default_value = true)]
    pub(crate) seed: u64,

    /// What to leave out, to see which part a finding needs
    #[arg(long, value_name = "PART,...", value_enum, value_delimiter = ',')]
    pub(crate) without: Vec<Part>,
}

/// A part of the soak that can be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// Limits that are lowered and raised
    SetLimit,
    /// `free`, half of the time the hard way
    Free,
    /// A server that dies and comes back
    Restarts,
    /// Leases with a deadline
    Deadlines,
    /// Requests that may be sent again
    Retry,
    /// Shared calls, and another pool that they have almost to themselves
    Pipeline,
}

const AFTER_HELP: &str = "\
Exit code: 0 if every reply was right, the pool's books balance and nothing is left over, 1 if
not, 2 if it could not start. The seed repeats the choices of a run, though not the scheduling.";

impl Args {
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The arguments, or the exit code after what there was to say has been said.
pub(crate) fn read() -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp) {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        eprintln!("soak: {}", line.trim_start_matches("error: "));
        ExitCode::from(2)
    })
}
