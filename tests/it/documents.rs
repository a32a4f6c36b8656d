//! What the documents link to is there, and is packed with them.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// README.md and the pages in docs/, with what they say.
fn pages() -> Vec<(PathBuf, String)> {
    let files = fs::read_dir(root().join("docs")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let pages = pages.chain([root().join("README.md")]);
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    pages.map(read).collect()
}

/// What a page links to outside its listings, but for other sites.
fn links(page: &str) -> Vec<&str> {
    let prose = page.split("```").step_by(2);
    let ends = prose.flat_map(|text| text.split("](").skip(1));
    let links = ends.filter_map(|text| text.split(')').next());
    links.filter(|link| !link.contains("://")).collect()
}

/// The anchors of a page's headings, as GitHub and rustdoc make them.
fn anchors(page: &str) -> Vec<String> {
    let prose = page.split("```").step_by(2);
    let headings = prose
        .flat_map(str::lines)
        .filter(|line| line.starts_with('#'));
    let plain = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let slug = |text: String| {
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().replace(' ', "-")
    };
    plain.map(slug).collect()
}

/// Whether Cargo.toml's list of what is packed has this path.
fn is_packed(path: &str) -> bool {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, list) = manifest.split_once("\ninclude = [\n").unwrap();
    let patterns = list
        .split("\n]")
        .next()
        .unwrap()
        .split('"')
        .skip(1)
        .step_by(2);
    let mut patterns = patterns.map(|pattern| pattern.trim_start_matches('/'));
    patterns.any(|pattern| match pattern.split_once('*') {
        Some((start, end)) => {
            let middle = path
                .strip_prefix(start)
                .and_then(|rest| rest.strip_suffix(end));
            middle.is_some_and(|middle| !middle.contains('/'))
        }
        None => path == pattern || path.starts_with(&format!("{pattern}/")),
    })
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut count = 0;
    for (path, page) in pages() {
        for link in links(&page) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let here = format!("{}: {link}", path.display());
            assert!(target.exists(), "{here}");
            let packed = target.strip_prefix(root()).unwrap().to_str().unwrap();
            let packed = packed.replace('\\', "/");
            assert!(is_packed(&packed), "not packed, {here}");
            if !anchor.is_empty() {
                let anchors = anchors(&fs::read_to_string(target).unwrap());
                assert!(anchors.iter().any(|name| name == anchor), "{here}");
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}
