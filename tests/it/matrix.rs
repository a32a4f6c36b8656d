//! The tests that docs/RELIABILITY.md, docs/SECURITY.md and docs/LESSONS.md name, against those that exist.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// Every fault that the matrix must speak of.
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
    "during end",
];

/// Faults and moments that do not meet.
const IMPOSSIBLE: [(&str, &str); 8] = [
    // Nothing was sent or asked.
    ("peer vanished, data unacknowledged", "idle"),
    ("time-out mid-reply", "idle"),
    // An open connection has its address; what happens to that then is that its peer vanishes.
    ("first address dead", "idle; leased; coming back"),
    // Each runs at a moment of its own.
    ("handshake fails or panics", "idle; leased; coming back"),
    ("ping fails or panics", "leased; coming back; connecting"),
    ("recycle fails or panics", "idle; leased; connecting"),
    // No caller has the connection.
    ("caller panics", "idle; connecting"),
    // The same; and a leaked guard never comes back.
    (
        "guard leaked by `mem::forget`",
        "idle; coming back; connecting",
    ),
];

fn read(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    fs::read_to_string(path).unwrap()
}

/// The cells of each row of the page's tables, without their heads.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines: Vec<_> = page.lines().collect();
    let is_head = |n: usize| {
        lines
            .get(n + 1)
            .is_some_and(|next| next.starts_with("|---"))
    };
    let bodies = (0..lines.len()).filter(|&n| !is_head(n) && !lines[n].starts_with("|---"));
    bodies
        .filter_map(|n| lines[n].strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .collect()
}

/// What stands between backquotes and looks like the name of a test.
fn quoted(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|name| is_test_name(name)).collect()
}

/// Names of tests are sentences; what else is quoted has fewer words, or other characters.
fn is_test_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.chars().all(allowed) && text.matches('_').count() >= 3
}

/// The names of all tests, in the sources and beside them.
fn tests() -> HashSet<String> {
    let mut found = HashSet::new();
    let mut folders = ["src", "tests"]
        .map(|f| Path::new(env!("CARGO_MANIFEST_DIR")).join(f))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(path).unwrap();
                found.extend(names(&source).into_iter().map(str::to_owned));
            }
        }
    }
    found
}

/// The functions in a source that have `#[test]` above them.
fn names(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().filter(|_| marked);
            names.extend(name);
        }
        marked = line == "#[test]" || (marked && line.starts_with("#["));
    }
    names
}

/// Fails unless there is a test of this name.
fn assert_exists(tests: &HashSet<String>, name: &str) {
    assert!(tests.contains(name), "no such test: {name}");
}

/// Notes each pair of a fault and a moment; fails if one was noted before.
fn note(
    noted: &mut HashSet<(String, String)>,
    groups: &HashMap<&str, &str>,
    faults: &str,
    moments: &str,
) {
    for fault in members(groups, faults) {
        assert!(FAULTS.contains(&fault), "no such fault: {fault}");
        for moment in members(groups, moments) {
            assert!(MOMENTS.contains(&moment), "no such moment: {moment}");
            let pair = (fault.to_owned(), moment.to_owned());
            assert!(noted.insert(pair), "{fault}, {moment}: answered twice");
        }
    }
}

/// What stands in a cell, with its members in place of a group.
fn members<'a>(groups: &HashMap<&'a str, &'a str>, cell: &'a str) -> Vec<&'a str> {
    let lists = cell
        .split("; ")
        .map(|name| *groups.get(name).unwrap_or(&name));
    lists.flat_map(|list| list.split("; ")).collect()
}

#[test]
fn every_cell_has_its_test() {
    let page = read("RELIABILITY.md");
    let (_, page) = page.split_once("\n## The fault matrix\n").unwrap();
    let page = page.split("\n## ").next().unwrap();
    let groups = page
        .lines()
        .filter_map(|line| line.strip_prefix("- *")?.split_once("*: "));
    let mut groups: HashMap<&str, &str> = groups.collect();
    let every = FAULTS.join("; ");
    groups.insert("every fault", &every);
    let tests = tests();

    let mut noted = HashSet::new();
    for (fault, moments) in IMPOSSIBLE {
        note(&mut noted, &groups, fault, moments);
    }
    let mut fault = "";
    for row in rows(page) {
        // An empty cell stands for the one above it.
        if !row[0].is_empty() {
            fault = row[0];
        }
        note(&mut noted, &groups, fault, row[1]);
        // The tests stand behind the answer, or alone.
        let shown_by = row[2].rsplit(". ").next().unwrap();
        let named = quoted(shown_by);
        assert!(!named.is_empty(), "no test: {row:?}");
        assert_eq!(named.len(), shown_by.split(", ").count(), "{row:?}");
        for name in named {
            assert_exists(&tests, name);
        }
    }
    for fault in FAULTS {
        for moment in MOMENTS {
            let pair = (fault.to_owned(), moment.to_owned());
            assert!(noted.contains(&pair), "{fault}, {moment}: no answer");
        }
    }
}

#[test]
fn each_test_that_shows_a_defence_exists() {
    let page = read("SECURITY.md") + &read("RELIABILITY.md");
    let (tests, named) = (tests(), quoted(&page));
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert_exists(&tests, name);
    }
}

#[test]
fn each_lesson_has_a_test_that_exists() {
    let page = read("LESSONS.md");
    let lessons: Vec<&str> = page.split("\n- ").skip(1).collect();
    assert!(lessons.len() > 30, "{}", lessons.len());
    let tests = tests();
    for lesson in lessons {
        let named = quoted(lesson);
        assert!(!named.is_empty(), "no test: {lesson}");
        for name in named {
            assert_exists(&tests, name);
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let tests = tests();
    assert_exists(&tests, "every_cell_has_its_test");
    assert_exists(&tests, "a_dead_address_cost_its_share_at_each_connect");
    assert!(!tests.contains("assert_exists"), "a function, but no test");
    assert!(!tests.contains("no_such_test_is_anywhere"));
    assert!(is_test_name("no_such_test_is_anywhere"));
    assert!(!is_test_name("max_lifetime") && !is_test_name("Stream::peek"));
}
