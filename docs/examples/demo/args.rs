//! The command line. What is wrong with it is said in one line.

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, value_parser};

use crate::protocol::Protocol;
use crate::random;

/// Runs threads against a server that misbehaves, through a pool, and checks every reply.
///
/// Without --connect the server is one inside this process that echoes lines. It also closes,
/// resets, stalls, answers late, sends half a reply or a byte that nobody asked for, and restarts
/// on its port every few seconds. Some callers hang up or panic in the middle of a request.
///
/// With --connect it is a server of yours, and nothing is done to it: kill it and start it again
/// yourself while the demo runs. Each request is a key of its own, written and read back
/// (jackpot-demo:…, gone after 10 seconds), so every reply shows whose it is.
#[derive(Parser, Debug)]
#[command(name = "demo", after_help = AFTER_HELP, verbatim_doc_comment)]
pub(crate) struct Args {
    /// How long to run, in seconds
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// How many worker threads
    #[arg(long, value_name = "N", default_value = "16", value_parser = between_1_and_1000)]
    pub(crate) threads: usize,

    /// How many connections the pool may have
    #[arg(long, value_name = "N", default_value = "8", value_parser = between_1_and_1000)]
    pub(crate) limit: usize,

    /// What the server and the callers do wrong, as a number; another one each time if not given
    #[arg(long, value_name = "N", default_value_t = random::fresh_seed(), hide_default_value = true)]
    pub(crate) seed: u64,

    /// Use this server instead of the one inside
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    pub(crate) connect: Option<String>,

    /// What the server at HOST:PORT speaks
    #[arg(long, value_enum, default_value_t = Protocol::Echo)]
    pub(crate) protocol: Protocol,
}

const AFTER_HELP: &str = "\
Exit code: 0 if every reply was right and the pool's books balance, 1 if not, 2 if it could not
start. A request that fails because of the server is counted, and is no reason for 1.

Examples:
  cargo run --release --example demo
  cargo run --release --example demo -- --seconds 60 --threads 64 --limit 4
  cargo run --release --example demo -- --connect localhost:11211 --protocol memcached
  cargo run --release --example demo -- --connect localhost:6379 --protocol redis";

impl Args {
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The arguments, or the exit code after what there was to say has been said.
pub(crate) fn read() -> Result<Args, ExitCode> {
    let args = Args::try_parse().map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp) {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        refuse(&first_paragraph(&error.to_string()))
    })?;
    if args.connect.is_none() && args.protocol != Protocol::Echo {
        return Err(refuse(&format!(
            "--protocol {} needs --connect HOST:PORT: the server inside only echoes",
            args.protocol
        )));
    }
    Ok(args)
}

fn refuse(text: &str) -> ExitCode {
    eprintln!("demo: {text}");
    ExitCode::from(2)
}

/// What is wrong, without clap's usage and tips, in one line.
fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|l| !l.is_empty());
    let joined = lines.collect::<Vec<_>>().join(" ");
    joined.trim_start_matches("error: ").to_owned()
}

fn between_1_and_1000(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err("must be a number from 1 to 1000".into()),
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    match parts.map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(1..))) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("must be a host and a port, as in localhost:6379".into()),
    }
}
