//! `main.rs` stays thin, and links and paths in pages are valid.

use std::path::PathBuf;

use crate::sources::{SOURCES, root};

#[test]
fn main_stays_thin() {
    assert!(SOURCES["src/main.rs"].lines().count() < 60);
}

/// The targets of the links in a text: what follows each `](`, up to the closing parenthesis.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

/// The guides in `docs/`, and the pages outside it.
fn pages() -> impl Iterator<Item = PathBuf> {
    let guides = std::fs::read_dir(root().join("docs")).unwrap();
    let guides = guides.map(|entry| entry.unwrap().path());
    let guides = guides.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let pages = ["README.md", "benches/README.md"].map(|page| root().join(page));
    let later = ["CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root().join(page));
    guides
        .chain(pages)
        .chain(later.into_iter().filter(|page| page.exists()))
}

#[test]
fn links_between_pages_are_valid() {
    let mut followed = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !place.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|heading| anchor(heading) == place),
                    "{}: {link}",
                    page.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed}");
}

/// Folders whose files pages name in code spans.
const FOLDERS: [&str; 8] = [
    "benches/",
    "crates/",
    "docs/",
    "examples/",
    "scripts/",
    "src/",
    "stages/",
    "tests/",
];

/// The paths in a text's code spans, without patterns and placeholders such as `crates/NAME/src`.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let words = spans.filter_map(|span| span.split_whitespace().next());
    let paths = words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
    paths.filter(|path| !path.contains(['*', '{']) && !path.contains("NAME"))
}

#[test]
fn paths_in_pages_exist() {
    let mut seen = 0;
    // The change log names files of its time.
    for page in pages().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = std::fs::read_to_string(&page).unwrap();
        for path in paths(&text) {
            assert!(root().join(path).exists(), "{}: {path}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}
