//! The kind of machine that was measured on, read at run time.

use std::fs;
use std::thread;

/// One line for the table's foot.
pub(crate) fn describe() -> String {
    let kernel = read("/proc/sys/kernel/osrelease");
    let clock = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unknown processor", |(_, name)| name.trim());
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{cores} cores ({processor}), Linux {kernel}, clock source {clock}, load average {load} \
         at the end"
    )
}

fn read(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
}
