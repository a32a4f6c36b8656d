//! Pull and drop, one thread: what a lease costs where nobody is in the way.

use std::io;

use crate::measure::{Spread, alternate, nanoseconds_each};
use crate::peers::{self, Channel, Floor, Source};
use crate::report::Goal;
use crate::rows::Bench;
use crate::server::Server;

/// Long enough for the clock, short enough that most rounds see no other process.
const CYCLES: u32 = 300;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let server = Server::start()?;
    let address = server.address();
    let floor = Floor::new(address);
    let jackpot = peers::jackpot(address, 4);
    let unprobed = peers::jackpot_unprobed(address, 4);
    let r2d2 = peers::r2d2(address, 4, true);
    let unchecked = peers::r2d2(address, 4, false);
    let channel = Channel::new(address, 4);
    let [floor, jackpot, unprobed, r2d2, unchecked, channel] = alternate(
        bench.rounds(1_000, 8_000),
        [
            &mut || nanoseconds_each(CYCLES, || floor.cycle()),
            &mut || nanoseconds_each(CYCLES, || drop(jackpot.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(unprobed.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(r2d2.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(unchecked.lease())),
            &mut || nanoseconds_each(CYCLES, || drop(channel.lease())),
        ],
    );
    let report = &mut bench.report;
    let name = "pull and drop, probed";
    report.add(
        name,
        "time / floor",
        Goal::AtMost(1.15),
        Spread::of_ratios(&jackpot, &floor),
    );
    report.add(
        name,
        "rate / r2d2 with the peek",
        Goal::AtLeast(1.45),
        Spread::of_ratios(&r2d2, &jackpot),
    );
    report.add(
        name,
        "rate / channel with the peek",
        Goal::None,
        Spread::of_ratios(&channel, &jackpot),
    );
    report.add(
        "the floor",
        "rate / r2d2 with the peek",
        Goal::None,
        Spread::of_ratios(&r2d2, &floor),
    );
    report.add("the floor", "ns", Goal::None, Spread::of(floor));
    report.add(
        "pull and drop, probe_after(1 s)",
        "rate / r2d2 unchecked",
        Goal::AtLeast(2.2),
        Spread::of_ratios(&unchecked, &unprobed),
    );
    Ok(())
}
