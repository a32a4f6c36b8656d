//! Which file may import which: no circle, and nothing from a folder above. And how long a file is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the bottom up. Folders of one layer do not import each other.
const LAYERS: [&[&str]; 7] = [
    &["sync"],
    &["report"],
    &["backoff"],
    &["net", "state"],
    &["runtime"],
    &["pool", "builder", "pipeline"],
    &["lib"],
];

/// Within the layer of what a user meets the files stand in this order too.
const USER: [&str; 3] = ["pool", "builder", "pipeline"];

/// How many lines of code a file of the library may have, or one of these rooms.
const LONGEST: usize = 450;

/// The code of each file in a folder, by its module's path, without comments and unit tests.
fn files(folder: &str) -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = BTreeMap::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&source).unwrap().with_extension("");
            let name = name.to_str().unwrap().replace(['/', '\\'], "::");
            found.insert(name, code_of(&fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().map(str::trim_start);
    let code: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .collect();
    code.join("\n")
}

/// The modules that each file of the library imports.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files = files("src");
    let found = files
        .iter()
        .map(|(name, code)| (name.clone(), imports_of(code)));
    let mut found: BTreeMap<_, _> = found.collect();
    let modules: BTreeSet<String> = files.into_keys().collect();
    for (name, all) in &mut found {
        *all = all
            .iter()
            .filter_map(|path| module_of(path, &modules))
            .filter(|module| !is_family(name, module))
            .collect();
    }
    found
}

/// The paths after `use crate::` and `crate::`.
fn imports_of(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
        let (path, rest) = rest.split_at(end);
        let base = path.trim_end_matches("::");
        found.insert(base.to_owned());
        if let Some(list) = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next())
        {
            let names = list
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty());
            found.extend(names.map(|name| format!("{base}::{name}")));
        }
    }
    found
}

/// The module that an imported path leads to.
fn module_of(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut path = path;
    loop {
        if modules.contains(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// Whether one of the files is a part of the other, as `core::dispatch` is of `core`.
fn is_family(one: &str, other: &str) -> bool {
    let is_part = |part: &str, whole: &str| {
        part == whole
            || part
                .strip_prefix(whole)
                .is_some_and(|rest| rest.starts_with("::"))
    };
    is_part(one, other) || is_part(other, one)
}

fn layer(module: &str) -> usize {
    let folder = module.split("::").next().unwrap();
    let layer = LAYERS.iter().position(|layer| layer.contains(&folder));
    layer.unwrap_or_else(|| panic!("{folder} stands in no layer: say in LAYERS which one is its"))
}

/// Whether a file may import another.
fn may(from: &str, to: &str) -> bool {
    let folder = |module: &str| module.split("::").next().unwrap().to_owned();
    let order = |module: &str| USER.iter().position(|user| *user == folder(module));
    match (order(from), order(to)) {
        (Some(from), Some(to)) => to <= from,
        _ => layer(to) < layer(from) || folder(from) == folder(to),
    }
}

#[test]
fn no_import_runs_upwards() {
    for (from, all) in imports() {
        for to in all {
            assert!(
                may(&from, &to),
                "src/{from} imports {to}, which stands above it or beside it"
            );
        }
    }
}

#[test]
fn no_imports_run_in_a_circle() {
    let mut left = imports();
    assert!(left.len() > 20, "this test has lost sight of the files");
    // What imports none of those left, or is imported by none of them, is in no circle.
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, all| all.iter().any(|to| names.contains(to)));
        let imported: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, _| imported.contains(name));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "{:?}", left.keys());
}

#[test]
fn no_file_is_too_long_to_read() {
    for folder in ["src", "tests/it"] {
        let files = files(folder);
        assert!(files.len() > 50, "this test has lost sight of the files");
        for (name, code) in files {
            let lines = code.lines().count();
            assert!(
                lines <= LONGEST,
                "{folder}/{name} has {lines} lines of code, more than {LONGEST}: divide it by what its readers search for"
            );
        }
    }
}
