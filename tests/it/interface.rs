//! The public interface against its listing, docs/public-interface.txt, so that a change of it is seen in review.
//!
//! `JACKPOT_LIST=1 cargo test interface` writes the listing again.
//!
//! It is read from the sources. They are formatted, and `unreachable_pub` is on: so what begins with `pub `
//! is public, and a signature ends with the line that ends in `{`, `}` or `;`.

use std::collections::{BTreeSet, HashSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

const LISTING: &str = "docs/public-interface.txt";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The sources without comments, blank lines and tests.
fn sources() -> Vec<Vec<String>> {
    let (mut folders, mut sources) = (vec![root().join("src")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(path).unwrap();
                let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
                let lines = text.lines().map(|line| match line.split_once(" // ") {
                    Some((code, _)) => code.trim_end().to_owned(),
                    None => line.to_owned(),
                });
                let code =
                    lines.filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//"));
                sources.push(code.collect());
            }
        }
    }
    sources
}

/// From this line to the one that ends an item's head, as one line; what it ends with is left out.
fn head(lines: &[String]) -> String {
    let ends = |line: &&String| ["{", "}", ";"].iter().any(|end| line.ends_with(end));
    let count = 1 + lines.iter().take_while(|line| !ends(line)).count();
    let joined: Vec<_> = lines.iter().take(count).map(|line| line.trim()).collect();
    let joined = joined
        .join(" ")
        .replace("( ", "(")
        .replace(", )", ")")
        .replace(",)", ")")
        .replace("(mut ", "(");
    joined
        .trim_end_matches([' ', '{', '}', ';', ','])
        .to_owned()
}

/// The attributes right above this line that callers can notice.
fn attributes(lines: &[String], at: usize) -> String {
    let above = lines[..at].iter().rev().map(|line| line.trim());
    let noticed = ["#[cfg", "#[derive", "#[non_exhaustive", "#[must_use"];
    let above = above.take_while(|line| line.starts_with("#["));
    let mut above: Vec<_> = above
        .filter(|line| noticed.iter().any(|name| line.starts_with(name)))
        .collect();
    above.reverse();
    above.join(" ")
}

/// The name in `pub struct Name<…`, `impl<…> Trait for Name<…>` and the like.
fn name(text: &str) -> &str {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let text = text.trim_start_matches(['&', ' ']);
    text.split(|c| !is_part(c)).next().unwrap()
}

/// Variants of an enum, public fields of a struct, functions of a trait.
fn members(body: &[String], kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in body.iter().take_while(|line| *line != "}") {
        let text = line.trim();
        let is_outer = line.starts_with("    ") && !line.starts_with("     ");
        if is_outer && !text.starts_with('#') && open.is_none() {
            open = Some(String::new());
        }
        if let Some(member) = &mut open {
            // Inside, an attribute may stand before a field.
            let text = text.trim_start_matches('#').rsplit("] ").next().unwrap();
            if !member.is_empty() {
                *member += " ";
            }
            *member += text;
            if is_outer && (text.ends_with(',') || text.ends_with(';') || text.ends_with('}')) {
                found.push(
                    member
                        .trim_end_matches([',', ';', ' '])
                        .replace(", }", " }"),
                );
                open = None;
            }
        }
    }
    found.retain(|member| kind != "struct" || member.starts_with("pub "));
    found
}

/// One line for each thing that a caller can name or rely on.
fn interface() -> BTreeSet<String> {
    let sources = sources();
    let kinds = ["struct", "enum", "trait"];
    let mut types = HashSet::new();
    let mut found = BTreeSet::new();
    for lines in &sources {
        for (at, line) in lines.iter().enumerate() {
            let Some(item) = line.strip_prefix("pub ") else {
                continue;
            };
            let Some((kind, rest)) = item.split_once(' ') else {
                continue;
            };
            if kind == "use" {
                let names = head(&lines[at..]);
                let names = names
                    .rsplit("::")
                    .next()
                    .unwrap()
                    .trim_matches(['{', '}'])
                    .to_owned();
                let names = names
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty());
                found.extend(names.map(|name| format!("use {name}")));
                continue;
            }
            let attributes = attributes(lines, at);
            found.insert(
                format!("{} {attributes}", head(&lines[at..]))
                    .trim()
                    .to_owned(),
            );
            if kinds.contains(&kind) {
                let name = name(rest);
                types.insert(name);
                let opened = lines[at..]
                    .iter()
                    .take_while(|line| !line.ends_with(['{', ';']))
                    .count();
                let is_block = lines[at + opened].ends_with('{');
                let body = if is_block {
                    &lines[at + opened + 1..]
                } else {
                    &[]
                };
                let members = members(body, kind);
                found.extend(
                    members
                        .iter()
                        .map(|member| format!("{name}::{}", member.trim_start_matches("pub "))),
                );
            }
        }
    }
    for lines in &sources {
        for (at, _) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.trim().starts_with("impl"))
        {
            let header = head(&lines[at..]).replace("super::", "");
            let subject = header.rsplit_once(" for ").map(|(_, subject)| subject);
            if let Some(subject) = subject {
                if types.contains(name(subject)) || ["F", "io"].contains(&name(subject)) {
                    found.insert(
                        format!("{header} {}", attributes(lines, at))
                            .trim()
                            .to_owned(),
                    );
                }
                continue;
            }
            let body = lines[at..].iter().take_while(|line| *line != "}").count();
            for inner in at..at + body {
                if lines[inner].starts_with("    pub ") {
                    let method = head(&lines[inner..at + body]);
                    let attributes = attributes(lines, inner);
                    let method = method.trim_start_matches("pub ");
                    found.insert(format!("{header}: {method} {attributes}").trim().to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn the_interface_is_as_listed() {
    let found = interface();
    let lines: Vec<_> = found.iter().map(String::as_str).collect();
    if env::var_os("JACKPOT_LIST").is_some() {
        fs::write(root().join(LISTING), lines.join("\n") + "\n").unwrap();
    }
    let listed = fs::read_to_string(root().join(LISTING)).unwrap_or_default();
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let gone = listed.difference(&found).map(|line| format!("- {line}"));
    let new = found.difference(&listed).map(|line| format!("+ {line}"));
    let changes: Vec<_> = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public interface has changed; if it should, run JACKPOT_LIST=1 cargo test interface:\n{}",
        changes.join("\n")
    );
}

#[test]
fn the_interface_is_read_whole() {
    let found = interface();
    for line in [
        "use Pool",
        "Error::Full { stats: Box<Stats> }",
        "Stats::limit: usize",
        "Close::Hard",
        "impl<C: Send + 'static> Pool<C>: fn limit(&self) -> usize #[must_use]",
        "impl Read for &Stream",
        "impl Factory for Connector",
        "impl AsFd for Stream",
        "impl From<Error> for io::Error",
    ] {
        assert!(found.contains(line), "{line} is missing");
    }
}
