//! The fault matrix in docs/RELIABILITY.md against the tests that it names.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// Every fault that the matrix must have a row for, in its order.
const FAULTS: [&str; 26] = [
    "FIN",
    "RST",
    "stray byte",
    "stray byte, then FIN",
    "stray byte, then RST",
    "half-close by us",
    "half-close by the peer",
    "out-of-band byte",
    "peer vanished while idle",
    "peer vanished, data unacknowledged",
    "server killed",
    "server restarted on its port",
    "backlog full",
    "refused",
    "DNS failing",
    "first address dead",
    "descriptors exhausted",
    "factory fails or panics",
    "handshake fails or panics",
    "ping fails or panics",
    "recycle fails or panics",
    "event function panics",
    "caller panics",
    "guard leaked by `mem::forget`",
    "time-out mid-reply",
    "server slower than the read timeout",
];

const MOMENTS: [&str; 6] = [
    "idle",
    "leased",
    "coming back",
    "connecting",
    "while waiting",
    "during `end`",
];

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The cells of each row of the table, its head first.
fn table(page: &str) -> Vec<Vec<&str>> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .collect()
}

/// What each code of this letter stands for.
fn list(page: &str, letter: char) -> HashMap<&str, &str> {
    let entries: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("- ")?.split_once(": "))
        .filter(|(code, _)| is_code(code, letter))
        .collect();
    let found: HashMap<_, _> = entries.iter().copied().collect();
    assert_eq!(found.len(), entries.len(), "a code stands for two things");
    found
}

fn is_code(text: &str, letter: char) -> bool {
    text.strip_prefix(letter)
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Whether there is such a test, in its room among the integration tests or the sources.
fn exists(test: &str) -> bool {
    let Some((room, name)) = test.split_once("::") else {
        return false;
    };
    let folders = ["tests/it", "src", "src/net", "src/runtime", "src/state"];
    let rooms = folders.map(|folder| format!("{folder}/{room}.rs"));
    rooms.iter().filter_map(|path| read(path)).any(|source| {
        let Some((before, _)) = source.split_once(&format!("fn {name}() {{")) else {
            return false;
        };
        let mut above = before.trim_end().lines().rev().map(str::trim);
        above.find(|line| !line.starts_with("#[cfg(")) == Some("#[test]")
    })
}

#[test]
fn every_cell_has_its_test() {
    let page = read("docs/RELIABILITY.md").unwrap();
    let (_, page) = page.split_once("\n## The fault matrix\n").unwrap();
    let page = page.split("\n## ").next().unwrap().to_owned();
    let (tests, reasons) = (list(&page, 'T'), list(&page, 'R'));
    let rows = table(&page);
    assert_eq!(rows[0][1..], MOMENTS);
    let faults: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(faults, FAULTS);

    let mut used = HashSet::new();
    for row in &rows[1..] {
        assert_eq!(row.len(), 1 + MOMENTS.len(), "{row:?}");
        for (cell, moment) in row[1..].iter().zip(MOMENTS) {
            let here = format!("{}, {moment}: {cell}", row[0]);
            let (text, codes) = cell.rsplit_once(" (").expect(&here);
            let listed = if text == "–" { &reasons } else { &tests };
            for code in codes.strip_suffix(')').expect(&here).split(", ") {
                assert!(listed.contains_key(code), "{code} is not listed: {here}");
                used.insert(code);
            }
        }
    }
    for (code, test) in &tests {
        assert!(used.contains(code), "{code} is in no cell");
        assert!(exists(test.trim_matches('`')), "no such test: {test}");
    }
    for (code, reason) in reasons {
        assert!(
            used.contains(code) && reason.ends_with('.'),
            "{code}: {reason}"
        );
    }
}

#[test]
fn each_test_that_shows_a_defence_exists() {
    let page = read("docs/SECURITY.md").unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let named: Vec<&str> = quoted
        .filter(|text| text.contains("::") && text.starts_with(char::is_lowercase))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for test in named {
        assert!(exists(test), "no such test: {test}");
    }
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(exists("matrix::every_cell_has_its_test"));
    assert!(exists(
        "connector::a_dead_first_address_leaves_time_for_the_second"
    ));
    assert!(!exists("matrix::exists"), "a function, but no test");
    assert!(!exists("matrix::no_such_test"));
    assert!(!exists("no_such_room::every_cell_has_its_test"));
}
