//! docs/BENCHMARKS.md, of which the part between the markers is written here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- written by jackpot-bench: begin -->\n";
const END: &str = "<!-- written by jackpot-bench: end -->\n";

/// The library's docs.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Puts the table and the machine between the markers.
pub(crate) fn write(table: &str, machine: &str) -> io::Result<()> {
    let file = folder().join("BENCHMARKS.md");
    let page = fs::read_to_string(&file)?;
    let parts = page
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(io::Error::other("docs/BENCHMARKS.md has lost its markers"));
    };
    let page = format!("{before}{BEGIN}\n{table}\nMeasured on {machine}.\n\n{END}{after}");
    fs::write(file, page)
}
