//! A real server: memcached's `get`, eight threads on four connections.

use std::io;
use std::time::Duration;

use crate::crowd;
use crate::measure::{Spread, alternate};
use crate::peers::{self, Channel, Fresh};
use crate::report::Goal;
use crate::rows::Bench;
use crate::rows::shared::rates;
use crate::work::{Memcached, get};

const THREADS: usize = 8;
const CONNECTIONS: u32 = 4;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let name = "memcached get, 8 threads on 4";
    let server = match Memcached::start() {
        Ok(server) => server,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = format!("no memcached here: {error}");
            bench.report.add(name, why, Goal::AtLeast(1.0), None);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let address = server.address();
    let jackpot = peers::jackpot(address, CONNECTIONS as usize);
    let r2d2 = peers::r2d2(address, CONNECTIONS, true);
    let channel = Channel::new(address, CONNECTIONS as usize);
    let fresh = Fresh(address);
    let how_long = Duration::from_millis(if bench.quick { 100 } else { 300 });
    let [jackpot, r2d2, channel, fresh] = alternate(
        bench.rounds(5, 15),
        [
            &mut || crowd::time(&jackpot, THREADS, how_long, get),
            &mut || crowd::time(&r2d2, THREADS, how_long, get),
            &mut || crowd::time(&channel, THREADS, how_long, get),
            &mut || crowd::time(&fresh, THREADS, how_long, get),
        ],
    )
    .map(|outcomes| rates(&outcomes));
    for (measure, goal, other) in [
        ("rate / r2d2", Goal::AtLeast(1.0), &r2d2),
        ("rate / a connect per request", Goal::AtLeast(2.5), &fresh),
        ("rate / channel", Goal::None, &channel),
    ] {
        let ratio = Spread::of_ratios(&jackpot, other);
        bench.report.add(name, measure, goal, ratio);
    }
    Ok(())
}
