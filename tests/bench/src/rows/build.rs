//! What depending on jackpot costs: crates in the tree, and the time of a clean build.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::measure::Spread;
use crate::report::Goal;
use crate::rows::Bench;

pub(crate) fn run(bench: &mut Bench) -> io::Result<()> {
    let report = &mut bench.report;
    for (package, goal) in [("jackpot", Goal::AtMost(11.0)), ("r2d2", Goal::None)] {
        let measure = format!("crates below {package}");
        let count = Spread::exact(crates_below(package)? as f64);
        report.add("dependency tree on Linux", measure, goal, count);
    }
    if bench.quick {
        return Ok(());
    }
    let (mut jackpot, mut r2d2) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        jackpot.push(build_time("jackpot")?);
        r2d2.push(build_time("r2d2")?);
    }
    bench.report.add(
        "clean release build",
        "time / r2d2's",
        Goal::AtMost(1.0),
        Spread::of_ratios(&jackpot, &r2d2),
    );
    bench.report.add(
        "clean release build",
        "seconds",
        Goal::None,
        Spread::of(jackpot),
    );
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    cargo
}

/// Counts what a dependent's build compiles besides the package itself.
fn crates_below(package: &str) -> io::Result<usize> {
    let output = cargo()
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}", "--target", "x86_64-unknown-linux-gnu"])
        .args(["--package", package])
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    Ok(crates.len() - 1)
}

/// Seconds for a release build into an empty folder.
fn build_time(package: &str) -> io::Result<f64> {
    let folder = std::env::temp_dir().join(format!("jackpot-build-{}", std::process::id()));
    let started = Instant::now();
    let status = cargo()
        .args(["build", "--offline", "--release", "--quiet"])
        .args(["--package", package, "--target-dir"])
        .arg(&folder)
        .stderr(Stdio::null())
        .status()?;
    let took = started.elapsed().as_secs_f64();
    fs::remove_dir_all(&folder)?;
    if status.success() {
        Ok(took)
    } else {
        Err(io::Error::other(format!("{package} does not build")))
    }
}
